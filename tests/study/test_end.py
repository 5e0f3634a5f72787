"""What is said and stored when a search ends, for each way in which it can."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from consilia.config.record_files import write_trial
from consilia.config.records import TrialRecord
from consilia.config.space import Hyperparameters
from consilia.errors import RunError, UserError
from consilia.files import write_text
from consilia.study.end import InterruptedStudyError, is_over, settle_end
from consilia.study.opened import OpenStudy
from consilia.study.plan import change_plan, plan_to_yaml, read_plan, read_single_plan
from consilia.study.run import run_study


@pytest.fixture
def study(study_file: Path, tmp_path: Path) -> OpenStudy:
    study = OpenStudy.of(read_plan(study_file), studies=tmp_path / "studies")
    study.folder.trials.mkdir(parents=True)
    return study


def ended(by: str = "", *, halted: str = "", gave_up: str = "") -> Any:
    """A controller of no trials."""
    return SimpleNamespace(halted=halted, gave_up=gave_up, records={}, ended_by=lambda: by)


@pytest.mark.parametrize(
    ("controller", "error", "message"),
    [
        (ended(halted="/study: No space left"), RunError, r"(?s)disk is full: /study: No space left.*Make room"),
        (ended(gave_up="The first 5 trials failed"), RunError, r"(?s)The first 5 trials failed.*--retry-failed"),
        (ended(), InterruptedStudyError, "2 of 2 trials unfinished.*the same command goes on"),
    ],
)
def test_a_search_that_was_not_ended_by_a_limit_says_why_and_is_not_over(
    study: OpenStudy, controller: Any, error: type[RunError], message: str
):
    with pytest.raises(error, match=message):
        settle_end(study, controller)
    assert not is_over(study)


def test_a_search_that_was_over_is_not_while_failed_trials_are_tried_again(
    study: OpenStudy, trained: Any, monkeypatch: pytest.MonkeyPatch
):
    def interrupt(study: OpenStudy, slots: object, starts: object, *, retry_failed: bool) -> None:
        asked.append(retry_failed)
        raise InterruptedStudyError("Ctrl-C")

    asked: list[bool] = []
    monkeypatch.setattr("consilia.study.run._run_trials", interrupt)
    monkeypatch.setattr("consilia.study.slots.LazySlots.begin", lambda slots, *, n_tasks: None)
    study = OpenStudy(plan=study.plan, folder=study.folder, stores=trained.stores)
    settle_end(study, ended("all 2 trials are done"))
    write_text(study.folder.plan, yaml.safe_dump(plan_to_yaml(study.plan)))
    hyperparameters = Hyperparameters(architecture="test_resnet")
    record = TrialRecord(number=0, state="failed", hyperparameters=hyperparameters, reason="/images does not exist")
    study.folder.trial(0).root.mkdir()
    write_trial(study.folder.trial(0).record, record)
    for retry_failed in (True, False):
        with pytest.raises(InterruptedStudyError):
            run_study(study, retry_failed=retry_failed)
        assert not is_over(study)
    assert asked == [True, False]


def test_a_single_configuration_that_failed_is_not_tried_again_in_silence(study_file: Path, tmp_path: Path):
    study = OpenStudy.of(read_single_plan(study_file), studies=tmp_path / "studies")
    study.folder.trial(0).root.mkdir(parents=True)
    write_text(study.folder.plan, yaml.safe_dump(plan_to_yaml(study.plan)))
    record = TrialRecord(number=0, state="failed", hyperparameters=study.plan.search.configuration, reason="nan")
    write_trial(study.folder.trial(0).record, record)
    with pytest.raises(UserError, match="retry_failed is for searches"):
        run_study(study, retry_failed=True)


def test_a_search_that_a_limit_has_ended_is_over_until_the_limit_is_raised(study: OpenStudy):
    settle_end(study, ended("all 2 trials are done"))
    assert is_over(study)
    larger = change_plan(study.plan, {"search.trials": 3})
    assert not is_over(OpenStudy(plan=larger, folder=study.folder, stores=study.stores))
