"""What a card's `where`, `map` and left-over columns make of a table of labels."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from consilia.data.sources.card import list_images
from consilia.data.store.prepare import prepare
from consilia.errors import DataError
from data_tables import balanced, card_of, row, write_table


def listed(folder: Path, rows, *, columns=(), source=(), **fields):
    extra = tuple(dict.fromkeys(name for entry in rows for name in entry))
    write_table(folder, rows, columns=extra, images=False)
    card = card_of(folder, columns=dict(columns), **fields)
    return list_images(card.model_copy(update={"source": card.source.model_copy(update=dict(source))}))


def refused(*args, **fields) -> str:
    with pytest.raises(DataError) as caught:
        listed(*args, **fields)
    return str(caught.value)


def viewed() -> list[dict[str, str]]:
    return [entry | {"site": "AB"[i % 2], "age": str(20 + i)} for i, entry in enumerate(balanced())]


class TestExtra:
    def test_columns_without_a_meaning_are_kept_as_text(self, tmp_path):
        table = listed(tmp_path, viewed())
        assert dict(table.extra) == {
            "split": ("",) * 24,
            "site": ("A", "B") * 12,
            "age": tuple(str(20 + i) for i in range(24)),
        }

    def test_they_reach_the_index_of_the_store(self, tmp_path):
        rows = viewed()
        folder = write_table(tmp_path / "made", rows, columns=tuple(rows[0]))
        store = prepare(card_of(folder), root=tmp_path / "stores")
        assert store.index["meta_site"].tolist() == ["A", "B"] * 12
        assert store.index["meta_age"].tolist() == [str(20 + i) for i in range(24)]


class TestWhere:
    def test_rows_that_are_not_selected_are_left_out_and_counted(self, tmp_path):
        table = listed(tmp_path, viewed(), source={"where": {"site": "A", "age": {"max": 39}}})
        assert table.files == tuple(f"{i:03d}.png" for i in range(0, 20, 2))
        assert [(each.reason, each.count) for each in table.left_out] == [("where: {site: A, age: {max: 39}}", 14)]

    def test_conditions_that_all_rows_meet_leave_nothing_out(self, tmp_path):
        assert listed(tmp_path, viewed(), source={"where": {"age": {"min": 0}}}).left_out == ()

    def test_rows_keep_their_numbers(self, tmp_path):
        rows = viewed()
        rows[20]["patient"] = ""
        assert "row 22" in refused(tmp_path, rows, source={"where": {"age": {"min": 38}}})

    def test_what_is_left_out_may_be_unusable(self, tmp_path):
        rows = viewed()
        rows[0] |= {"label": "", "patient": "", "path": "/x"}
        assert len(listed(tmp_path, rows, source={"where": {"age": {"min": 21}}})) == 23

    def test_a_class_that_it_empties_is_an_error(self, tmp_path):
        message = refused(tmp_path, viewed(), source={"where": {"label": "a"}}, classes=["a", "b"])
        assert "class 'b' has no images" in message


VIEWS = {"PA": "frontal", "L": "lateral", "AP": "frontal"}


class TestMap:
    rows = (row(0, "PA", "1"), row(1, "AP", "2"), row(2, "L", "3"), row(3, "PA", "4"))

    def test_labels_become_classes_in_the_order_of_the_map(self, tmp_path):
        table = listed(tmp_path, self.rows, source={"map": VIEWS})
        assert table.classes == ("frontal", "lateral")
        assert table.labels.tolist() == [0, 0, 1, 0]

    def test_classes_of_the_card_set_another_order(self, tmp_path):
        table = listed(tmp_path, self.rows, source={"map": VIEWS}, classes=["lateral", "frontal"])
        assert table.labels.tolist() == [1, 1, 0, 1]

    def test_a_value_that_it_does_not_name_is_an_error_with_row_and_near_match(self, tmp_path):
        rows = [*self.rows, row(4, "PAx", "5")]
        message = refused(tmp_path, rows, source={"map": VIEWS})
        assert all(part in message for part in ("row 6", "'PAx'", "did you mean 'PA'", "where"))

    def test_the_empty_label_is_still_missing(self, tmp_path):
        assert "label is missing" in refused(tmp_path, [*self.rows, row(4, "", "5")], source={"map": VIEWS})

    def test_a_class_that_is_not_one_of_the_card_s_is_named(self, tmp_path):
        message = refused(tmp_path, self.rows, source={"map": VIEWS}, classes=["frontal", "side"])
        assert "'lateral' is not one of the classes" in message


class TestParquet:
    def card(self, folder: Path):
        card = card_of(folder)
        return card.model_copy(update={"source": card.source.model_copy(update={"table": "t.parquet"})})

    def test_a_patient_that_is_no_number_is_missing_and_not_called_nan(self, tmp_path):
        columns = {"path": ["a", "b", "c"], "label": ["x", "y", "x"], "patient": pa.array([1.0, float("nan"), None])}
        pq.write_table(pa.table(columns), tmp_path / "t.parquet")
        with pytest.raises(DataError, match=r"row 3 .*patient is missing"):
            list_images(self.card(tmp_path))

    def test_two_columns_of_one_name_are_refused(self, tmp_path):
        names = ["path", "label", "patient", "label"]
        pq.write_table(pa.Table.from_arrays([pa.array(["x"])] * 4, names), tmp_path / "t.parquet")
        with pytest.raises(DataError, match="'label' stands there twice"):
            list_images(self.card(tmp_path))
