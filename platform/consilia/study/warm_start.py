"""Find the earlier studies that a study starts from, and read their best trials."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from consilia.config.study_folder import StudyFolder
from consilia.errors import PlanError, StudyError
from consilia.study.folder import find_study
from consilia.study.mirror import find_remote_study
from consilia.study.opened import OpenStudy
from consilia.study.remote import Remote
from consilia.study.spaces import join_plan_spaces
from consilia.tune.stored import leaderboard, read_trials
from consilia.tune.warm_start import EarlierStudy, WarmStart, warm_start


def read_warm_start(study: OpenStudy) -> WarmStart:
    """Return the configurations of `search.warm_start` that the study tries after its defaults.

    Names are looked up among the studies beside this one. A study that has trials already holds these configurations
    in its journal: the earlier studies are then no longer needed.

    Raises:
        PlanError: An earlier study does not exist, has no finished trial, or is the study itself.
    """
    plan = study.plan
    for reference in plan.search.warm_start:
        if reference == plan.name or Path(reference).resolve() == study.folder.root.resolve():
            raise PlanError(f"search.warm_start: {reference!r} is this study itself; name earlier ones.")
    if not plan.search.warm_start or study.records():
        return WarmStart()
    references = list(dict.fromkeys(plan.search.warm_start))
    if study.remote_studies is not None:
        _pull_named(references, study.studies, study.remote_studies)
    earlier = [_read_earlier(reference, study.studies) for reference in references]
    return warm_start(earlier, study.space, n_trials=plan.search.trials)


def _pull_named(references: Iterable[str], studies: Path, remote: Remote) -> None:
    for reference in references:
        if "/" not in reference:
            try:
                find_remote_study(reference, studies, remote)
            except StudyError as error:
                raise PlanError(f"search.warm_start: {error}") from None


def _read_earlier(reference: str, studies: Path) -> EarlierStudy:
    try:
        plan, folder = find_study(reference, studies)
    except StudyError as error:
        raise PlanError(f"search.warm_start: {error}") from None
    records = read_trials(folder)
    best_first = leaderboard(records, metric=plan.search.metric)
    if not best_first:
        states = Counter(record.state for record in records.values())
        found = ", ".join(f"{count} {state}" for state, count in states.items()) or "none at all"
        others = [path.parent.name for path in studies.glob("*/study.yaml") if _has_finished(path.parent)]
        raise PlanError(
            f"search.warm_start: {reference!r} has no finished trial ({found}). "
            f"Studies in {studies} that have: {', '.join(sorted(others)) or 'none'}."
        )
    return EarlierStudy(name=plan.name, space=join_plan_spaces(plan), trials=best_first)


def _has_finished(root: Path) -> bool:
    return any(record.state == "finished" for record in read_trials(StudyFolder(root)).values())
