"""A study at a URI, from one machine's `train` to another machine's tables, ensembles and suspects; no Ray."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import consilia
from consilia.cli.app import run
from consilia.study.plan import read_single_plan
from consilia.study.remote import open_place
from s3_server import S3, serve_s3


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with serve_s3() as server:
        yield server


@pytest.fixture(scope="module")
def studies(s3, study_file, silent_view_class, tmp_path_factory, one_thread) -> str:
    """The URI of a study that a machine has trained, whose disk is gone since."""
    uri = s3.uri("ours/project/studies")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONSILIA_CACHE", str(tmp_path_factory.mktemp("gone")))
        plan = read_single_plan(study_file, architecture="test_resnet")
        consilia.search(plan, studies=uri, view=silent_view_class())
    return uri


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another machine: a cache with nothing in it."""
    monkeypatch.setenv("CONSILIA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("[!.]*") if path.is_file()}


def test_everything_but_what_is_derived_lies_at_the_uri(studies):
    found = {name.partition("/")[2] for name in open_place(studies).remote.list()}
    assert {"study.yaml", "folds.parquet", "report.json", "run.log", "lease.json"} <= found
    assert {f"trials/0/fold-0/{name}" for name in ("weights.safetensors", "oof.parquet", "result.json")} <= found
    assert "ensembles/best_single/ensemble.json" in found
    assert not [name for name in found if name.startswith(("ray/", "tensorboard/", ".")) or name.endswith(".pt")]


def test_another_machine_shows_the_trials_without_pulling_weights(studies, machine, capsys):
    assert run(["trials", "tiny-train", "--studies", studies]) == 0
    assert "finished" in capsys.readouterr().out
    (folder,) = machine.glob("*/studies/tiny-train")
    assert "trials/0/fold-0/oof.parquet" in names(folder)
    assert not [name for name in names(folder) if name.endswith("safetensors")]


def test_another_machine_builds_and_uses_an_ensemble_that_all_others_then_have(studies, machine, tmp_path, monkeypatch):
    study = consilia.open_study("tiny-train", studies=studies)
    built = study.fit("soft_vote", device="cpu")
    monkeypatch.setenv("CONSILIA_CACHE", str(tmp_path / "a third one"))
    third = consilia.open_study("tiny-train", studies=studies)
    assert third.predictor("soft_vote", device="cpu").classes == built.classes
    assert "soft_vote" not in third.folder.bundle("best_single").name
    report = open_place(studies).remote.read("tiny-train/report.json")
    assert b"soft_vote" in report


def test_images_that_one_machine_has_prepared_are_decoded_by_no_other(studies, machine, silent_view):
    study = consilia.open_study("tiny-train", studies=studies)
    object.__setattr__(study, "view", silent_view)
    assert len(study.store) == len(study.folds.pool) + len(study.folds.test)
    assert silent_view.n_prepared == 0
    assert study.store.folder.is_relative_to(machine)
    assert [note for note in silent_view.notes if note.startswith("downloading prepared images from s3://ours/project")]


def test_suspects_lie_at_the_uri_too_unless_they_are_wanted_elsewhere(studies, machine, tmp_path):
    consilia.open_study("tiny-train", studies=studies).suspects(tmp_path / "own")
    remote = open_place(studies).remote
    assert remote.read("tiny-train/suspects.csv") is None
    consilia.open_study("tiny-train", studies=studies).suspects()
    assert remote.read("tiny-train/suspects.csv") == (tmp_path / "own" / "suspects.csv").read_bytes()


def test_the_same_search_on_another_machine_repeats_nothing(studies, machine, study_file, silent_view):
    before = open_place(studies).remote.list()
    plan = read_single_plan(study_file, architecture="test_resnet")
    consilia.search(plan, studies=studies, view=silent_view)
    after = open_place(studies).remote.list()
    assert (silent_view.epochs, silent_view.n_prepared) == ([], 0)
    assert {name for name in before if before[name] != after.get(name)} <= {
        f"tiny-train/{name}" for name in ("lease.json", "report.html", "report.json", "run.log")
    }


def test_an_earlier_study_at_the_same_uri_can_be_started_from(studies, machine, study_file, s3):
    plan = consilia.read_plan(study_file, settings={"name": "later", "search.warm_start": ["nobody"]}, networks=False)
    with pytest.raises(consilia.PlanError, match=r"warm_start: There is no study 'nobody' in s3://.* tiny-train"):
        consilia.search(plan, studies=studies)
