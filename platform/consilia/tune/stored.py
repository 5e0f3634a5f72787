"""Reads what the trials of a study have left on disk."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from consilia.config.record_files import read_fold_result, read_trial
from consilia.config.records import Confirmation, EpochReport, FoldResult, TrialRecord
from consilia.config.study import StudyPlan
from consilia.config.study_folder import StudyFolder
from consilia.metrics.scores import METRICS
from consilia.train.tables import read_history


def leaderboard(records: Mapping[int, TrialRecord], *, metric: str) -> list[TrialRecord]:
    """Return the fully evaluated trials, best first; a tie goes to the earlier trial."""
    sign = -1.0 if METRICS[metric].higher_is_better else 1.0
    finished = [record for record in records.values() if record.state == "finished"]
    return sorted(finished, key=lambda record: (sign * (record.objective or 0.0), record.number))


def read_trials(folder: StudyFolder) -> dict[int, TrialRecord]:
    """Read every trial.json of a study, by number."""
    paths = folder.trials.glob("*/trial.json")
    return {record.number: record for record in sorted(map(read_trial, paths), key=lambda record: record.number)}


def read_confirmations(folder: StudyFolder, ranked: Sequence[TrialRecord], *, plan: StudyPlan) -> list[Confirmation]:
    """Return the finished confirmations of the best `search.confirm` trials, the best trial first.

    Args:
        folder: Of the study.
        ranked: Its leaderboard.
        plan: Of the study.

    Raises:
        StudyError: A result is damaged; names it.
    """
    found = []
    for record in ranked[: plan.search.confirm]:
        results = [folder.confirmation(record.number).fold(fold).result for fold in range(plan.folds.k)]
        if all(path.exists() for path in results):
            scores = tuple(read_fold_result(path).metrics[plan.search.metric] for path in results)
            assert record.objective is not None, "it has finished"
            found.append(Confirmation(number=record.number, searched=record.objective, folds=scores))
    return found


def stored_reports(folder: StudyFolder, *, metric: str) -> Iterator[EpochReport]:
    """Yield what all trials have reported, by trial, fold and epoch, so that racing can remember.

    Of the first fold every epoch, since halving looks at them; of the others, which only count when they are finished,
    the fold's end.
    """
    for number, record in read_trials(folder).items():
        results = {result.fold: result for result in record.folds}
        path = folder.trial(number).fold(0).history
        rows = read_history(path).to_dict("records") if path.is_file() else []
        reports = [_stored_epoch(number, {str(key): value for key, value in row.items()}, metric) for row in rows]
        if 0 in results and reports:
            reports[-1] = replace(reports[-1], fold_result=results.pop(0))
        yield from reports
        for result in results.values():
            yield _stored_fold(number, result, metric)


def _stored_epoch(number: int, row: Mapping[str, float], metric: str) -> EpochReport:
    return EpochReport(
        number=number,
        fold=0,
        epoch=int(row["epoch"]),
        score=float(row[metric]),
        train_loss=float(row["train_loss"]),
        seconds=float(row["seconds"]),
        images=0,
        is_repeat=True,
    )


def _stored_fold(number: int, result: FoldResult, metric: str) -> EpochReport:
    return EpochReport(
        number=number,
        fold=result.fold,
        epoch=result.epochs,
        score=float(result.metrics[metric]),
        train_loss=0.0,
        seconds=0.0,
        images=0,
        fold_result=result,
        is_repeat=True,
    )
