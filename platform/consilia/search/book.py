"""The driver's book of trials: what is asked, heard, decided and written, with no Ray."""

import logging
from collections.abc import Iterator, Mapping, Sequence

from consilia.folder import StudyFolder
from consilia.plan.study import SearchPlan
from consilia.record_files import read_trial, write_trial
from consilia.records import EpochReport, FoldResult, TrialOutcome, TrialRecord, TrialTask
from consilia.scoring.metrics import METRICS
from consilia.search.observer import SearchObserver
from consilia.search.racing import Racing
from consilia.search.suggester import Suggester
from consilia.training.artifacts import read_history

logger = logging.getLogger(__name__)


class TrialBook:
    """One writer for the journal and every trial.json.

    An ended trial is written to trial.json first and told to Optuna second; whatever lies between the two when the
    driver dies is told when the next driver opens the book.
    """

    def __init__(
        self,
        plan: SearchPlan,
        *,
        folder: StudyFolder,
        n_folds: int,
        suggester: Suggester,
        racing: Racing,
        observer: SearchObserver,
    ) -> None:
        self._plan = plan
        self._folder = folder
        self._n_folds = n_folds
        self._suggester = suggester
        self._racing = racing
        self._observer = observer
        self._running: dict[int, TrialTask] = {}
        self._folds: dict[int, dict[int, FoldResult]] = {}
        self._last_score: dict[int, float] = {}
        self._seconds: dict[int, float] = {}
        self._stops: dict[int, str] = {}
        self.records: dict[int, TrialRecord] = read_trials(folder)
        self._resumable = self._settle()

    def next_task(self) -> TrialTask | None:
        """Return an interrupted trial, or else a new one; None when the budget of trials is spent."""
        if self._resumable:
            task = self._resumable.pop(0)
        elif self._suggester.n_asked < self._plan.trials:
            task = self._suggester.ask()
        else:
            return None
        self._running[task.number] = task
        self._write(TrialRecord(number=task.number, state="running", hyperparameters=task.hyperparameters))
        self._observer.trial_started(task)
        return task

    def hear(self, report: EpochReport) -> str | None:
        """Take an epoch down and decide.

        Returns:
            Why the trial stops now, or None for it to go on.
        """
        if report.number not in self._running:
            return None
        self._last_score[report.number] = report.score
        self._seconds[report.number] = self._seconds.get(report.number, 0.0) + report.seconds
        if report.fold_result is not None:
            self._folds.setdefault(report.number, {})[report.fold] = report.fold_result
        self._observer.epoch_ended(report)
        reason = self._racing.hear(report)
        if reason is not None:
            self._stops[report.number] = reason
        return reason

    def end(self, outcome: TrialOutcome) -> None:
        """Write how a trial ended; a trial that has ended already is left alone."""
        task = self._running.pop(outcome.number, None)
        if task is None:
            return
        folds = tuple(result for _, result in sorted(self._folds.pop(outcome.number, {}).items()))
        record = TrialRecord(
            number=outcome.number,
            state=outcome.state,
            hyperparameters=task.hyperparameters,
            folds=folds,
            objective=self._objective(outcome, folds),
            reason=outcome.reason,
            seconds=self._seconds.pop(outcome.number, 0.0),
        )
        self._write(record)
        self._suggester.tell(record, metric=self._plan.metric)
        self._drop_weights()
        self._observer.trial_ended(record)

    def stop(self, number: int) -> None:
        """End a running trial that `hear` has stopped."""
        if number in self._stops:
            self.end(TrialOutcome(number=number, state="stopped", reason=self._stops.pop(number)))

    def sweep(self) -> None:
        """Delete checkpoints of ended trials: a stopped worker may write one more before it notices."""
        for number, record in self.records.items():
            if record.state != "running":
                for fold in range(self._n_folds):
                    self._folder.trial(number).fold(fold).checkpoint.unlink(missing_ok=True)

    def _settle(self) -> list[TrialTask]:
        """Tell Optuna of ends it has not heard of, and return the trials to go on with."""
        resumable = []
        for task in self._suggester.unfinished():
            record = self.records.get(task.number)
            if record is not None and record.state != "running":
                self._suggester.tell(record, metric=self._plan.metric)
            else:
                resumable.append(task)
        return resumable

    def _objective(self, outcome: TrialOutcome, folds: Sequence[FoldResult]) -> float | None:
        if outcome.state == "failed":
            return None
        if outcome.state == "stopped":
            return self._last_score.get(outcome.number)
        assert len(folds) == self._n_folds, f"trial {outcome.number} finished with {len(folds)} folds"
        return sum(fold.metrics[self._plan.metric] for fold in folds) / len(folds)

    def _write(self, record: TrialRecord) -> None:
        self.records[record.number] = record
        write_trial(self._folder.trial(record.number).record, record)

    def _drop_weights(self) -> None:
        """Keep the weights of the best trials only; their OOF predictions always stay."""
        for record in leaderboard(self.records, metric=self._plan.metric)[self._plan.keep_weights :]:
            for fold in range(self._n_folds):
                self._folder.trial(record.number).fold(fold).weights.unlink(missing_ok=True)


def leaderboard(records: Mapping[int, TrialRecord], *, metric: str) -> list[TrialRecord]:
    """Return the fully evaluated trials, best first; a tie goes to the earlier trial."""
    sign = -1.0 if METRICS[metric].higher_is_better else 1.0
    finished = [record for record in records.values() if record.state == "finished"]
    return sorted(finished, key=lambda record: (sign * (record.objective or 0.0), record.number))


def read_trials(folder: StudyFolder) -> dict[int, TrialRecord]:
    """Read every trial.json of a study, by number."""
    paths = folder.trials.glob("*/trial.json")
    return {record.number: record for record in sorted(map(read_trial, paths), key=lambda record: record.number)}


def stored_reports(folder: StudyFolder, *, metric: str) -> Iterator[EpochReport]:
    """Yield what the first folds of all trials have reported, by trial and epoch, so that racing can remember."""
    for number in read_trials(folder):
        path = folder.trial(number).fold(0).history
        if not path.is_file():
            continue
        for row in read_history(path).to_dict("records"):
            yield EpochReport(
                number=number,
                fold=0,
                epoch=int(row["epoch"]),
                score=float(row[metric]),
                train_loss=float(row["train_loss"]),
                seconds=float(row["seconds"]),
                images=0,
            )
