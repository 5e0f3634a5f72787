"""A refit: a trial's configuration trained once more, on every image outside the test split.

It takes the study's epochs and learning-rate schedule, and the averaged weights of the last epoch: no image is held out
that could tell when to stop, and none is needed. Source: docs/methods.md section 4.
"""

import time
from functools import partial

import torch

from consilia.config.record_files import read_refit_result, write_refit_result
from consilia.config.records import ALL_FOLDS, RefitResult, TrialOutcome, TrialTask
from consilia.config.study_folder import TrialFolder
from consilia.data.folds import FoldPlan
from consilia.errors import StudyError
from consilia.train.batches import Images, open_images
from consilia.train.context import TrainingContext
from consilia.train.device import resolve_device
from consilia.train.distributed import ALONE, Group
from consilia.train.ending import Attempt
from consilia.train.faults import TrainingError, writing
from consilia.train.fold import FoldState, open_fold
from consilia.train.job import FoldJob, make_job
from consilia.train.loop import Report, Stopped, epoch_row, repeat_epochs, store_epoch, train_epoch
from consilia.train.network_files import write_weights
from consilia.train.tables import write_history


def refit(
    task: TrialTask, context: TrainingContext, *, report: Report, stopped: Stopped, group: Group = ALONE
) -> TrialOutcome:
    """Train the configuration on the images of all folds; an interrupted refit continues after its last complete epoch.

    Epochs that the checkpoint holds are reported again, marked as repeated. A refit that is stored is not repeated.

    Args:
        task: The trial.
        context: What it shares with the study's other trials.
        report: Called after each epoch; of several workers, in the first alone. Its score is NaN.
        stopped: Polled between batches; once it returns True, on any worker, the refit ends as "stopped".
        group: The workers that train it together; all call this with the same task and context.

    Returns:
        "finished"; "stopped"; "failed", with the reason, where loss or weights are not finite or memory runs out; or
        "paused", where the disk is full. All workers return the same.

    Raises:
        ConsiliaError: The configuration cannot be trained at all; all workers raise it.
        GroupLost: One of several workers failed alone, as in `train.cross_validation`.
    """
    attempt = Attempt(task=task, context=context, group=group)
    checkpoint = context.trial(task.number).refit.checkpoint
    return attempt.run(
        partial(_train, attempt, report, stopped), drop_checkpoints=partial(checkpoint.unlink, missing_ok=True)
    )


def read_refit(trial: TrialFolder, folds: FoldPlan) -> RefitResult | None:
    """Return what a trial's refit left, or None if it is not finished.

    Raises:
        StudyError: It is damaged, or was trained on the images of other folds; names it.
    """
    path = trial.refit.result
    if not path.exists():
        return None
    result = read_refit_result(path)
    if (result.folds_digest, result.n_images) != (folds.digest, len(folds.pool)):
        raise StudyError(
            f"{path} must be of a network trained on the {len(folds.pool)} images of this study's folds, but is of one "
            f"trained on {result.n_images} images of other folds. Delete its folder to train it again."
        )
    return result


def _train(attempt: Attempt, report: Report, stopped: Stopped) -> TrialOutcome:
    context, group = attempt.context, attempt.group
    stored = group.from_leader(lambda: read_refit(context.trial(attempt.task.number), context.folds))
    if stored is not None:
        attempt.earlier_seconds += stored.seconds
        return attempt.end("finished")
    images = group.agree(lambda: open_images(context.store, resolve_device(context.device)))
    job = group.agree(partial(make_job, attempt.task, ALL_FOLDS, context, group=group))
    state = open_fold(job)
    with state.checkpoints.written_on_error():
        has_ended = _train_epochs(job, state, images, report=report, stopped=stopped)
    if not has_ended:
        return attempt.end("stopped", f"stopped in {job.title}")
    return attempt.end("finished")


def _train_epochs(job: FoldJob, state: FoldState, images: Images, *, report: Report, stopped: Stopped) -> bool:
    """Train on to the last epoch; say whether it came to its end."""
    group, epochs = job.group, job.context.training.epochs
    group.from_leader(lambda: repeat_epochs(job, state, report))
    for epoch in range(len(state.history) + 1, epochs + 1):
        started = time.perf_counter()
        with group.lockstep():
            train_loss = train_epoch(job, state, images, epoch=epoch, stopped=stopped)
        if train_loss is None:
            group.from_leader(state.checkpoints.write)
            return False
        state.history.append(epoch_row(job, epoch=epoch, train_loss=train_loss, started=started, scores={}))
        if epoch < epochs:
            group.from_leader(lambda: store_epoch(job, state, report))
    group.from_leader(lambda: _finish(job, state, report))
    return True


def _finish(job: FoldJob, state: FoldState, report: Report) -> None:
    """Write the files, the result last: a refit that has it is finished."""
    weights = state.average.module.state_dict()
    _check_finite(weights)  # without held-out images nothing else would show it
    folder, folds = job.folder, job.context.folds
    result = RefitResult(
        number=job.task.number,
        epochs=len(state.history),
        n_images=len(job.training_rows),
        folds_digest=folds.digest,
        seconds=sum(float(epoch["seconds"]) for epoch in state.history),
    )
    with writing(folder.weights):
        write_weights(folder.weights, weights, model=job.spec, preprocessing=job.preprocessing)
    with writing(folder.history):
        write_history(folder.history, state.history)
    with writing(folder.result):
        write_refit_result(folder.result, result)
    state.checkpoints.drop()
    report(job.report(state.history[-1], note=state.note))


def _check_finite(weights: dict[str, torch.Tensor]) -> None:
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise TrainingError(
                f"the averaged weights {name} are not finite after the last epoch; a smaller lr may help"
            )
