"""`consilia init`: what is certain is said, what is not is asked, and what is written can be used at once."""

import shutil

import pytest

from consilia.cli.app import run
from consilia.study.plan import read_plan


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_was_found_is_said_with_its_reason_and_the_next_command(phantoms, in_folder, capsys):
    assert run(["init", "mine", "--images", str(phantoms), "--modality", "xray", "--name", "look"]) == 0
    printed = capsys.readouterr().out
    assert "patient-column  patient: its name says so, and it has 30 distinct values" in printed
    assert "consilia data audit mine/look_card.yaml" in printed
    assert "consilia search mine/look.yaml" in printed
    assert read_plan("mine/look.yaml", networks=False).data.source.columns.split == "split"


def test_what_is_uncertain_names_its_option_where_nobody_can_be_asked(phantoms, in_folder, capsys):
    assert run(["init", "--images", str(phantoms)]) == 2
    error = capsys.readouterr().err
    assert "Give --modality, or --yes, which takes 'other'." in error
    assert list(in_folder.iterdir()) == []


def test_yes_takes_the_proposals(phantoms, in_folder):
    assert run(["init", "--images", str(phantoms), "--yes"]) == 0
    assert read_plan("phantoms.yaml", networks=False).data.modality == "other"


def test_a_wrong_answer_gets_a_near_match(phantoms, in_folder, capsys):
    assert run(["init", "--images", str(phantoms), "--modality", "mri"]) == 2
    assert "Did you mean 'mr'?" in capsys.readouterr().err


def test_an_option_that_the_data_leave_no_choice_for_is_refused(phantoms, in_folder, capsys):
    assert run(["init", "--images", str(phantoms), "--modality", "xray", "--frames", "each"]) == 2
    assert "--frames: these data leave no such choice" in capsys.readouterr().err
    assert list(in_folder.iterdir()) == []


def test_a_folder_that_is_not_there_is_named(in_folder, capsys):
    assert run(["init", "--images", "nowhere"]) == 2
    assert "nowhere must be a folder of images or an .npz file, but it does not exist" in capsys.readouterr().err


def test_the_given_folder_is_proposed_where_it_holds_the_images(phantoms, in_folder):
    folder = shutil.copytree(phantoms, in_folder / "set")
    assert run(["init", str(folder), "--yes"]) == 0
    assert (folder / "set.yaml").is_file()
