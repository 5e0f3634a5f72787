"""A first card and study: what is found is proposed with its reason, what is not is asked, and both can be used."""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from consilia.data.sources.card import list_images
from consilia.data.survey.choice import Choice
from consilia.errors import DataError, UserError
from consilia.study.draft import Draft, draft_study, write_draft
from consilia.study.draft_text import commented_yaml
from consilia.study.plan import read_card, read_plan
from data_tables import balanced, picture, row, write_table
from dicom_files import write_ct


class Answers:
    """Takes what is certain, and answers the rest from a table; remembers every choice."""

    def __init__(self, **answers: str) -> None:
        self.answers = {key.replace("_", "-"): value for key, value in answers.items()}
        self.choices: dict[str, Choice] = {}

    def __call__(self, choice: Choice) -> str:
        self.choices[choice.key] = choice
        if choice.key in self.answers:
            return self.answers[choice.key]
        if not choice.certain or choice.value is None:
            raise UserError(f"{choice.key} is asked")
        return choice.value


def written(draft: Draft, folder: Path):
    """Write a draft, and return the card and the plan as they are read from the files."""
    files = write_draft(draft, folder)
    return read_card(files.card), read_plan(files.study, networks=False)


def write_classes(root: Path, counts: Mapping[str, int]) -> Path:
    for number, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for image in range(count):
            Image.fromarray(picture(100 * number + image)).save(root / name / f"{image}.png")
    return root


def test_a_folder_for_each_class_needs_the_modality_alone(tmp_path):
    images = write_classes(tmp_path / "my set", {"benign": 10, "malignant": 10})
    with pytest.raises(UserError, match="modality is asked"):
        draft_study(images, decide=Answers())
    draft = draft_study(images, decide=Answers(modality="dermoscopy"))
    card, plan = written(draft, tmp_path / "out")
    assert plan.data == card
    assert (card.name, card.group, card.size, card.channels) == ("my-set", "none", 12, 1)
    assert list_images(card).classes == ("benign", "malignant")
    assert any("No patients are named" in remark for remark in draft.remarks)


def test_a_table_is_found_with_the_columns_that_their_names_and_cells_tell(tmp_path):
    folder = write_table(tmp_path / "set", balanced())
    answers = Answers(modality="xray")
    card, plan = written(draft_study(folder, decide=answers), tmp_path)
    columns = card.source.columns
    assert (columns.path, columns.label, columns.patient) == ("path", "label", "patient")
    assert card.group == "patient"
    assert len(list_images(card)) == 24
    assert plan.folds.k == 3
    assert "12 distinct values" in answers.choices["patient-column"].reason


def test_a_table_above_the_images_is_found_too(tmp_path):
    folder = write_table(tmp_path / "set", balanced(), images=False)
    (folder / "images").mkdir()
    for number, entry in enumerate(balanced()):
        Image.fromarray(picture(number)).save(folder / "images" / entry["path"])
    card, _ = written(draft_study(folder / "images", decide=Answers(modality="xray")), tmp_path / "out")
    assert card.source.images == "images"
    assert Path(card.path) == folder


def test_a_label_that_could_be_one_of_several_columns_is_asked(tmp_path):
    rows = [{**each, "view": "PA", "label": "ab"[n % 2]} for n, each in enumerate(balanced())]
    rows = [{**each, "finding": each["label"], "sex": "FM"[n % 3 == 0]} for n, each in enumerate(rows)]
    folder = write_table(tmp_path / "set", rows, columns=("path", "finding", "sex", "patient"))
    with pytest.raises(UserError, match="label-column is asked"):
        draft_study(folder, decide=Answers())
    draft = draft_study(folder, decide=Answers(label_column="finding", modality="xray"))
    assert draft.card["source"]["columns"]["label"] == "finding"
    assert draft.why["source.columns.label"] == "a (12), b (12)"


def test_the_only_column_that_could_be_the_label_is_proposed_and_asked_if_its_name_does_not_say_so(tmp_path):
    rows = [{**each, "shape": each["label"]} for each in balanced()]
    answers = Answers()
    with pytest.raises(UserError, match="label-column is asked"):
        draft_study(write_table(tmp_path, rows, columns=("path", "shape", "patient")), decide=answers)
    assert answers.choices["label-column"].value == "shape"


def test_a_patient_that_no_column_is_named_like_is_asked(tmp_path):
    folder = write_table(tmp_path / "set", [{**each, "who": each["patient"]} for each in balanced()])
    write_table(folder, [{**each, "who": each["patient"]} for each in balanced()], columns=("path", "label", "who"))
    with pytest.raises(UserError, match="patient-column is asked"):
        draft_study(folder, decide=Answers())
    none = draft_study(folder, decide=Answers(patient_column="none", modality="xray"))
    assert none.card["group"] == "none"
    assert any("No patients are named" in remark for remark in none.remarks)


def test_rows_without_a_label_are_left_out_and_counted(tmp_path):
    rows = [*balanced(), row(24, "", "x")]
    draft = draft_study(write_table(tmp_path / "set", rows), decide=Answers(modality="xray"))
    card, _ = written(draft, tmp_path)
    assert len(list_images(card)) == 24
    assert any("1 rows are left out" in remark for remark in draft.remarks)


