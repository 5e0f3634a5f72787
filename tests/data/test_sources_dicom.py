"""DICOM folders are joined to their labels, and no file, row or patient is lost or merged on the way."""

import csv
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import generate_uid

from consilia.config.card import DataCard
from consilia.config.frozen import validate
from consilia.data.dicom.header import read_tags
from consilia.data.sources import file_facts
from consilia.data.sources.card import list_images
from consilia.data.store.prepare import prepare
from consilia.errors import DataError, PlanError
from dicom_files import write_ct
from series_files import write_series

FLAT = np.arange(64, dtype=np.int16).reshape(8, 8)


def dicom_card(path: Path, *, source=(), columns=(), **fields) -> DataCard:
    settings = {"kind": "dicom", "join": "path", "columns": {"key": "key"} | dict(columns)} | dict(source)
    return DataCard.model_validate(
        {"name": "scans", "path": str(path), "source": settings, "size": 8, "window": {"kind": "percentiles"}} | fields
    )


def write_labels(folder: Path, rows, name: str = "labels.csv") -> None:
    with (folder / name).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("key", "label"), *rows])


def write_four(folder: Path, **tags) -> list[str]:
    """Write four files of four patients in two folders; the first has no suffix."""
    files = ["s1/IM1", "s1/2.dcm", "s2/3.dcm", "s2/4.dcm"]
    for number, file in enumerate(files):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        write_ct(folder / file, FLAT + number, PatientID=f"00{number}", **tags)
    return files


def identifiers(folder: Path, files, keyword: str) -> list[str]:
    return [read_tags(folder / file)[keyword] for file in files]


def refused(card: DataCard) -> str:
    with pytest.raises(DataError) as caught:
        list_images(card)
    return str(caught.value)


class TestJoin:
    def test_by_path_in_the_order_of_the_sorted_paths(self, tmp_path):
        files = write_four(tmp_path)
        write_labels(tmp_path, zip(files, "abab", strict=True))
        table = list_images(dicom_card(tmp_path))
        assert table.files == tuple(sorted(files))
        assert dict(zip(table.files, table.labels.tolist(), strict=True)) == dict(zip(files, [0, 1, 0, 1], strict=True))
        assert dict(zip(table.files, table.patients, strict=True)) == {f: f"00{i}" for i, f in enumerate(files)}

    @pytest.mark.parametrize("keyword", ["SOPInstanceUID", "PatientID"])
    def test_by_an_identifier_of_the_file(self, tmp_path, keyword):
        files = write_four(tmp_path)
        write_labels(tmp_path, zip(identifiers(tmp_path, files, keyword), "abab", strict=True))
        table = list_images(dicom_card(tmp_path, source={"join": keyword}))
        assert dict(zip(table.files, table.labels.tolist(), strict=True)) == dict(zip(files, [0, 1, 0, 1], strict=True))

    @pytest.mark.parametrize("keyword", ["SeriesInstanceUID", "StudyInstanceUID"])
    def test_one_row_may_name_several_files(self, tmp_path, keyword):
        uids = [str(generate_uid()) for _ in "ab"]
        for number in range(4):
            write_ct(tmp_path / f"{number}.dcm", FLAT, PatientID=f"p{number}", **{keyword: uids[number % 2]})
        write_labels(tmp_path, zip(uids, "ab", strict=True))
        table = list_images(dicom_card(tmp_path, source={"join": keyword}))
        assert table.labels.tolist() == [0, 1, 0, 1]

    def test_below_the_images_folder(self, tmp_path):
        files = write_four(tmp_path / "scans")
        write_labels(tmp_path, zip(files, "abab", strict=True))
        table = list_images(dicom_card(tmp_path, source={"images": "scans"}))
        assert table.files[0] == "scans/s1/2.dcm"

    def test_dot_files_dicomdir_and_the_table_are_no_images(self, tmp_path):
        files = write_four(tmp_path)
        for name in (".DS_Store", "DICOMDIR", ".git/x"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("x")
        write_labels(tmp_path, zip(files, "abab", strict=True))
        table = list_images(dicom_card(tmp_path))
        assert len(table) == 4
        assert table.unreadable == ()

    def test_linked_folders_are_searched_once(self, tmp_path):
        files = write_four(tmp_path / "elsewhere")
        (tmp_path / "here").mkdir()
        (tmp_path / "here" / "link").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "here")
        write_labels(tmp_path / "here", [(f"link/{file}", "ab"[i % 2]) for i, file in enumerate(files)])
        assert len(list_images(dicom_card(tmp_path / "here"))) == 4

    def test_processes_read_what_one_reads(self, tmp_path, monkeypatch):
        files = write_four(tmp_path)
        write_labels(tmp_path, zip(files, "abab", strict=True))
        alone = list_images(dicom_card(tmp_path))
        monkeypatch.setattr(file_facts, "_IN_PROCESS", 2)
        assert list_images(dicom_card(tmp_path)).patients == alone.patients


