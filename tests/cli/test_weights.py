"""`consilia weights`: what a study needs, what is there, and what happens without internet."""

from pathlib import Path

import pytest
from safetensors.torch import save_file
from timm import create_model

from consilia.cli.app import run
from consilia.study.weights import fetch_weights, needed_models


@pytest.fixture
def folder(tmp_path) -> Path:
    save_file(create_model("test_resnet").state_dict(), tmp_path / "test_resnet.safetensors")
    return tmp_path


def test_a_space_and_a_study_need_the_models_of_their_architectures(study_file):
    assert needed_models(["tiny"]) == needed_models([str(study_file)]) == needed_models(["tiny", str(study_file)])
    assert set(needed_models(["resnet", "tiny"])) > set(needed_models(["tiny"]))


def test_the_list_names_what_is_there_and_what_is_missing(folder, capsys):
    assert run(["weights", "list", "tiny", "--weights", str(folder)]) == 1
    printed = capsys.readouterr().out
    assert "test_resnet.safetensors" in printed
    assert "2 of 3 are missing" in printed


def test_a_complete_folder_is_exit_code_0(tmp_path, study_file, capsys):
    for name in needed_models([str(study_file)]):
        (tmp_path / f"{name}.safetensors").write_bytes(b"12")
    assert run(["weights", "list", str(study_file), "--weights", str(tmp_path)]) == 0
    assert "missing" not in capsys.readouterr().out


def test_the_environments_folder_is_the_default(folder, monkeypatch, capsys):
    monkeypatch.delenv("CONSILIA_WEIGHTS", raising=False)
    assert run(["weights", "list", "tiny"]) == 2
    assert "CONSILIA_WEIGHTS" in capsys.readouterr().err
    monkeypatch.setenv("CONSILIA_WEIGHTS", str(folder))
    assert run(["weights", "list", "tiny"]) == 1


def test_fetching_writes_whole_files_with_notes_and_keeps_what_is_there(folder, monkeypatch):
    before = (folder / "test_resnet.safetensors").read_bytes()

    def download(name: str):
        return dict(create_model(name).state_dict()), {"model": name, "mean": "[0.5]", "std": "[0.5]"}

    monkeypatch.setattr("consilia.train.networks.pretrained.download", download)
    fetched = list(fetch_weights(["test_resnet", "test_efficientnet"], folder))
    assert [(name, is_new) for name, _, is_new in fetched] == [("test_resnet", False), ("test_efficientnet", True)]
    assert (folder / "test_resnet.safetensors").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == [
        "test_efficientnet.safetensors",
        "test_resnet.safetensors",
    ]


def test_fetching_that_fails_names_the_model_and_leaves_nothing_partial(folder, monkeypatch, capsys):
    from consilia.errors import PlanError

    def download(name: str):
        raise PlanError(f"Weights of timm's {name!r} could not be fetched: no route to host.")

    monkeypatch.setattr("consilia.train.networks.pretrained.download", download)
    assert run(["weights", "fetch", "tiny", "--to", str(folder)]) == 2
    printed = capsys.readouterr()
    assert "kept" in printed.out
    assert "'test_efficientnet' could not be fetched: no route to host" in printed.err
    assert [path.name for path in folder.iterdir()] == ["test_resnet.safetensors"]


def test_a_space_that_does_not_exist_is_named(capsys, tmp_path):
    assert run(["weights", "list", "resnett", "--weights", str(tmp_path)]) == 2
    assert "resnet" in capsys.readouterr().err
