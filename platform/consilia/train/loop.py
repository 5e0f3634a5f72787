"""The training loop: one fold, epoch by epoch, batch by batch."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from consilia.config.records import EpochReport, FoldResult, Logits, Rows
from consilia.metrics.scores import METRICS
from consilia.train.batches import Images
from consilia.train.faults import TrainingError
from consilia.train.fold import FoldState, finish_fold, score_epoch, store_state
from consilia.train.inference import predict_logits, scoring_batch
from consilia.train.job import FoldJob
from consilia.train.losses import partners_shares
from consilia.train.optimiser import average_decay, lr_factor
from consilia.train.order import epoch_order, evaluation_shard, sqrt_sampled_order
from consilia.train.seeds import Purpose, generator, seed_torch
from consilia.train.step import Batch, Settings
from consilia.train.tables import HistoryRow
from consilia.train.warp import Warps, draw_warps

Report = Callable[[EpochReport], None]
Stopped = Callable[[], bool]

_STEPS_BETWEEN_CHECKS = 20  # of the loss; each check makes a GPU wait


def train_fold(
    job: FoldJob, state: FoldState, images: Images, *, report: Report, stopped: Stopped
) -> FoldResult | None:
    """Train from the last complete epoch to the last one; then write the fold's files.

    After each epoch the averaged weights are scored on the validation fold, where anybody asks for it, the state is
    saved and the epoch is reported. Epochs that the checkpoint already holds are reported again, in order. The fold's
    score is that of the last epoch: choosing the best one on these images would be optimistic.

    Args:
        job: The fold; of several workers each has its own, and all call this together.
        state: Of `open_fold`.
        images: The store's, on the job's device.
        report: Called after each epoch; with the FoldResult after the last. Of several workers, in the first alone.
        stopped: Polled between batches. It is called during the validation too, where its answer does not count.

    Returns:
        The result, or None if it was stopped; the checkpoint then stays.

    Raises:
        TrainingError: The loss or the validation logits are not finite.
        DiskFullError: A file could not be written.
        GroupLost: One of several workers failed alone.
    """
    with state.checkpoints.written_on_error():
        return _train_epochs(job, state, images, report=report, stopped=stopped)


def _train_epochs(
    job: FoldJob, state: FoldState, images: Images, *, report: Report, stopped: Stopped
) -> FoldResult | None:
    group, plan = job.group, job.context.training
    group.from_leader(lambda: repeat_epochs(job, state, report))
    for epoch in range(len(state.history) + 1, plan.epochs + 1):
        started = time.perf_counter()
        with group.lockstep():
            train_loss = train_epoch(job, state, images, epoch=epoch, stopped=stopped)
        if train_loss is None:
            group.from_leader(state.checkpoints.write)
            return None
        scores = dict.fromkeys(METRICS, math.nan)
        if job.is_scored(epoch):
            logits = _validate(job, state, images, is_last=epoch == plan.epochs, alive=stopped)
            scores = score_epoch(job, logits)
        state.history.append(epoch_row(job, epoch=epoch, train_loss=train_loss, started=started, scores=scores))
        if epoch < plan.epochs:
            group.from_leader(lambda: store_epoch(job, state, report))
    return group.from_leader(lambda: _finish(job, state, logits, report))


def epoch_row(job: FoldJob, *, epoch: int, train_loss: float, started: float, scores: HistoryRow) -> HistoryRow:
    """Return what the history keeps of an epoch that began at `started`, a reading of `time.perf_counter`."""
    return {
        "epoch": epoch,
        "train_loss": train_loss,
        **scores,
        "lr": learning_rate(job, epoch * len(job.batches) - 1),
        "seconds": time.perf_counter() - started,
        "images": len(job.training_rows),
    }


def repeat_epochs(job: FoldJob, state: FoldState, report: Report) -> None:
    """Report the epochs that the checkpoint holds, since the listener may have missed them."""
    for row in state.history:
        report(job.report(row, is_repeat=True))


def store_epoch(job: FoldJob, state: FoldState, report: Report) -> None:
    """Save the state after a complete epoch that is not the last, then report it."""
    store_state(job, state)
    report(job.report(state.history[-1], note=state.note))
    state.note = ""


def _finish(job: FoldJob, state: FoldState, logits: Logits, report: Report) -> FoldResult:
    result = finish_fold(job, state, logits)
    report(job.report(state.history[-1], result, note=state.note))
    return result


def _validate(job: FoldJob, state: FoldState, images: Images, *, is_last: bool, alive: Callable[[], object]) -> Logits:
    """Return the averaged weights' logits of the validation images; each worker computes some of them.

    Those of the last epoch, which are kept, are in float32.
    """
    group = job.group
    rows = evaluation_shard(job.validation_rows, worker=group.rank, n_workers=group.size)
    logits = group.agree(
        lambda: predict_logits(
            state.average.module,
            images,
            rows,
            preprocessing=job.preprocessing,
            batch_size=scoring_batch(job.context.training.batch_size, job.device),
            precision="float32" if is_last else job.context.training.precision,
            alive=alive,
        )
    )
    return group.gather(logits)


def train_epoch(job: FoldJob, state: FoldState, images: Images, *, epoch: int, stopped: Stopped) -> float | None:
    """Take one step a batch; return the mean loss, or None if stopped.

    Every random number derives from the seed, the fold and the epoch, so a resumed fold repeats an
    undisturbed one.
    """
    context, group, share = job.context, job.group, job.share
    drawn = _draw_epoch(job, state, epoch)
    seed_torch(context.seed, fold=job.stream, epoch=epoch, purpose=Purpose.DROPOUT, worker=group.rank)
    state.model.train()
    total = torch.zeros((), device=job.device)
    with closing(images.batches([drawn.rows[part] for part in share.batches])) as batches:
        for number, (part, batch) in enumerate(zip(share.batches, batches, strict=True)):
            if group.any(stopped()):
                return None
            warps = None if drawn.warps is None else drawn.warps[part]
            taken = Batch(batch, warps, drawn.targets[part], drawn.settings[number])
            total += state.step(taken, n_own=share.n_own[number]) * share.n_whole[number]
            if (number + 1) % _STEPS_BETWEEN_CHECKS == 0 or number + 1 == len(share.batches):
                sum_of_losses = group.sum(total).item()
                lr = learning_rate(job, (epoch - 1) * len(job.batches) + number)
                _check_finite(sum_of_losses, job, epoch=epoch, lr=lr)
    state.average.copy_counts()
    return sum_of_losses / len(job.training_rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Epoch:
    """What an epoch draws, in one go: what lies on the device need not be waited for step by step."""

    rows: Rows  # that this worker loads, in order
    warps: Warps | None  # one an image
    targets: torch.Tensor  # (m, n_classes)
    settings: Sequence[Settings]  # one a step


def _draw_epoch(job: FoldJob, state: FoldState, epoch: int) -> _Epoch:
    """Draw what this worker does in an epoch: all draw the same for all, and each takes its share."""
    places, options = job.share.places, job.task.hyperparameters
    draw = partial(generator, job.context.seed, fold=job.stream, epoch=epoch)
    rows = job.training_rows
    if options.imbalance == "sqrt_sampling":
        order = sqrt_sampled_order(rows, job.labels[rows], draw(purpose=Purpose.ORDER))
    else:
        order = epoch_order(rows, draw(purpose=Purpose.ORDER))
    warps = None
    if options.augmentation > 0:
        rng = draw(purpose=Purpose.WARP)
        warps = draw_warps(rng, len(order), policy=job.context.policy, strength=options.augmentation)
        warps = warps[torch.from_numpy(places)].to(job.device)
    labels = torch.from_numpy(job.labels[order[places]]).to(job.device)
    return _Epoch(
        rows=order[places],
        warps=warps,
        targets=torch.eye(job.spec.n_classes, device=job.device)[labels],
        settings=_settings(job, state, epoch, draw(purpose=Purpose.MIXUP)),
    )


def _settings(job: FoldJob, state: FoldState, epoch: int, mixup: np.random.Generator) -> Sequence[Settings]:
    """Return what the schedules say of each step of an epoch; in numbers on the CPU, else on the device."""
    n, share = len(job.batches), job.share
    partners = partners_shares(mixup, n, alpha=job.task.hyperparameters.mixup).tolist()
    settings = []
    for number in range(n):
        step = (epoch - 1) * n + number
        lr = learning_rate(job, step)
        own = share.n_own[number] / share.n_whole[number]
        rates = [lr * group["scale"] for group in state.optimiser.param_groups]
        news = 1 - average_decay(step, steps_per_epoch=n)
        settings.append([news, partners[number], own, *rates])
    return settings if job.device.type == "cpu" else torch.tensor(settings, device=job.device).unbind()


def learning_rate(job: FoldJob, step: int) -> float:
    """Return the learning rate at a step of the whole fold, for the layers next to the head, whose scale is 1."""
    options = job.task.hyperparameters
    n_steps = job.context.training.epochs * len(job.batches)
    return options.lr * lr_factor(step, n_steps=n_steps, warmup=options.warmup)


def _check_finite(value: float, job: FoldJob, *, epoch: int, lr: float) -> None:
    if not math.isfinite(value):
        raise TrainingError(
            f"the loss became {value} in {job.title}, epoch {epoch}, at lr {lr:.2e} "
            f"(configured: {job.task.hyperparameters.lr:.2e}); a smaller lr may help"
        )