class TestRowsAndFiles:
    def test_a_key_that_stands_twice_is_named_with_both_rows(self, tmp_path):
        files = write_four(tmp_path)
        write_labels(tmp_path, [*zip(files, "abab", strict=True), (f"./{files[1]}", "a")])
        message = refused(dicom_card(tmp_path))
        assert all(part in message for part in ("row 6", "row 3", "s1/2.dcm"))

    def test_a_row_that_names_no_file_is_named_with_its_key(self, tmp_path):
        files = write_four(tmp_path)
        write_labels(tmp_path, [*zip(files, "abab", strict=True), ("s2/5.dcm", "a")])
        message = refused(dicom_card(tmp_path))
        assert all(part in message for part in ("1 rows name no file", "row 6: s2/5.dcm", "did you mean", "where"))

    def test_rows_beyond_twenty_are_counted(self, tmp_path):
        files = write_four(tmp_path)
        write_labels(tmp_path, [*zip(files, "abab", strict=True), *((f"x{i}", "a") for i in range(25))])
        message = refused(dicom_card(tmp_path))
        assert "25 rows name no file" in message
        assert "... and 5 more" in message

    def test_files_that_no_row_names_are_an_error_or_counted(self, tmp_path):
        files = write_four(tmp_path)
        write_ct(tmp_path / "s1" / "5.dcm", FLAT)
        for join, keys in (("path", files), ("SOPInstanceUID", identifiers(tmp_path, files, "SOPInstanceUID"))):
            write_labels(tmp_path, zip(keys, "abab", strict=True))
            message = refused(dicom_card(tmp_path, source={"join": join}))
            assert all(part in message for part in ("1 of 5 DICOM files", "s1/5.dcm", "unlabelled: leave_out"))
            table = list_images(dicom_card(tmp_path, source={"join": join, "unlabelled": "leave_out"}))
            assert len(table) == 4
            assert [(each.reason, each.count) for each in table.left_out] == [
                ("files that no row of labels.csv names", 1)
            ]

    @pytest.mark.parametrize("join", ["path", "PatientID"])
    def test_files_of_rows_that_where_leaves_out_are_labelled_all_the_same(self, tmp_path, join):
        files = write_four(tmp_path)
        keys = files if join == "path" else ["000", "001", "002", "003"]
        write_labels(tmp_path, [*zip(keys[:3], "abx", strict=True), (keys[3], "a")])
        table = list_images(dicom_card(tmp_path, source={"join": join, "where": {"label": {"not": "x"}}}))
        assert "s2/3.dcm" not in table.files
        assert [(each.reason, each.count) for each in table.left_out] == [
            ("where: {label: {not: x}}", 1),
            ("files whose row of labels.csv `where` leaves out", 1),
        ]

    def test_two_files_of_one_instance_are_refused(self, tmp_path):
        files = write_four(tmp_path)
        write_labels(tmp_path, zip(identifiers(tmp_path, files, "SOPInstanceUID"), "abab", strict=True))
        (tmp_path / "copy.dcm").write_bytes((tmp_path / files[0]).read_bytes())
        message = refused(dicom_card(tmp_path, source={"join": "SOPInstanceUID"}))
        assert all(part in message for part in ("copy.dcm", "s1/IM1", "SOPInstanceUID"))

    @pytest.mark.parametrize("join", ["path", "SOPInstanceUID", "PatientID"])
    def test_what_is_no_readable_dicom_ends_in_the_quarantine(self, tmp_path, join):
        files = write_four(tmp_path)
        keys = files if join == "path" else identifiers(tmp_path, files, join)
        write_labels(tmp_path, zip(keys, "abab", strict=True))
        (tmp_path / files[2]).write_bytes(b"")
        (tmp_path / "README.txt").write_text("about")
        store = prepare(dicom_card(tmp_path, source={"join": join}, max_bad=0.9), root=tmp_path.parent / "stores")
        bad = [each.file for each in store.manifest.quarantine]
        assert store.index["file"].tolist() == ["s1/2.dcm", "s1/IM1", "s2/4.dcm"]
        assert bad[:2] == ["README.txt", "s2/3.dcm"]
        assert bad[2:] == ([] if join == "path" else ["labels.csv, row 4"])  # whose file is one of the two

    def test_a_folder_without_any_readable_file_says_why(self, tmp_path):
        (tmp_path / "a.dcm").write_bytes(b"no DICOM")
        write_labels(tmp_path, [("a.dcm", "a")])
        assert "none of 1 files can be read" in refused(dicom_card(tmp_path))

    def test_absent_places_are_named(self, tmp_path):
        assert "labels.csv does not exist" in refused(dicom_card(tmp_path))
        write_labels(tmp_path, [("a", "a")])
        assert "source.images" in refused(dicom_card(tmp_path, source={"images": "gone"}))
        assert "source.images" in refused(dicom_card(tmp_path, source={"images": "/"}))