def test_a_class_that_is_too_rare_is_left_out_only_if_a_person_says_so(tmp_path):
    rows = [*balanced(), row(24, "rare", "x"), row(25, "rare", "x")]
    folder = write_table(tmp_path / "set", rows)
    with pytest.raises(UserError, match="rare-classes is asked"):
        draft_study(folder, decide=Answers(modality="xray"))
    with pytest.raises(DataError, match=r"rare \(0\)"):
        draft_study(folder, decide=Answers(modality="xray", rare_classes="stop"))
    draft = draft_study(folder, decide=Answers(modality="xray", rare_classes="leave_out"))
    card, _ = written(draft, tmp_path)
    assert list_images(card).classes == ("a", "b")


def test_a_split_of_other_names_is_asked_and_one_of_ours_taken(tmp_path):
    ours = [{**each, "split": "test" if n < 4 else "train"} for n, each in enumerate(balanced())]
    draft = draft_study(write_table(tmp_path / "ours", ours), decide=Answers(modality="xray"))
    assert draft.card["source"]["columns"]["split"] == "split"
    theirs = [{**each, "split": "holdout" if n < 4 else "train"} for n, each in enumerate(balanced())]
    with pytest.raises(UserError, match="split-column is asked"):
        draft_study(write_table(tmp_path / "theirs", theirs), decide=Answers(modality="xray"))


def test_rows_whose_image_is_missing_are_named(tmp_path):
    folder = write_table(tmp_path / "set", balanced())
    (folder / "003.png").unlink()
    with pytest.raises(DataError, match=r"1 of 24 rows name no file.*'003.png'"):
        draft_study(folder, decide=Answers(modality="xray"))


def test_a_table_beside_class_folders_is_asked(tmp_path):
    folder = write_classes(tmp_path / "set", {"a": 8, "b": 8})
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "patient"])
        writer.writerows([f"{name}/{n}.png", name, f"{name}{n}"] for name in "ab" for n in range(8))
    with pytest.raises(UserError, match="labels is asked"):
        draft_study(folder, decide=Answers())
    by_folder = draft_study(folder, decide=Answers(labels="folders", modality="xray"))
    assert by_folder.card["source"] == {"kind": "folder"}
    answers = Answers(labels=str(folder / "labels.csv"), modality="xray")
    assert draft_study(folder, decide=answers).card["source"]["columns"]["path"] == "file"


class TestDicom:
    def test_files_name_modality_and_patient(self, tmp_path):
        for name in ("lung", "bone"):
            (tmp_path / "ct" / name).mkdir(parents=True)
            for n in range(8):
                tags = {"PatientID": f"{name}{n}", "WindowCenter": 40, "WindowWidth": 400}
                write_ct(tmp_path / "ct" / name / f"{n}.dcm", np.full((16, 16), 10 * n), **tags)
        card, _ = written(draft_study(tmp_path / "ct", decide=Answers()), tmp_path)
        assert (card.modality, card.group, card.source.patient_tag) == ("ct", "patient", "PatientID")
        assert card.window.kind == "file"
        assert len(set(list_images(card).patients)) == 16

    def test_files_that_do_not_say_how_they_are_shown_get_a_window(self, tmp_path):
        for name in ("lung", "bone"):
            (tmp_path / "ct" / name).mkdir(parents=True)
            for n in range(8):
                write_ct(tmp_path / "ct" / name / f"{n}.dcm", np.arange(256).reshape(16, 16), PatientID=f"{name}{n}")
        draft = draft_study(tmp_path / "ct", decide=Answers())
        assert draft.card["window"] == {"kind": "percentiles"}

    def test_a_table_that_names_files_by_an_identifier_is_joined(self, tmp_path):
        folder = tmp_path / "ct"
        folder.mkdir()
        with (folder / "labels.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["who", "label"])
            for n in range(16):
                write_ct(folder / f"{n:02}.dcm", np.arange(256).reshape(16, 16), PatientID=f"q{n}")
                writer.writerow([f"q{n}", "ab"[n % 2]])
        answers = Answers(labels=str(folder / "labels.csv"))
        card, _ = written(draft_study(folder, labels=folder / "labels.csv", decide=answers), tmp_path)
        assert (card.source.join, card.source.columns.key) == ("PatientID", "who")
        assert card.group == "patient"
        assert len(list_images(card)) == 16


def test_an_archive_needs_the_modality_alone(tmp_path):
    arrays = {
        f"{split}_{what}": np.zeros((8, 28, 28), np.uint8) if what == "images" else np.arange(8) % 2
        for split in ("train", "test")
        for what in ("images", "labels")
    }
    np.savez(tmp_path / "some_28.npz", **arrays)
    card, _ = written(draft_study(tmp_path, decide=Answers(modality="oct")), tmp_path)
    assert (card.name, card.size, card.source.kind) == ("some_28", 28, "npz")


def test_a_folder_without_labels_says_what_is_needed(tmp_path):
    Image.fromarray(picture(0)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="a folder for each class, or lie beside a CSV"):
        draft_study(tmp_path, decide=Answers())


def test_files_that_exist_are_not_overwritten(tmp_path):
    images = write_classes(tmp_path / "set", {"a": 8, "b": 8})
    draft = draft_study(images, decide=Answers(modality="xray"), name="mine")
    (tmp_path / "mine.yaml").write_text("name: other\n")
    with pytest.raises(UserError, match="exists already"):
        write_draft(draft, tmp_path)
    assert not (tmp_path / "mine_card.yaml").exists()


def test_text_with_comments_reads_back_equal():
    content = {"a": {"b": "007", "yes": [True, "no: x #", "é"]}, "c": {}, "n": None}
    text = commented_yaml(content, {"a.b": "why\nso", "a.yes": "long " * 40}, title="one\ntwo")
    assert yaml.safe_load(text) == content
    assert "b: '007'  # why so" in text
