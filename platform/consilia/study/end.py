"""How a search ended: which limit it reached, and whether it is over."""

import json
from dataclasses import dataclass
from typing import Any

from consilia.config.study import StudyPlan
from consilia.config.study_folder import StudyFolder
from consilia.errors import RunError, StudyError
from consilia.files import write_json
from consilia.study.opened import OpenStudy
from consilia.tune.controller import TrialController
from consilia.tune.refit_controller import RefitController


class InterruptedStudyError(RunError):
    """The user stopped the study; what was finished is stored."""

    exit_code = 130  # as shells report Ctrl-C


@dataclass(frozen=True, slots=True)
class SearchEnd:
    """What search.json says."""

    ended_by: str  # for people: which limit was reached first
    limits: dict[str, Any]  # trials and budget that the search had; with others it goes on


def is_over(study: OpenStudy) -> bool:
    """Say whether the study's search has reached one of the plan's limits, and no trial is recorded as running."""
    end = read_end(study.folder)
    if end is None or end.limits != _limits(study.plan):
        return False
    return all(record.state != "running" for record in study.records().values())


def settle_end(study: OpenStudy, controller: TrialController) -> None:
    """Write which limit ended the search.

    Raises:
        InterruptedStudyError: None did: the user stopped it.
        RunError: The disk is full, or too many trials failed in a row.
    """
    if controller.halted:
        raise RunError(
            f"The search stopped, since the disk is full: {controller.halted}.\nMake room, or lower "
            "search.keep_weights; the same command goes on where this one stopped."
        )
    if controller.gave_up:
        raise RunError(
            "The search stopped, since something other than the configurations seems to be wrong. "
            f"{controller.gave_up} The traceback of an error that was not foreseen lies in "
            f"{study.folder.trials}/NUMBER/error.txt.\n"
            "Correct it, and try the failed trials again: the same command with --retry-failed, in Python with "
            "retry_failed=True. Without it, the search goes on with other configurations."
        )
    reason = controller.ended_by()
    n_trials = study.plan.search.trials
    if not reason:
        n_open = n_trials - sum(record.has_ended for record in controller.records.values())
        raise InterruptedStudyError(
            f"Stopped with {n_open} of {n_trials} trials unfinished. Everything finished is stored in "
            f"{study.folder.root}; the same command goes on where this one stopped."
        )
    write_json(study.folder.search_end, {"ended_by": reason, "limits": _limits(study.plan)})


def settle_again(controller: RefitController, folder: StudyFolder, *, noun: str) -> None:
    """Raise unless everything that was trained again has finished or failed.

    Raises:
        InterruptedStudyError: The user stopped it.
        RunError: The disk is full.
    """
    if controller.halted:
        raise RunError(f"The {noun}s stopped, since the disk is full: {controller.halted}.")
    if controller.n_open:
        count = f"1 {noun}" if controller.n_open == 1 else f"{controller.n_open} {noun}s"
        raise InterruptedStudyError(
            f"Stopped with {count} unfinished. Everything finished is stored in {folder.root}; the same command goes "
            "on where this one stopped."
        )


def read_end(folder: StudyFolder) -> SearchEnd | None:
    """Read search.json; None where the search is not over.

    Raises:
        StudyError: The file is damaged; names it.
    """
    if not folder.search_end.exists():
        return None
    try:
        content = json.loads(folder.search_end.read_text(encoding="utf-8"))
        return SearchEnd(ended_by=str(content["ended_by"]), limits=dict(content["limits"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(f"{folder.search_end} is damaged ({error}). Delete it: the search goes on or ends.") from error


def _limits(plan: StudyPlan) -> dict[str, Any]:
    return {"trials": plan.search.trials, **plan.search.budget.model_dump(mode="json")}
