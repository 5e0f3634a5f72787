"""A trial is a cross-validation: the folds of the plan, one after the other, in one order for every trial."""

from functools import partial

from consilia.config.record_files import read_fold_result
from consilia.config.records import FoldResult, TrialOutcome, TrialTask
from consilia.train.batches import open_images
from consilia.train.context import TrainingContext
from consilia.train.device import resolve_device
from consilia.train.distributed import ALONE, Group
from consilia.train.ending import Attempt
from consilia.train.fold import FoldState, open_fold
from consilia.train.job import FoldJob, make_job
from consilia.train.loop import Report, Stopped, train_fold
from consilia.train.tables import read_history


def cross_validate(
    task: TrialTask, context: TrainingContext, *, report: Report, stopped: Stopped, group: Group = ALONE
) -> TrialOutcome:
    """Train the folds that are not finished; an interrupted one continues after its last complete epoch.

    What is stored already is reported again: of a finished fold its last epoch, of an interrupted one every
    epoch. Receivers identify an epoch by (fold, epoch); what is repeated is marked.

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
        GroupLost: One of several workers failed alone, or is gone: the processes of all must be replaced. If that
            ends the trial, the failed worker's error holds the outcome, which no other worker knows.
    """
    trial = Attempt(task=task, context=context, group=group)
    return trial.run(
        partial(_train_folds, trial, report, stopped), drop_checkpoints=partial(_drop_checkpoints, task, context)
    )


def _train_folds(trial: Attempt, report: Report, stopped: Stopped) -> TrialOutcome:
    context, group = trial.context, trial.group
    images = group.agree(lambda: open_images(context.store, resolve_device(context.device)))
    state: FoldState | None = None  # whose step is captured, for the next fold
    for fold in range(context.folds.k):
        job = group.agree(partial(make_job, trial.task, fold, context, group=group))
        result = group.from_leader(partial(_repeat_result, job, report))
        if result is not None:
            trial.earlier_seconds += result.seconds
        else:
            state = open_fold(job, earlier=state)
            result = train_fold(job, state, images, report=report, stopped=stopped)
            if result is None:
                return trial.end("stopped", f"stopped in {job.title}")
            if not state.step.is_captured:
                state = None  # frees its memory before the next fold's is taken
        trial.results.append(result)
    return trial.end("finished")


def _repeat_result(job: FoldJob, report: Report) -> FoldResult | None:
    """Report a finished fold again, since the listener may have missed it; None if it is not finished."""
    if not job.folder.result.exists():
        return None
    result = read_fold_result(job.folder.result)
    last = read_history(job.folder.history).iloc[-1].to_dict()
    report(job.report({str(name): float(value) for name, value in last.items()}, result, is_repeat=True))
    return result


def _drop_checkpoints(task: TrialTask, context: TrainingContext) -> None:
    """Free the disk: a failed trial is never resumed."""
    for fold in range(context.folds.k):
        context.trial(task.number).fold(fold).checkpoint.unlink(missing_ok=True)
