"""The training loop: one fold, epoch by epoch, batch by batch."""

import math
import time
from collections.abc import Callable
from contextlib import closing

import torch

from consilia.config.records import EpochReport, FoldResult, Labels, Logits, Rows
from consilia.train.batches import Images
from consilia.train.device import MEMORY_FORMAT, autocast
from consilia.train.faults import TrainingError
from consilia.train.fold import FoldState, finish_fold, open_fold, score_epoch, store_state
from consilia.train.inference import predict_logits
from consilia.train.job import FoldJob
from consilia.train.losses import mix
from consilia.train.optimiser import lr_factor, set_lr
from consilia.train.order import epoch_order, evaluation_shard, sqrt_sampled_order
from consilia.train.seeds import Purpose, generator, seed_torch
from consilia.train.tables import HistoryRow
from consilia.train.warp import Warps, draw_warps, training_input

Report = Callable[[EpochReport], None]
Stopped = Callable[[], bool]

_STEPS_BETWEEN_CHECKS = 20  # of the loss; each check makes a GPU wait


def train_fold(job: FoldJob, images: Images, *, report: Report, stopped: Stopped) -> FoldResult | None:
    """Train from the last checkpoint, or from the start, to the last epoch; then write the fold's files.

    After each epoch the averaged weights are scored on the validation fold, the state is saved and the epoch
    is reported. Epochs that the checkpoint already holds are reported again, in order. The fold's score is
    that of the last epoch: choosing the best one on these images would be optimistic.

    Args:
        job: The fold; of several workers each has its own, and all call this together.
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
    state = open_fold(job)
    group = job.group
    group.from_leader(lambda: repeat_epochs(job, state, report))
    plan = job.context.training
    for epoch in range(len(state.history) + 1, plan.epochs + 1):
        started = time.perf_counter()
        with group.lockstep():
            train_loss = train_epoch(job, state, images, epoch=epoch, stopped=stopped)
        if train_loss is None:
            return None
        logits = _validate(job, state, images, alive=stopped)
        scores = score_epoch(job, logits)
        state.history.append(epoch_row(job, epoch=epoch, train_loss=train_loss, started=started, scores=scores))
        if epoch < plan.epochs:
            group.from_leader(lambda: store_epoch(job, state, report))
    return group.from_leader(lambda: _finish(job, state, logits, report))


def epoch_row(
    job: FoldJob, *, epoch: int, train_loss: float, started: float, scores: HistoryRow | None = None
) -> HistoryRow:
    """Return what the history keeps of an epoch that began at `started`, a reading of `time.perf_counter`."""
    return {
        "epoch": epoch,
        "train_loss": train_loss,
        **(scores or {}),
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


def _validate(job: FoldJob, state: FoldState, images: Images, *, alive: Callable[[], object]) -> Logits:
    """Return the averaged weights' logits of the validation images; each worker computes some of them."""
    group = job.group
    rows = evaluation_shard(job.validation_rows, worker=group.rank, n_workers=group.size)
    logits = group.agree(
        lambda: predict_logits(
            state.average.module,
            images,
            rows,
            preprocessing=job.preprocessing,
            batch_size=job.context.training.batch_size,
            alive=alive,
        )
    )
    return group.gather(logits)


def train_epoch(job: FoldJob, state: FoldState, images: Images, *, epoch: int, stopped: Stopped) -> float | None:
    """Take one step a batch; return the mean loss, or None if stopped.

    Every random number derives from the seed, the fold and the epoch, so a resumed fold repeats an
    undisturbed one.
    """
    context, options, group, share = job.context, job.task.hyperparameters, job.group, job.share
    rows, warps = _draw_epoch(job, epoch)
    targets_of_epoch = torch.eye(job.spec.n_classes, device=job.device)[_to_device(job.labels[rows], job)]
    mixup = generator(context.seed, fold=job.stream, epoch=epoch, purpose=Purpose.MIXUP)
    seed_torch(context.seed, fold=job.stream, epoch=epoch, purpose=Purpose.DROPOUT, worker=group.rank)
    state.model.train()
    total = torch.zeros((), device=job.device)
    with closing(images.batches([rows[part] for part in share.batches])) as batches:
        for number, (part, batch) in enumerate(zip(share.batches, batches, strict=True)):
            if group.any(stopped()):
                return None
            step = (epoch - 1) * len(job.batches) + number
            lr = learning_rate(job, step)
            set_lr(state.optimiser, lr)
            inputs = training_input(batch, None if warps is None else warps[part], job.preprocessing)
            targets = targets_of_epoch[part]
            inputs, targets = mix(inputs, targets, alpha=options.mixup, rng=mixup, n_own=share.n_own[number])
            with autocast(job.device, context.training.precision):
                logits = state.model(inputs.contiguous(memory_format=MEMORY_FORMAT))
            # This worker's part of the whole batch's mean: the parts are summed.
            loss = job.loss(logits.float(), targets) * (share.n_own[number] / share.n_whole[number])
            state.optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call] # torch ships it untyped
            group.sum_gradients(state.model)
            state.optimiser.step()
            state.average.update(step)
            total += loss.detach() * share.n_whole[number]
            if (number + 1) % _STEPS_BETWEEN_CHECKS == 0 or number + 1 == len(share.batches):
                sum_of_losses = group.sum(total).item()
                _check_finite(sum_of_losses, job, epoch=epoch, lr=lr)
    return sum_of_losses / len(job.training_rows)


def _draw_epoch(job: FoldJob, epoch: int) -> tuple[Rows, Warps | None]:
    """Return the images that this worker loads in the epoch, in order, and what is done to each.

    Every worker draws for all of them, from the same streams, and takes its share.
    """
    places = job.share.places
    context, options = job.context, job.task.hyperparameters
    rng = generator(context.seed, fold=job.stream, epoch=epoch, purpose=Purpose.ORDER)
    rows = job.training_rows
    if options.imbalance == "sqrt_sampling":
        order = sqrt_sampled_order(rows, job.labels[rows], rng)
    else:
        order = epoch_order(rows, rng)
    if options.augmentation == 0:
        return order[places], None
    rng = generator(context.seed, fold=job.stream, epoch=epoch, purpose=Purpose.WARP)
    warps = draw_warps(rng, len(order), policy=context.policy, strength=options.augmentation)
    return order[places], warps[torch.from_numpy(places)].to(job.device)


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


def _to_device(labels: Labels, job: FoldJob) -> torch.Tensor:
    return torch.from_numpy(labels).to(job.device)
