"""A trial is a cross-validation: the folds of the plan, one after the other, in one order for every trial."""

import time
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from consilia.record_files import read_fold_result
from consilia.records import FoldResult, TrialOutcome, TrialState, TrialTask
from consilia.training.batches import open_images
from consilia.training.context import TrainingContext
from consilia.training.device import resolve_device
from consilia.training.disk import is_disk_full
from consilia.training.exchange import GroupLost
from consilia.training.fold import FoldJob, TrainingError, make_job
from consilia.training.loop import Report, Stopped, train_fold
from consilia.training.memory import is_out_of_memory
from consilia.training.parallel import ALONE, Group
from consilia.training.tables import read_history


def cross_validate(
    task: TrialTask, context: TrainingContext, *, report: Report, stopped: Stopped, group: Group = ALONE
) -> TrialOutcome:
    """Train the folds that are not finished; one that was interrupted goes on after its last complete epoch.

    What is stored already is reported again: of a finished fold its last epoch, of an interrupted one every
    epoch. Receivers tell epochs apart by (fold, epoch), and know what is repeated by its mark.

    Args:
        task: The trial.
        context: What it shares with the study's other trials.
        report: Called after each epoch; of several workers, in the first alone.
        stopped: Polled between batches; once it returns True, on any worker, the trial ends as "stopped".
        group: The workers that train this trial together; all call this with the same task and context.

    Returns:
        "finished"; "stopped"; "failed", with the reason, where the loss is not finite or memory runs out; or
        "paused", where the disk is full. All workers return the same. Its seconds are those of earlier, finished folds
        plus the time this call took.

    Raises:
        ConsiliaError: The configuration cannot be trained at all; all workers raise it.
        GroupLost: One of several workers failed alone, or is gone: the processes of all must be replaced. Where the
            trial ends by it, the failed worker's holds the outcome, which no other worker knows.
    """
    trial = _Trial(task=task, context=context, group=group)
    try:
        return trial.train(report, stopped)
    except GroupLost as lost:
        if lost.own_error is not None:
            lost.outcome = trial.end_by(lost.own_error)
        raise
    except Exception as error:
        if not (isinstance(error, TrainingError) or is_disk_full(error) or is_out_of_memory(error)):
            raise
        outcome = trial.end_by(error)
    if outcome.state == "failed":
        group.from_leader(lambda: _drop_checkpoints(task, context))
    return outcome


@dataclass(slots=True, kw_only=True)
class _Trial:
    """A trial while it is trained."""

    task: TrialTask
    context: TrainingContext
    group: Group
    results: list[FoldResult] = field(default_factory=list)
    earlier_seconds: float = 0.0  # of folds that were finished before
    started: float = field(default_factory=time.perf_counter)

    def train(self, report: Report, stopped: Stopped) -> TrialOutcome:
        """Train fold after fold."""
        context, group = self.context, self.group
        images = group.agree(lambda: open_images(context.store, resolve_device(context.device)))
        for fold in range(context.folds.k):
            job = group.agree(partial(make_job, self.task, fold, context, group=group))
            result = group.from_leader(partial(_repeat_result, job, report))
            if result is not None:
                self.earlier_seconds += result.seconds
            else:
                result = train_fold(job, images, report=report, stopped=stopped)
                if result is None:
                    return self._end("stopped", f"stopped in {job.title}")
            self.results.append(result)
        return self._end("finished")

    def end_by(self, error: Exception) -> TrialOutcome:
        """Return how the trial ends by an error."""
        if is_disk_full(error):
            return self._end("paused", str(error), fault="disk")
        if is_out_of_memory(error):
            return self._end("failed", self._memory_reason(), fault="memory")
        kind = "" if isinstance(error, TrainingError) else f"{type(error).__name__}: "
        return self._end("failed", f"{kind}{error}")

    def _end(self, state: TrialState, reason: str = "", *, fault: Literal["", "memory", "disk"] = "") -> TrialOutcome:
        return TrialOutcome(
            number=self.task.number,
            state=state,
            reason=reason,
            folds=tuple(self.results),
            seconds=self.earlier_seconds + time.perf_counter() - self.started,
            fault=fault,
        )

    def _memory_reason(self) -> str:
        context, options, n = self.context, self.task.hyperparameters, self.group.size
        workers = f" on {n} workers" if n > 1 else ""
        return (
            f"out of memory on {context.device} with batches of {context.training.batch_size} images of "
            f"{context.image_size_of(options)} px ({options.architecture}){workers}; "
            f"lower training.batch_size or training.image_size"
        )


def _repeat_result(job: FoldJob, report: Report) -> FoldResult | None:
    """Report a finished fold again: whoever listened may not have heard it. None: it is not finished."""
    if not job.folder.result.exists():
        return None
    result = read_fold_result(job.folder.result)
    last = read_history(job.folder.history).iloc[-1].to_dict()
    report(job.report({str(name): float(value) for name, value in last.items()}, result, is_repeat=True))
    return result


def _drop_checkpoints(task: TrialTask, context: TrainingContext) -> None:
    """Free the disk: a failed trial is not taken up again."""
    for fold in range(context.folds.k):
        context.trial(task.number).fold(fold).checkpoint.unlink(missing_ok=True)
