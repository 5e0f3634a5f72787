"""The training loop: one fold, epoch by epoch, batch by batch."""

import math
import time
from collections.abc import Callable
from contextlib import closing

import torch

from consilia.records import EpochReport, FoldResult, Labels, Rows
from consilia.training.batches import Images
from consilia.training.device import MEMORY_FORMAT, autocast
from consilia.training.fold import (
    FoldJob,
    FoldState,
    TrainingError,
    finish_fold,
    open_fold,
    score_epoch,
    store_state,
)
from consilia.training.inference import predict_logits
from consilia.training.losses import mix
from consilia.training.optimiser import set_lr
from consilia.training.order import epoch_order, sqrt_sampled_order
from consilia.training.schedule import lr_factor
from consilia.training.seeds import Purpose, generator, seed_torch
from consilia.training.warp import Warps, draw_warps, training_input

Report = Callable[[EpochReport], None]
Stopped = Callable[[], bool]

_STEPS_BETWEEN_CHECKS = 20  # of the loss; each check makes a GPU wait


def train_fold(job: FoldJob, images: Images, *, report: Report, stopped: Stopped) -> FoldResult | None:
    """Train from the last checkpoint, or from the start, to the last epoch; then write the fold's files.

    After each epoch the averaged weights are scored on the validation fold, the state is saved and the epoch
    is reported. Epochs that the checkpoint already holds are reported again, in order. The fold's score is
    that of the last epoch: choosing the best one on these images would be optimistic.

    Args:
        job: The fold.
        images: The store's, on the job's device.
        report: Called after each epoch; with the FoldResult after the last.
        stopped: Polled between batches.

    Returns:
        The result, or None if it was stopped; the checkpoint then stays.

    Raises:
        TrainingError: The loss or the validation logits are not finite.
    """
    state = open_fold(job)
    for row in state.history:
        report(job.report(row))
    plan = job.context.training
    for epoch in range(len(state.history) + 1, plan.epochs + 1):
        started = time.perf_counter()
        train_loss = _train_epoch(job, state, images, epoch=epoch, stopped=stopped)
        if train_loss is None:
            return None
        logits = predict_logits(
            state.average.module,
            images,
            job.validation_rows,
            preprocessing=job.preprocessing,
            batch_size=plan.batch_size,
        )
        row = {
            "epoch": epoch,
            "train_loss": train_loss,
            **score_epoch(job, logits),
            "lr": _lr(job, epoch * len(job.batches) - 1),
            "seconds": time.perf_counter() - started,
            "images": len(job.training_rows),
        }
        state.history.append(row)
        if epoch < plan.epochs:
            store_state(job, state)
            report(job.report(row))
    result = finish_fold(job, state, logits)
    report(job.report(state.history[-1], result))
    return result


def _train_epoch(job: FoldJob, state: FoldState, images: Images, *, epoch: int, stopped: Stopped) -> float | None:
    """Take one step a batch; return the mean loss, or None if stopped.

    Every random number derives from the seed, the fold and the epoch, so a resumed fold repeats an
    undisturbed one.
    """
    context, options = job.context, job.task.hyperparameters
    rows, warps = _draw_epoch(job, epoch)
    targets_of_epoch = torch.eye(job.spec.n_classes, device=job.device)[_to_device(job.labels[rows], job)]
    mixup = generator(context.seed, fold=job.fold, epoch=epoch, purpose=Purpose.MIXUP)
    seed_torch(context.seed, fold=job.fold, epoch=epoch, purpose=Purpose.DROPOUT)
    state.model.train()
    total = torch.zeros((), device=job.device)
    with closing(images.batches([rows[part] for part in job.batches])) as batches:
        for number, (part, batch) in enumerate(zip(job.batches, batches, strict=True)):
            if stopped():
                return None
            step = (epoch - 1) * len(job.batches) + number
            lr = _lr(job, step)
            set_lr(state.optimiser, lr)
            inputs = training_input(batch, None if warps is None else warps[part], job.preprocessing)
            inputs, targets = mix(inputs, targets_of_epoch[part], alpha=options.mixup, rng=mixup)
            with autocast(job.device, context.training.precision):
                logits = state.model(inputs.contiguous(memory_format=MEMORY_FORMAT))
            loss = job.loss(logits.float(), targets)
            state.optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call] # torch ships it untyped
            state.optimiser.step()
            state.average.update(step)
            total += loss.detach() * len(targets)
            if (number + 1) % _STEPS_BETWEEN_CHECKS == 0 or number + 1 == len(job.batches):
                _check_finite(total, job, epoch=epoch, lr=lr)
    return total.item() / len(rows)


def _draw_epoch(job: FoldJob, epoch: int) -> tuple[Rows, Warps | None]:
    """Return the epoch's images in order, and what is done to each."""
    context, options = job.context, job.task.hyperparameters
    rng = generator(context.seed, fold=job.fold, epoch=epoch, purpose=Purpose.ORDER)
    rows = job.training_rows
    if options.imbalance == "sqrt_sampling":
        order = sqrt_sampled_order(rows, job.labels[rows], rng)
    else:
        order = epoch_order(rows, rng)
    if options.augmentation == 0:
        return order, None
    rng = generator(context.seed, fold=job.fold, epoch=epoch, purpose=Purpose.WARP)
    warps = draw_warps(rng, len(order), policy=context.policy, strength=options.augmentation)
    return order, warps.to(job.device)


def _lr(job: FoldJob, step: int) -> float:
    """Return the learning rate of the head's neighbours at a step of the whole fold."""
    options = job.task.hyperparameters
    n_steps = job.context.training.epochs * len(job.batches)
    return options.lr * lr_factor(step, n_steps=n_steps, warmup=options.warmup)


def _check_finite(total: torch.Tensor, job: FoldJob, *, epoch: int, lr: float) -> None:
    value = total.item()
    if not math.isfinite(value):
        raise TrainingError(
            f"the loss became {value} in {job.title}, epoch {epoch}, at lr {lr:.2e} "
            f"(configured: {job.task.hyperparameters.lr:.2e}); a smaller lr may help"
        )


def _to_device(labels: Labels, job: FoldJob) -> torch.Tensor:
    return torch.from_numpy(labels).to(job.device)
