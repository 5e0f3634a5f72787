"""Patients from DICOM headers and frames as images, for folders and tables; unknown patients are never merged."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from consilia.config.card import DataCard
from consilia.data.sources import file_facts
from consilia.data.sources.card import list_images
from consilia.data.sources.file_facts import Unreadable, read_each
from consilia.data.store.prepare import prepare
from consilia.errors import DataError
from data_tables import card_of, picture, row, write_table
from dicom_files import write_ct

FLAT = np.arange(64, dtype=np.int16).reshape(8, 8)
PERCENTILES = {"kind": "percentiles"}


def write_folders(root: Path) -> None:
    for number in range(4):
        (root / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        write_ct(root / "ab"[number % 2] / f"{number}.dcm", FLAT + number, PatientID=f"00{number // 2}")


def folder_card(root: Path, **fields) -> DataCard:
    source = {"kind": "folder", "patient_tag": "PatientID"}
    return DataCard.model_validate(
        {"name": "f", "path": str(root), "source": source, "size": 8, "window": PERCENTILES} | fields
    )


def table_card(folder: Path, **source) -> DataCard:
    card = card_of(folder, columns={"patient": None})
    return card.model_copy(update={"source": card.source.model_copy(update={"patient_tag": "PatientID"} | source)})


def refused(card: DataCard) -> str:
    with pytest.raises(DataError) as caught:
        list_images(card)
    return str(caught.value)


class TestPatientTag:
    def test_of_a_folder(self, tmp_path):
        write_folders(tmp_path)
        table = list_images(folder_card(tmp_path))
        assert table.files == ("a/0.dcm", "a/2.dcm", "b/1.dcm", "b/3.dcm")
        assert table.patients == ("000", "001", "000", "001")
        assert table.has_patients

    def test_of_a_table(self, tmp_path):
        write_folders(tmp_path)
        rows = [row(n, "ab"[n % 2], "") | {"path": f"{'ab'[n % 2]}/{n}.dcm"} for n in range(4)]
        write_table(tmp_path, rows, images=False)
        assert list_images(table_card(tmp_path)).patients == ("000", "000", "001", "001")

    def test_a_column_and_a_tag_are_refused(self, tmp_path):
        write_table(tmp_path, [row(0, "a", "1")], images=False)
        card = card_of(tmp_path)
        both = card.model_copy(update={"source": card.source.model_copy(update={"patient_tag": "PatientID"})})
        assert "both set" in refused(both)

    def test_a_tag_without_grouping_is_refused(self, tmp_path):
        write_folders(tmp_path)
        assert "would ignore the patients of the tag PatientID" in refused(folder_card(tmp_path, group="none"))

    def test_a_file_that_is_no_dicom_is_named(self, tmp_path):
        write_folders(tmp_path)
        Image.fromarray(picture(0)).save(tmp_path / "a" / "x.png")
        message = refused(folder_card(tmp_path))
        assert "a/x.png" in message
        assert "needs DICOM files" in message

    def test_a_file_without_the_tag_is_named(self, tmp_path):
        write_folders(tmp_path)
        write_ct(tmp_path / "a" / "x.dcm", FLAT, PatientID="")
        message = refused(folder_card(tmp_path))
        assert "a/x.dcm" in message
        assert "PatientID is absent or empty" in message

    def test_a_damaged_or_absent_file_goes_to_the_quarantine(self, tmp_path):
        write_folders(tmp_path / "f")
        (tmp_path / "f" / "a" / "x.dcm").write_bytes(b"DICM but not really")
        (tmp_path / "f" / "a" / "y").touch()
        table = list_images(folder_card(tmp_path / "f"))
        assert [each.file for each in table.unreadable] == ["a/x.dcm", "a/y"]
        assert len(table) == 4
        store = prepare(folder_card(tmp_path / "f", max_bad=0.5), root=tmp_path / "stores")
        assert [each.file for each in store.manifest.quarantine] == ["a/x.dcm", "a/y"]
        with pytest.raises(DataError, match="2 of 6 images"):
            prepare(folder_card(tmp_path / "f", max_bad=0.1), root=tmp_path / "stores")


class TestEachFrame:
    def pages(self, path: Path, count: int) -> None:
        first, *others = (Image.fromarray(picture(seed)) for seed in range(count))
        first.save(path, save_all=True, append_images=others)

    def test_pages_of_a_tiff_are_images_of_one_patient(self, tmp_path):
        self.pages(tmp_path / "0.tif", 3)
        self.pages(tmp_path / "1.tif", 1)
        rows = [row(n, "ab"[n], f"p{n}") | {"path": f"{n}.tif"} for n in range(2)]
        write_table(tmp_path, rows, images=False)
        table = list_images(card_of(tmp_path, frames="each"))
        assert table.files == ("0.tif", "0.tif", "0.tif", "1.tif")
        assert table.frames == (0, 1, 2, None)
        assert table.patients == ("p0", "p0", "p0", "p1")

    def test_frames_reach_the_store(self, tmp_path):
        for number in range(2):
            self.pages(tmp_path / f"{number}.tif", 2 + number)
        rows = [row(n, "ab"[n], f"p{n}") | {"path": f"{n}.tif"} for n in range(2)]
        write_table(tmp_path, rows, images=False)
        store = prepare(card_of(tmp_path, frames="each", size=12), root=tmp_path / "stores")
        assert store.index["frame"].tolist() == [0, 1, 0, 1, 2]
        assert store.patients.tolist() == ["p0", "p0", "p1", "p1", "p1"]
        assert np.array_equal(store.pixels[4, :, :, 0], picture(2))

    def test_frames_of_one_file_are_never_images_of_different_patients(self, tmp_path):
        for label in "ab":
            (tmp_path / label).mkdir()
            self.pages(tmp_path / label / "x.tif", 2)
        message = refused(folder_card(tmp_path, source={"kind": "folder"}, group="none", frames="each"))
        assert all(part in message for part in ("a/x.tif", "frames of one file", "group: patient"))

    def test_a_file_that_claims_more_frames_than_it_has_bytes_for_is_no_million_images(self, tmp_path):
        write_folders(tmp_path)
        write_ct(tmp_path / "a" / "x.dcm", FLAT, NumberOfFrames=1_000_000)
        table = list_images(folder_card(tmp_path, frames="each"))
        assert len(table) == 4
        assert [each.file for each in table.unreadable] == ["a/x.dcm"]


def test_each_file_is_read_in_order_also_by_processes(tmp_path):
    files = [tmp_path / f"{number}.dcm" for number in range(600)]
    for number, file in enumerate(files[:20]):
        write_ct(file, FLAT, PatientID=str(number))
    found = read_each(partial(file_facts.read_facts, tags=("PatientID",), count=False), files)
    assert [facts.tags["PatientID"] for facts in found[:20]] == [str(number) for number in range(20)]
    assert all(
        isinstance(facts, Unreadable) and str(file) in facts.reason
        for facts, file in zip(found[20:], files[20:], strict=True)
    )
