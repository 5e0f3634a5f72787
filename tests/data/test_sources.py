"""What is listed, in which order, and what is refused by the name of its file, row, column or class."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from consilia.config.card import DataCard
from consilia.data.sources.card import list_images
from consilia.errors import DataError
from data_tables import COLUMNS, balanced, card_of, row, write_table

SPLIT = {"split": "split"}


def listed(rows, folder: Path, **fields):
    return list_images(card_of(write_table(folder, rows, images=False), **fields))


def refused(card: DataCard) -> str:
    with pytest.raises(DataError) as caught:
        list_images(card)
    return str(caught.value)


def refused_rows(rows, folder: Path, **fields) -> str:
    return refused(card_of(write_table(folder, rows, images=False), **fields))


class TestTable:
    def test_rows_keep_their_order_and_cells_stay_text(self, tmp_path):
        rows = [row(3, "b", "007"), row(1, "a", "7"), row(2, "b", "1e3"), row(0, "a", "NA")]
        table = listed(rows, tmp_path)
        assert table.files == ("003.png", "001.png", "002.png", "000.png")
        assert table.patients == ("007", "7", "1e3", "NA")
        assert table.classes == ("a", "b")
        assert table.labels.tolist() == [1, 0, 1, 0]
        assert table.splits == ("", "", "", "")

    def test_parquet_reads_as_the_csv_of_the_same_text(self, tmp_path):
        rows = balanced()
        from_csv = listed(rows, tmp_path)
        pd.DataFrame(rows).to_parquet(tmp_path / "t.parquet")
        source = {"kind": "table", "table": "t.parquet", "columns": {"patient": "patient"}}
        from_parquet = list_images(card_of(tmp_path).model_copy(update={"source": _source(source)}))
        assert from_parquet.files == from_csv.files
        assert from_parquet.patients == from_csv.patients
        assert np.array_equal(from_parquet.labels, from_csv.labels)

    def test_whole_numbers_of_parquet_become_their_digits(self, tmp_path):
        frame = pd.DataFrame({"path": ["1.png", "2.png"], "label": [0, 1], "patient": [7, 10]})
        frame.to_parquet(tmp_path / "t.parquet")
        source = {"kind": "table", "table": "t.parquet", "columns": {"patient": "patient"}}
        table = list_images(card_of(tmp_path).model_copy(update={"source": _source(source)}))
        assert table.patients == ("7", "10")
        assert table.classes == ("0", "1")

    def test_classes_of_the_card_set_the_label_order(self, tmp_path):
        table = listed([row(0, "a", "1"), row(1, "b", "2")], tmp_path, classes=["b", "a"])
        assert table.labels.tolist() == [1, 0]

    def test_without_patients_each_image_is_its_own(self, tmp_path):
        table = listed(balanced(patients=2, images=3), tmp_path, group="none")
        assert table.patients == ("0", "1", "2", "3", "4", "5")
        assert not table.has_patients

    def test_quotes_blank_lines_a_byte_order_mark_and_spaces_are_understood(self, tmp_path):
        text = '\ufeffpath, label ,patient\r\n"x, y.png", a ,1\r\n\r\nb.png,"line\nbreak",2\r\n'
        (tmp_path / "metadata.csv").write_bytes(text.encode())
        table = list_images(card_of(tmp_path))
        assert table.files == ("x, y.png", "b.png")
        assert table.classes == ("a", "line\nbreak")

    def test_the_images_folder_stands_before_the_path(self, tmp_path):
        (tmp_path / "pictures").mkdir()
        write_table(tmp_path, balanced(), images=False)
        source = {"kind": "table", "images": "pictures", "columns": {"patient": "patient"}}
        table = list_images(card_of(tmp_path).model_copy(update={"source": _source(source)}))
        assert table.files[0] == "pictures/000.png"

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"label": ""}, ["row 4", "label is missing"]),
            ({"label": "  "}, ["row 4", "label is missing"]),
            ({"patient": ""}, ["row 4", "patient is missing", "group: none"]),
            ({"split": "tset"}, ["row 4", "train, val or test", "'tset'", "did you mean 'test'"]),
            ({"split": "validation"}, ["row 4", "'validation'"]),
            ({"split": ""}, ["row 4", "'split' is empty"]),
            ({"path": ""}, ["row 4", "'path' is empty"]),
            ({"path": "000.png"}, ["row 4", "000.png", "row 2"]),
            ({"path": "./000.png"}, ["row 4", "000.png", "row 2"]),
            ({"path": "../x.png"}, ["row 4", "'../x.png'", "below the images folder"]),
            ({"path": "a/../../x.png"}, ["row 4", "below the images folder"]),
            ({"path": "/etc/x.png"}, ["row 4", "'/etc/x.png'", "below the images folder"]),
            ({"path": "C:\\x.png"}, ["row 4", "below the images folder"]),
        ],
    )
    def test_a_bad_cell_is_named_by_its_row(self, tmp_path, change, says):
        rows = [entry | {"split": "train"} for entry in balanced()]
        rows[2] |= change
        message = refused_rows(rows, tmp_path, columns=SPLIT)
        assert all(part in message for part in [*says, str(tmp_path / "metadata.csv")])

    def test_a_label_outside_the_classes_names_row_and_near_match(self, tmp_path):
        rows = [row(0, "clear", "1"), row(1, "nodule", "2"), row(2, "noduel", "3")]
        message = refused_rows(rows, tmp_path, classes=["clear", "nodule"])
        assert "row 4" in message
        assert "did you mean 'nodule'" in message

    @pytest.mark.parametrize("key", ["path", "label", "patient", "split"])
    def test_an_absent_column_names_the_nearest_one_and_the_key(self, tmp_path, key):
        write_table(tmp_path, balanced(), images=False)
        message = refused(card_of(tmp_path, columns=SPLIT | {key: f"{key}s"}))
        assert f"no column '{key}s' (did you mean '{key}'?)" in message
        assert f"source.columns.{key}" in message
        assert str(list(COLUMNS)) in message

    def test_one_class_only_is_named(self, tmp_path):
        assert "only 'a'" in refused_rows([row(0, "a", "1"), row(1, "a", "2")], tmp_path)

    def test_a_class_of_the_card_without_images_is_named(self, tmp_path):
        assert "'c' has no images" in refused_rows(balanced(), tmp_path, classes=["a", "b", "c"])

    def test_a_class_in_test_that_is_not_in_train_is_named(self, tmp_path):
        rows = [entry | {"split": "train"} for entry in balanced()] + [row(99, "rare", "99", "test")]
        message = refused_rows(rows, tmp_path, columns=SPLIT)
        assert "class 'rare' has 1 test images but none to train on" in message

    def test_a_patient_on_both_sides_of_the_test_split_is_listed_so_that_an_audit_can_show_it(self, tmp_path):
        rows = [entry | {"split": "test"} for entry in balanced()]
        rows += [row(90, "a", "003", "train"), row(91, "b", "x", "train")]
        table = listed(rows, tmp_path, columns=SPLIT)
        assert {s for p, s in zip(table.patients, table.splits, strict=True) if p == "003"} == {"test", "train"}

    def test_a_patient_in_train_and_val_is_no_leak(self, tmp_path):
        rows = [entry | {"split": ("train", "val")[i % 2]} for i, entry in enumerate(balanced())]
        assert len(listed(rows, tmp_path, columns=SPLIT)) == len(rows)

    def test_grouping_without_a_column_and_a_column_without_grouping_are_refused(self, tmp_path):
        write_table(tmp_path, balanced(), images=False)
        assert "source.columns.patient" in refused(card_of(tmp_path, columns={"patient": None}))
        card = card_of(tmp_path).model_copy(update={"group": "none"})
        assert "'patient'" in refused(card)

    def test_a_table_that_is_not_utf8_names_its_row(self, tmp_path):
        text = "path,label,patient\na.png,a,1\nb.png,Schädel,2\n"
        (tmp_path / "metadata.csv").write_bytes(text.encode("latin-1"))
        message = refused(card_of(tmp_path))
        assert "metadata.csv, row 3" in message
        assert "UTF-8" in message

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("", "is empty"),
            ("path,label,patient\n", "holds no images"),
            ("path,label,patient\na.png,a\n", "row 2: the header has 3 columns, but this row has 2"),
            ("path,label,patient\na.png,a,1,9\n", "row 2: the header has 3 columns, but this row has 4"),
            ("path,label,label\na.png,a,1\n", "'label' stands there twice"),
            ("path;label;patient\na.png;a;1\n", "no column 'path'"),
            ('path,label,patient\n"a.png,a,1\n', "row 2: not a valid CSV row"),
        ],
    )
    def test_a_malformed_table_says_where(self, tmp_path, text, says):
        (tmp_path / "metadata.csv").write_text(text)
        message = refused(card_of(tmp_path))
        assert says in message
        assert "metadata.csv" in message

    def test_a_file_that_is_no_parquet_is_named(self, tmp_path):
        (tmp_path / "t.parquet").write_bytes(b"PAR1 but not really")
        source = {"kind": "table", "table": "t.parquet", "columns": {"patient": "patient"}}
        assert "t.parquet" in refused(card_of(tmp_path).model_copy(update={"source": _source(source)}))

    def test_an_absent_table_or_images_folder_is_named(self, tmp_path):
        assert "metadata.csv does not exist" in refused(card_of(tmp_path))
        write_table(tmp_path, balanced(), images=False)
        source = {"kind": "table", "images": "gone", "columns": {"patient": "patient"}}
        message = refused(card_of(tmp_path).model_copy(update={"source": _source(source)}))
        assert "gone does not exist" in message


def _source(source):
    return DataCard.model_validate({"name": "x", "source": source}).source


def folder_card(path: Path, **fields) -> DataCard:
    return DataCard.model_validate(
        {"name": "folders", "path": str(path), "source": {"kind": "folder"}, "group": "none"} | fields
    )


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


class TestFolders:
    def test_a_folder_is_a_class_and_names_sort(self, tmp_path):
        touch(tmp_path, "b/2.png", "b/1.png", "a/3.jpg", "README.txt", "a/.hidden", ".git/x.png")
        table = list_images(folder_card(tmp_path))
        assert table.files == ("a/3.jpg", "b/1.png", "b/2.png")
        assert table.classes == ("a", "b")
        assert table.labels.tolist() == [0, 1, 1]

    def test_splits_may_stand_above_the_classes(self, tmp_path):
        touch(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/1.png", "val/b/1.png")
        table = list_images(folder_card(tmp_path))
        assert dict(zip(table.files, table.splits, strict=True)) == {
            "test/a/1.png": "test",
            "train/a/1.png": "train",
            "train/b/1.png": "train",
            "val/b/1.png": "val",
        }

    def test_a_foreign_file_is_listed_so_that_it_cannot_vanish(self, tmp_path):
        touch(tmp_path, "a/1.png", "b/1.png", "b/scan.dcm")
        assert "b/scan.dcm" in list_images(folder_card(tmp_path)).files

    @pytest.mark.parametrize(
        ("names", "says"),
        [
            (["README.txt"], "holds no images"),
            (["a/1.png"], "only 'a'"),
            (["a/1.png", "b/.hidden"], "'b' is empty"),
            (["a/1.png", "b/1.png", "stray.PNG"], "stray.PNG: an image must lie in the folder of its class"),
            (["a/1.png", "b/p1/1.png"], "b/p1: images must lie directly"),
            (["train/a/1.png", "train/b/1.png", "valid/a/1.png"], "'valid' (did you mean 'val'?)"),
            (["train/a/1.png", "train/b/1.png", "test/c/1.png"], "class 'c' has 1 test images but none"),
        ],
    )
    def test_a_wrong_layout_says_what_and_where(self, tmp_path, names, says):
        touch(tmp_path, *names)
        message = refused(folder_card(tmp_path))
        assert says in message
        assert str(tmp_path) in message

    def test_folders_cannot_group_by_patient(self, tmp_path):
        touch(tmp_path, "a/1.png", "b/1.png")
        assert "group: none" in refused(folder_card(tmp_path, group="patient"))


def npz_card(path: Path | None, **fields) -> DataCard:
    return DataCard.model_validate(
        {
            "name": "archive",
            "path": path and str(path),
            "homepage": "https://example.org/archive",
            "source": {"kind": "npz", "file": "archive_28.npz"},
            "group": "none",
            "size": 8,
        }
        | fields
    )


def arrays(**counts: int) -> dict[str, np.ndarray]:
    content: dict[str, np.ndarray] = {}
    for split, count in counts.items():
        content[f"{split}_images"] = np.zeros((count, 8, 8), np.uint8)
        content[f"{split}_labels"] = (np.arange(count) % 2).astype(np.uint8)[:, None]
    return content


def archive(folder: Path, content) -> Path:
    np.savez(folder / "archive_28.npz", **content)
    return folder / "archive_28.npz"


class TestNpz:
    def test_splits_come_in_order_whatever_their_order_in_the_file(self, tmp_path):
        table = list_images(npz_card(archive(tmp_path, arrays(test=2, train=3))))
        assert table.splits == ("train", "train", "train", "test", "test")
        assert table.files[3] == "test_images[0]"
        assert table.classes == ("0", "1")
        assert table.labels.tolist() == [0, 1, 0, 0, 1]

    def test_the_folder_of_the_archive_will_do(self, tmp_path):
        path = archive(tmp_path, arrays(train=4))
        assert list_images(npz_card(tmp_path)).root == path

    def test_flat_labels_equal_a_column_of_labels(self, tmp_path):
        content = arrays(train=5)
        from_column = list_images(npz_card(archive(tmp_path, content)))
        flat = list_images(npz_card(archive(tmp_path, content | {"train_labels": np.arange(5) % 2})))
        assert np.array_equal(flat.labels, from_column.labels)

    def test_numbers_sort_as_numbers(self, tmp_path):
        content = arrays(train=4) | {"train_labels": np.array([10, 9, 2, 10])}
        table = list_images(npz_card(archive(tmp_path, content)))
        assert table.classes == ("2", "9", "10")
        assert table.labels.tolist() == [2, 1, 0, 2]

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"train_labels": np.zeros((4, 3), int)}, r"train_labels must be .*\(4, 3\).*multilabel: any"),
            ({"train_labels": np.zeros(4)}, "train_labels must be whole numbers.*float64"),
            ({"train_labels": np.zeros(3, int)}, "train_images holds 4 images, but train_labels 3"),
            ({"train_labels": np.array([0, 1, 0, 7])}, r"train_images\[3\]: label '7' is not one of"),
            ({"train_labels": np.zeros(4, int)}, "class 'two' has no images"),
            ({"train_labels": np.array([{}] * 4)}, "train_labels cannot be read"),
            ({"train_images": np.zeros((4, 8, 8))}, "train_images must be uint8.*float64"),
            ({"train_images": np.zeros((4, 8, 8, 2), np.uint8)}, r"train_images must be .*\(4, 8, 8, 2\)"),
            ({"val_images": np.zeros((1, 8, 8), np.uint8)}, "val_images but no val_labels"),
            ({"valid_images": np.zeros((1, 8, 8), np.uint8)}, "valid_images"),
            ({"test_images": np.zeros((1, 8, 8), np.uint8), "test_labels": np.array([2])}, "label '2'"),
        ],
    )
    def test_arrays_that_do_not_fit_are_named(self, tmp_path, change, says):
        path = archive(tmp_path, arrays(train=4) | change)
        with pytest.raises(DataError, match=says) as caught:
            list_images(npz_card(path, classes=["one", "two"]))
        assert str(path) in str(caught.value)

    def test_foreign_keys_and_foreign_files_are_refused(self, tmp_path):
        assert "['x']" in refused(npz_card(archive(tmp_path, {"x": np.zeros(3)})))
        (tmp_path / "archive_28.npz").write_bytes(b"PK but not really")
        assert "archive_28.npz is not an .npz archive" in refused(npz_card(tmp_path))

    def test_the_edition_of_the_card_s_size_is_taken_from_a_folder(self, tmp_path):
        small = archive(tmp_path, arrays(train=4))
        large = arrays(train=4) | {"train_images": np.zeros((4, 16, 16), np.uint8)}
        np.savez(tmp_path / "archive_28_16.npz", **large)
        assert list_images(npz_card(tmp_path, size=16)).root == tmp_path / "archive_28_16.npz"
        assert list_images(npz_card(tmp_path, size=8)).root == small

    @pytest.mark.parametrize("size", [8, 32])
    def test_another_size_than_the_archive_s_must_be_meant(self, tmp_path, size):
        path = archive(tmp_path, arrays(train=4) | {"train_images": np.zeros((4, 16, 12), np.uint8)})
        message = refused(npz_card(path, size=size))
        for part in ("16 x 12", f"stores {size}", "--set size=16", "--set source.resize=true"):
            assert part in message
        source = {"kind": "npz", "file": "archive_28.npz", "resize": True}
        assert len(list_images(npz_card(path, size=size, source=source))) == 4

    def test_any_of_several_findings_is_one_class_and_none_of_them_the_other(self, tmp_path):
        findings = np.array([[0, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 1]])
        path = archive(tmp_path, arrays(train=4) | {"train_labels": findings})
        source = {"kind": "npz", "file": "archive_28.npz", "multilabel": "any"}
        table = list_images(npz_card(path, source=source, classes=["none", "any"]))
        assert table.labels.tolist() == [0, 1, 1, 1]
        assert table.classes == ("none", "any")

    @pytest.mark.parametrize("labels", [np.zeros((4, 1), int), np.array([[0, 2]] * 4), np.zeros((4, 2))])
    def test_findings_that_are_not_0_and_1_are_refused(self, tmp_path, labels):
        path = archive(tmp_path, arrays(train=4) | {"train_labels": labels})
        source = {"kind": "npz", "file": "archive_28.npz", "multilabel": "any"}
        assert "train_labels must be 0 and 1" in refused(npz_card(path, source=source))

    def test_a_rule_for_frames_that_an_archive_has_not_is_refused(self, tmp_path):
        assert "frames: each" in refused(npz_card(archive(tmp_path, arrays(train=4)), frames="each"))

    def test_an_archive_cannot_group_by_patient(self, tmp_path):
        assert "group: none" in refused(npz_card(archive(tmp_path, arrays(train=4)), group="patient"))


@pytest.mark.parametrize("path", [None, "/no/such/place.npz"])
def test_a_missing_path_says_where_the_data_comes_from_and_how_to_set_it(path):
    message = refused(npz_card(path and Path(path)))
    for part in ("https://example.org/archive", "archive_28.npz", "--set path=FILE", "--set data.path=FILE"):
        assert part in message


def test_a_file_for_a_folder_and_a_folder_for_a_file_are_told_apart(tmp_path):
    (tmp_path / "file").touch()
    assert "is a file" in refused(folder_card(tmp_path / "file"))
    (tmp_path / "archive_28.npz").mkdir()
    assert "is a folder" in refused(npz_card(tmp_path))
