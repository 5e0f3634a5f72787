"""Find the earlier studies that a study starts from, and read their best trials."""

from collections import Counter
from pathlib import Path

from consilia.config.study import StudyPlan
from consilia.config.study_folder import StudyFolder
from consilia.errors import PlanError, StudyError
from consilia.study.folder import find_study
from consilia.tune.space import join_spaces
from consilia.tune.stored import leaderboard, read_trials
from consilia.tune.warm_start import EarlierStudy, WarmStart, warm_start


def read_warm_start(plan: StudyPlan, studies: Path) -> WarmStart:
    """Return the configurations of `search.warm_start` that the study tries after its defaults.

    A study that has trials already holds them in its journal: the earlier studies are then not needed any more.

    Args:
        plan: The study.
        studies: Folder of all studies, where names are looked up.

    Raises:
        PlanError: An earlier study does not exist, has no finished trial, or is the study itself.
    """
    own = StudyFolder(studies.absolute() / plan.name)
    for reference in plan.search.warm_start:
        if reference == plan.name or Path(reference).resolve() == own.root.resolve():
            raise PlanError(f"search.warm_start: {reference!r} is this study itself; name earlier ones.")
    if not plan.search.warm_start or read_trials(own):
        return WarmStart()
    earlier = [_read_earlier(reference, studies) for reference in dict.fromkeys(plan.search.warm_start)]
    space = join_spaces(plan.spaces, weights=plan.training.weights)
    return warm_start(earlier, space, n_trials=plan.search.trials)


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
    return EarlierStudy(
        name=plan.name, space=join_spaces(plan.spaces, weights=plan.training.weights), trials=best_first
    )


def _has_finished(root: Path) -> bool:
    return any(record.state == "finished" for record in read_trials(StudyFolder(root)).values())
