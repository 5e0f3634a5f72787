"""What is said and stored when a search ends, for each way in which it can."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from consilia.errors import RunError
from consilia.study.end import InterruptedStudyError, is_over, settle_end
from consilia.study.opened import OpenStudy
from consilia.study.plan import change_plan, read_plan


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


def test_a_search_that_a_limit_has_ended_is_over_until_the_limit_is_raised(study: OpenStudy):
    settle_end(study, ended("all 2 trials are done"))
    assert is_over(study)
    larger = change_plan(study.plan, {"search.trials": 3})
    assert not is_over(OpenStudy(plan=larger, folder=study.folder, stores=study.stores))
