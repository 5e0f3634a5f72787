"""A trial is a cross-validation: the folds of the plan, one after the other, in one order for every trial."""

import time

import torch

from consilia.record_files import read_fold_result
from consilia.records import FoldResult, TrialOutcome, TrialState, TrialTask
from consilia.training.artifacts import read_history
from consilia.training.batches import open_images
from consilia.training.context import TrainingContext
from consilia.training.device import resolve_device
from consilia.training.fold import FoldJob, TrainingError, make_job
from consilia.training.loop import Report, Stopped, train_fold

# A CPU allocator that gives up raises a plain RuntimeError; these are its words on Linux, macOS and Windows.
_HOST_MEMORY_WORDS = ("can't allocate memory", "not enough memory", "Cannot allocate memory")


def cross_validate(task: TrialTask, context: TrainingContext, *, report: Report, stopped: Stopped) -> TrialOutcome:
    """Train the folds that are not finished; one that was interrupted goes on after its last complete epoch.

    What is stored already is reported again: of a finished fold its last epoch, of an interrupted one every
    epoch. Receivers tell epochs apart by (fold, epoch).

    Args:
        task: The trial.
        context: What it shares with the study's other trials.
        report: Called after each epoch.
        stopped: Polled between batches; once it returns True the trial ends as "stopped".

    Returns:
        "finished"; "stopped"; or "failed", with the reason, where the loss is not finite or memory runs out.
        Its seconds are those of earlier, finished folds plus the time this call took.

    Raises:
        ConsiliaError: The configuration cannot be trained at all.
    """
    started = time.perf_counter()
    results: list[FoldResult] = []
    earlier_seconds = 0.0

    def end(state: TrialState, reason: str = "") -> TrialOutcome:
        return TrialOutcome(
            number=task.number,
            state=state,
            reason=reason,
            folds=tuple(results),
            seconds=earlier_seconds + time.perf_counter() - started,
        )

    try:
        images = open_images(context.store, resolve_device(context.device))
        for fold in range(context.folds.k):
            job = make_job(task, fold, context)
            if job.folder.result.exists():
                result = _repeat_result(job, report)
                earlier_seconds += result.seconds
            else:
                trained = train_fold(job, images, report=report, stopped=stopped)
                if trained is None:
                    return end("stopped", f"stopped in {job.title}")
                result = trained
            results.append(result)
    except TrainingError as error:
        _drop_checkpoints(task, context)
        return end("failed", str(error))
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        _drop_checkpoints(task, context)
        return end("failed", _memory_reason(task, context))
    return end("finished")


def _repeat_result(job: FoldJob, report: Report) -> FoldResult:
    """Report a finished fold again: whoever listened may not have heard it."""
    result = read_fold_result(job.folder.result)
    last = read_history(job.folder.history).iloc[-1].to_dict()
    report(job.report({str(name): float(value) for name, value in last.items()}, result))
    return result


def _drop_checkpoints(task: TrialTask, context: TrainingContext) -> None:
    """Free the disk: a failed trial is not taken up again."""
    for fold in range(context.folds.k):
        context.trial(task.number).fold(fold).checkpoint.unlink(missing_ok=True)


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error) for words in _HOST_MEMORY_WORDS)


def _memory_reason(task: TrialTask, context: TrainingContext) -> str:
    return (
        f"out of memory on {context.device} with batches of {context.training.batch_size} images of "
        f"{context.image_size_of(task.hyperparameters)} px ({task.hyperparameters.architecture}); "
        f"lower training.batch_size or training.image_size"
    )
