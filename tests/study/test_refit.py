"""Refits of a finished study: asked for, trained in this process, stored, and not trained again."""

import json
import os
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file

from consilia import open_study, search
from consilia.bundle.reading import read_bundle
from consilia.cli.app import run
from consilia.config.recipe import EnsembleRecipe, Greedy
from consilia.config.record_files import read_trial
from consilia.config.records import RefitProgress, TrialOutcome
from consilia.errors import RunError, UserError
from consilia.study.end import InterruptedStudyError
from consilia.study.refit import refit_seconds
from consilia.tune import refitting
from consilia.tune.ledger import read_ledger

FAST = EnsembleRecipe(name="fast", build="fast", selection=Greedy(members=3))


def times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


def build(study, view=None, *, recipe: str = "fast"):
    opened = open_study(study.plan.name, studies=study.studies, stores=study.stores)
    return opened.build(recipe, refit=view is not None, view=view)


def test_a_recipe_without_its_refits_is_refused_with_how_many_are_missing_and_how_to_train_them(trained_copy, capsys):
    folders = ["--studies", str(trained_copy.studies), "--stores", str(trained_copy.stores)]
    before = times(trained_copy.folder.root)
    assert run(["ensemble", "tiny-train", "--recipe", "fast", *folders]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "that of trial 0 is not trained yet" in said
    assert "`consilia ensemble tiny-train --recipe fast --refit` trains them: 1 network, about" in said
    assert times(trained_copy.folder.root) == before


def test_with_refit_it_trains_what_is_missing_and_builds_and_a_second_call_trains_nothing(trained_copy, capsys):
    folders = ["--studies", str(trained_copy.studies), "--stores", str(trained_copy.stores)]
    assert run(["ensemble", "tiny-train", "--recipe", "fast", "--refit", "--test", *folders]) == 0
    printed = capsys.readouterr()
    assert "1 refit on all" in printed.err
    assert "ensemble  refit of trial 0 (1.00)" in printed.out
    image = next((Path(trained_copy.plan.data.path) / "images").iterdir())
    assert run(["predict", str(trained_copy.folder.bundle("fast")), str(image)]) == 0
    assert "no prediction sets: the networks were trained on all images" in capsys.readouterr().out
    document = read_bundle(trained_copy.folder.bundle("fast"))
    assert document.build == "fast"
    assert [each.split for each in document.evaluations] == ["cross_fitted", "test"]
    report = json.loads(trained_copy.folder.report.read_text())
    assert report["ensembles"]["fast"]["build"] == "fast"
    ledger = read_ledger(trained_copy.folder.ledger)
    assert ledger.loc[ledger["purpose"] == "refit", "trial"].tolist() == [0]
    trained = times(trained_copy.folder.trials) | times(trained_copy.folder.bundle("fast"))
    assert run(["ensemble", "tiny-train", "--recipe", "fast", "--refit", *folders]) == 0
    assert "1 refit on all" not in capsys.readouterr().out
    assert times(trained_copy.folder.trials) | times(trained_copy.folder.bundle("fast")) == trained


def test_a_study_whose_recipe_is_fast_trains_its_refits_after_the_search(trained, silent_view, tmp_path):
    plan = trained.plan.model_copy(update={"ensemble": FAST})
    result = search(plan, studies=tmp_path, stores=trained.stores, view=silent_view).result()
    assert result.document.build == "fast"
    assert silent_view.ended  # the search
    assert [each.n_finished for each in silent_view.refits] == [0, 0, 1]
    again = type(silent_view)()
    search(plan, studies=tmp_path, stores=trained.stores, view=again)
    assert again.refits == []


def test_a_bundle_that_is_built_needs_its_refits_no_more(trained_copy, silent_view):
    build(trained_copy, silent_view)
    trained_copy.folder.trial(0).refit.result.unlink()
    assert build(trained_copy).document.build == "fast"


@pytest.mark.slow("trains twice; test_on_ray interrupts a search, and test_refit_controller pauses refits")
def test_ctrl_c_leaves_everything_for_the_next_call_which_ends_with_equal_weights(
    trained_copy, silent_view, silent_view_class, tmp_path
):
    class Impatient(silent_view_class):
        def refitting(self, progress: RefitProgress) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedStudyError, match="1 refit unfinished"):
        build(trained_copy, Impatient())
    files = trained_copy.folder.trial(0).refit
    assert not files.result.exists()
    build(trained_copy, silent_view)
    weights = load_file(files.weights)
    files.result.unlink()
    refitting_again = silent_view_class()
    trained_copy.folder.bundle("fast").rename(tmp_path / "fast")
    build(trained_copy, refitting_again)
    assert refitting_again.refits
    assert all((load_file(files.weights)[name] == tensor).all() for name, tensor in weights.items())


def test_a_refit_that_fails_is_an_error_with_its_reason(trained_copy, silent_view, monkeypatch):
    failed = TrialOutcome(number=0, state="failed", reason="the loss became nan in the refit, epoch 1")
    monkeypatch.setattr(refitting, "refit", lambda task, context, **rest: failed)
    with pytest.raises(RunError, match=r"that of trial 0: the loss became nan.*\n.*build: max"):
        build(trained_copy, silent_view)
    assert not trained_copy.folder.bundle("fast").exists()


def test_refits_for_a_recipe_that_ships_none_are_refused(trained_copy, silent_view):
    with pytest.raises(UserError, match="soft_vote has build: max"):
        build(trained_copy, silent_view, recipe="soft_vote")


def test_a_refit_is_expected_to_take_longer_than_a_fold_as_it_sees_more_images(trained):
    record = read_trial(trained.folder.trial(0).record)
    a_fold = sum(fold.seconds for fold in record.folds) / 2
    assert refit_seconds([record, record], k=2) == pytest.approx(2 * 2 * a_fold)


def test_an_address_without_anything_to_train_there_is_refused(trained_copy, capsys):
    assert run(["ensemble", "tiny-train", "--recipe", "fast", "--address", "auto", "--studies", "nowhere"]) == 2
    assert "add --refit" in capsys.readouterr().err
