"""One fold of one trial, or its refit: the state while it is trained, and the fold's files at the end."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from consilia.config.record_files import write_fold_result
from consilia.config.records import FoldResult, Logits
from consilia.metrics.scores import score, softmax
from consilia.train.checkpoints import Checkpoints
from consilia.train.device import MEMORY_FORMAT
from consilia.train.faults import TrainingError, writing
from consilia.train.job import FoldJob
from consilia.train.network_files import UnusableCheckpointError, load_checkpoint, write_weights
from consilia.train.networks.factory import build_model
from consilia.train.networks.pretrained import build_pretrained
from consilia.train.optimiser import WeightAverage, forget_moments, make_optimiser, restore_optimiser
from consilia.train.seeds import Purpose, seed_torch
from consilia.train.step import Step
from consilia.train.tables import HistoryRow, write_history, write_out_of_fold

_WORTH_CAPTURING = 40  # steps of one size of batch: to capture one takes about five eager ones


@dataclass(slots=True, kw_only=True)
class FoldState:
    """What training changes."""

    model: nn.Module
    average: WeightAverage
    optimiser: torch.optim.Optimizer
    step: Step
    checkpoints: Checkpoints
    history: list[HistoryRow]
    note: str = ""  # why the fold starts again although it had a checkpoint; for the next report


def open_fold(job: FoldJob, *, earlier: FoldState | None = None) -> FoldState:
    """Return the state to train on from: the checkpoint's if it can be used, else the start.

    Args:
        job: What is to be trained.
        earlier: Of a finished fold of the same trial, whose captured step is to be replayed: the start is written over
            it, so that it is nobody else's any more.
    """
    checkpoint, note = job.group.from_leader(lambda: _read_checkpoint(job))
    if earlier is not None and checkpoint is None:
        return _begin_again(job, earlier, note)
    model = job.group.agree(lambda: _move(_build(job, has_checkpoint=checkpoint is not None), job.device))
    with job.group.lockstep():
        job.group.prepare(model)
        average = WeightAverage(model)
        optimiser = make_optimiser(model, job.task.hyperparameters)
        if checkpoint is not None:
            model.load_state_dict(checkpoint["model"])
            average.module.load_state_dict(checkpoint["average"])
            restore_optimiser(optimiser, checkpoint["optimiser"])
        history = checkpoint["history"] if checkpoint is not None else []
        step = Step(
            model=model,
            average=average,
            optimiser=optimiser,
            loss=job.loss,
            preprocessing=job.preprocessing,
            precision=job.context.training.precision,
            mixes=job.task.hyperparameters.mixup > 0,
            group=job.group,
            often=_frequent_sizes(job),
        )
        return FoldState(
            model=model,
            average=average,
            optimiser=optimiser,
            step=step,
            checkpoints=Checkpoints(job.folder.checkpoint),
            history=history,
            note=note,
        )


def _begin_again(job: FoldJob, earlier: FoldState, note: str) -> FoldState:
    """Write a fold's start over another's end, where a captured step finds it."""
    weights = _build(job, has_checkpoint=False).state_dict()
    earlier.model.load_state_dict(weights)
    earlier.average.module.load_state_dict(weights)
    forget_moments(earlier.optimiser)
    earlier.step.begin_again(loss=job.loss, preprocessing=job.preprocessing, often=_frequent_sizes(job))
    return replace(earlier, checkpoints=Checkpoints(job.folder.checkpoint), history=[], note=note)


def _frequent_sizes(job: FoldJob) -> set[int]:
    """Return the sizes of batches that come often enough in the trial for a capture to pay.

    However much of it is done already: replayed and eager steps may round differently, and a fold that is resumed is to
    equal an undisturbed one.
    """
    n_epochs = job.context.training.epochs * (1 if job.is_refit else job.context.folds.k)
    counts = Counter(part.stop - part.start for part in job.share.batches)
    return {size for size, n in counts.items() if n * n_epochs >= _WORTH_CAPTURING}


def _read_checkpoint(job: FoldJob) -> tuple[dict[str, Any] | None, str]:
    """Return the stored state, or None and why it cannot be used."""
    try:
        return load_checkpoint(job.folder.checkpoint, fingerprint=job.fingerprint), ""
    except UnusableCheckpointError as error:
        return None, str(error)


def _build(job: FoldJob, *, has_checkpoint: bool) -> nn.Module:
    seed_torch(job.context.seed, fold=job.stream, epoch=0, purpose=Purpose.WEIGHTS)
    weights = job.context.weights
    is_pretrained = weights.is_pretrained and not has_checkpoint
    return build_pretrained(job.spec, weights) if is_pretrained else build_model(job.spec)


def _move(model: nn.Module, device: torch.device) -> nn.Module:
    return model.to(device, memory_format=MEMORY_FORMAT)  # type: ignore[call-overload,no-any-return] # torch's stub lacks it


def store_state(job: FoldJob, state: FoldState) -> None:
    """Keep the state after a complete epoch: a fold that is stopped goes on from it, a killed one from not long before.

    Raises:
        DiskFullError: There is no room; an earlier state stays.
    """
    content: dict[str, Any] = {
        "fingerprint": job.fingerprint,
        "model": state.model.state_dict(),
        "average": state.average.module.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "history": [dict(row) for row in state.history],
    }
    with writing(job.folder.history):  # stays when the checkpoint goes: racing compares with stopped trials
        write_history(job.folder.history, state.history)
    state.checkpoints.keep(content)


def score_epoch(job: FoldJob, logits: Logits) -> dict[str, float]:
    """Return every metric of the validation fold's logits.

    Raises:
        TrainingError: The logits are not finite, or leave the study's metric undefined.
    """
    if not np.isfinite(logits).all():
        raise TrainingError(f"logits of the validation images of {job.title} are not finite")
    metrics = score(softmax(logits), job.labels[job.validation_rows])
    if not np.isfinite(metrics[job.context.metric]):
        raise TrainingError(f"{job.context.metric} is undefined on the validation images of {job.title}")
    return metrics


def finish_fold(job: FoldJob, state: FoldState, logits: Logits) -> FoldResult:
    """Write the fold's files, the result last: a fold that has it is finished.

    Raises:
        DiskFullError: There is no room; the checkpoint stays.
    """
    row = state.history[-1]
    metrics = score_epoch(job, logits)
    result = FoldResult(
        fold=job.fold,
        epochs=int(row["epoch"]),
        metrics=metrics,
        n_images=len(job.validation_rows),
        seconds=sum(float(epoch["seconds"]) for epoch in state.history),
    )
    folder = job.folder
    weights = state.average.module.state_dict()
    with writing(folder.weights):
        write_weights(folder.weights, weights, model=job.spec, preprocessing=job.preprocessing)
    with writing(folder.oof):
        write_out_of_fold(folder.oof, job.validation_rows, logits)
    with writing(folder.history):
        write_history(folder.history, state.history)
    with writing(folder.result):
        write_fold_result(folder.result, result)
    state.checkpoints.drop()
    return result