class TestPatients:
    def test_from_a_column(self, tmp_path):
        files = write_four(tmp_path)
        rows = [f"{file},{'ab'[i % 2]},x{i}" for i, file in enumerate(files)]
        (tmp_path / "labels.csv").write_text("\n".join(["key,label,who", *rows]))
        table = list_images(dicom_card(tmp_path, columns={"patient": "who"}))
        assert table.patients == ("x1", "x0", "x2", "x3")
        assert table.extra == {}

    def test_from_the_study(self, tmp_path):
        uid = str(generate_uid())
        files = write_four(tmp_path, StudyInstanceUID=uid)
        write_labels(tmp_path, zip(files, "abab", strict=True))
        table = list_images(dicom_card(tmp_path, source={"patient_tag": "StudyInstanceUID"}))
        assert set(table.patients) == {uid}

    def test_nobody_s_where_the_card_says_so(self, tmp_path):
        files = write_four(tmp_path)
        write_labels(tmp_path, zip(files, "abab", strict=True))
        assert list_images(dicom_card(tmp_path, group="none")).patients == ("0", "1", "2", "3")

    def test_an_absent_one_is_an_error_and_no_patient_of_its_own(self, tmp_path):
        files = write_four(tmp_path)
        write_ct(tmp_path / files[3], FLAT, PatientID="")
        write_labels(tmp_path, zip(files, "abab", strict=True))
        message = refused(dicom_card(tmp_path))
        assert all(part in message for part in ("s2/4.dcm", "PatientID is absent or empty", "source.columns.patient"))

    @pytest.mark.parametrize(
        ("fields", "says"),
        [
            ({"columns": {"patient": "who"}, "source": {"patient_tag": "PatientID"}}, "both set"),
            ({"columns": {"patient": "who"}, "group": "none"}, "would ignore the patient column"),
            ({"source": {"patient_tag": "PatientID"}, "group": "none"}, "would ignore the patients of the tag"),
        ],
    )
    def test_two_answers_are_refused(self, tmp_path, fields, says):
        write_labels(tmp_path, [])
        assert says in refused(dicom_card(tmp_path, **fields))


class TestFrames:
    def test_each_frame_of_a_file_is_an_image_of_its_patient(self, tmp_path):
        files = write_four(tmp_path)
        write_ct(tmp_path / files[1], np.stack([FLAT, FLAT + 1, FLAT + 2]), PatientID="001")
        write_labels(tmp_path, zip(files, "abab", strict=True))
        table = list_images(dicom_card(tmp_path, frames="each"))
        assert table.files == ("s1/2.dcm",) * 3 + ("s1/IM1", "s2/3.dcm", "s2/4.dcm")
        assert table.frames == (0, 1, 2, None, None, None)
        assert table.patients == ("001",) * 3 + ("000", "002", "003")
        assert table.labels.tolist() == [1, 1, 1, 0, 0, 1]


def series_card(path: Path, **fields) -> DataCard:
    return dicom_card(path, source={"join": "SeriesInstanceUID", "unit": "series"}, **fields)


class TestSeries:
    def four(self, folder: Path) -> None:
        slices = [FLAT + number for number in range(4)]
        uids = [write_series(folder / f"p{i}", slices, PatientID=f"p{i}") for i in range(4)]
        write_labels(folder, zip(uids, "abab", strict=True))

    @pytest.mark.parametrize(
        ("frames", "names"),
        [("first", ["004"]), ("middle", ["002"]), ("each", ["004", "003", "002", "001"])],
    )
    def test_slices_are_chosen_in_their_order_in_space(self, tmp_path, frames, names):
        self.four(tmp_path)
        table = list_images(series_card(tmp_path, frames=frames))
        assert table.files == tuple(f"p{i}/{name}.dcm" for i in range(4) for name in names)

    def test_several_slices_need_a_rule(self, tmp_path):
        self.four(tmp_path)
        message = refused(series_card(tmp_path))
        assert all(part in message for part in ("4 slices", "frames: first", "p0/001.dcm"))

    def test_slices_of_several_patients_are_refused(self, tmp_path):
        self.four(tmp_path)
        uid = identifiers(tmp_path, ["p0/001.dcm"], "SeriesInstanceUID")[0]
        write_ct(tmp_path / "p0" / "stray.dcm", FLAT, SeriesInstanceUID=uid, PatientID="p9")
        message = refused(series_card(tmp_path, frames="first"))
        assert all(part in message for part in (uid, "several patients", "'p0'", "'p9'"))

    @pytest.mark.parametrize("unit", ["file", "series"])
    def test_slices_that_one_row_names_are_never_images_of_different_patients(self, tmp_path, unit):
        self.four(tmp_path)
        source = {"join": "SeriesInstanceUID", "unit": unit}
        message = refused(dicom_card(tmp_path, source=source, frames="each", group="none"))
        assert all(part in message for part in ("named by one row", "row 2", "p0/00", "group: patient"))
        assert (
            len(list_images(dicom_card(tmp_path, source=source | {"unit": "series"}, frames="first", group="none")))
            == 4
        )

    def test_one_row_a_file_cannot_label_a_series(self, tmp_path):
        source = {"kind": "dicom", "unit": "series", "join": "path", "columns": {"key": "k"}}
        with pytest.raises(PlanError, match="unit: series needs one row a series"):
            validate(DataCard, {"name": "x", "source": source}, where="x.yaml")
