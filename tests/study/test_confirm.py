"""Confirmations of the best trials, without Ray: other folds and seeds, resumed, read, and not repeated."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import load_file

from consilia import open_study
from consilia.config.records import LOCKED, TrialTask
from consilia.study.combine import combine
from consilia.study.confirm import confirm_best, confirming_context
from consilia.study.opened import OpenStudy
from consilia.train.cross_validation import cross_validate


class NoSlots:
    """Slots that nobody may need."""

    def open(self, *, n_tasks: int) -> None:
        pytest.fail("a finished confirmation is trained again")


@pytest.fixture
def study(trained_copy) -> OpenStudy:
    """A study of two epochs that confirms its only trial."""
    plan = trained_copy.plan
    changed = plan.model_copy(
        update={
            "search": plan.search.model_copy(update={"confirm": 2}),
            "training": plan.training.model_copy(update={"epochs": 2}),
        }
    )
    return OpenStudy(plan=changed, folder=trained_copy.folder, stores=trained_copy.stores)


def train(study: OpenStudy, *, epochs: int = 99, under: str = "confirm") -> str:
    """Confirm trial 0 in this process; stop after so many epochs. Return how it ended."""
    context = confirming_context(study, study.training_context("cpu"))
    context = replace(context, trials=study.folder.root / under)
    task = TrialTask(number=0, hyperparameters=study.records()[0].hyperparameters)
    heard = []
    return cross_validate(task, context, report=heard.append, stopped=lambda: len(heard) >= epochs).state


def test_the_context_has_other_folds_and_another_seed_and_the_same_test_split(study):
    usual = study.training_context("cpu")
    context = confirming_context(study, usual)
    assert context.seed != usual.seed
    assert context.trials == study.folder.root / "confirm"
    assert np.array_equal(context.folds.test, usual.folds.test)
    assert (context.folds.fold == LOCKED).any()
    assert not np.array_equal(context.folds.fold, usual.folds.fold)
    assert confirming_context(study, usual) == context


def test_one_that_is_interrupted_goes_on_and_equals_an_undisturbed_one_and_none_is_repeated(study):
    assert train(study, epochs=3) == "stopped"
    assert train(study) == "finished"
    assert train(study, under="undisturbed") == "finished"
    for fold in range(2):
        mine = study.folder.confirmation(0).fold(fold)
        other = study.folder.root / "undisturbed" / "0" / f"fold-{fold}"
        assert (
            json.loads(mine.result.read_text())["metrics"] == json.loads((other / "result.json").read_text())["metrics"]
        )
        weights, theirs = load_file(mine.weights), load_file(other / "weights.safetensors")
        assert all((weights[name] == theirs[name]).all() for name in theirs)
    confirm_best(study, NoSlots())
    assert not list(study.folder.confirmations.rglob("weights.safetensors"))  # nothing is built from them


def test_it_is_reported_beside_the_search_once_it_is_finished_and_asked_for(study, trained_copy):
    train(study, epochs=3)
    assert combine(study, study.plan.ensemble).confirmations == ()
    train(study)
    (found,) = combine(study, study.plan.ensemble).confirmations
    scores = [
        json.loads(study.folder.confirmation(0).fold(fold).result.read_text())["metrics"]["log_loss"] for fold in (0, 1)
    ]
    assert (found.number, found.searched, list(found.folds)) == (0, study.records()[0].objective, scores)
    report = json.loads(study.folder.report.read_text())
    (trial,) = report["confirmations"]["trials"]
    assert (trial["trial"], trial["confirmed"]) == (0, np.mean(scores))
    assert [record["number"] for record in report["trials"]] == [0]  # it is not a trial
    unasked = open_study(study.plan.name, studies=trained_copy.studies, stores=trained_copy.stores)
    assert unasked.board().confirmations == ()
