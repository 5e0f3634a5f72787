"""One fold of one trial, or its refit: the state while it is trained, and the fold's files at the end."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from consilia.config.record_files import write_fold_result
from consilia.config.records import FoldResult, Logits
from consilia.metrics.scores import score, softmax
from consilia.train.device import MEMORY_FORMAT
from consilia.train.faults import TrainingError, writing
from consilia.train.job import FoldJob
from consilia.train.network_files import UnusableCheckpointError, load_checkpoint, save_checkpoint, write_weights
from consilia.train.networks.factory import build_model
from consilia.train.networks.pretrained import build_pretrained
from consilia.train.optimiser import WeightAverage, make_optimiser
from consilia.train.seeds import Purpose, seed_torch
from consilia.train.tables import HistoryRow, write_history, write_out_of_fold


@dataclass(slots=True, kw_only=True)
class FoldState:
    """What training changes."""

    model: nn.Module
    average: WeightAverage
    optimiser: torch.optim.Optimizer
    history: list[HistoryRow]
    note: str = ""  # why the fold starts again although it had a checkpoint; for the next report


def open_fold(job: FoldJob) -> FoldState:
    """Return the state to train on from: the checkpoint's if it can be used, else the start."""
    checkpoint, note = job.group.from_leader(lambda: _read_checkpoint(job))
    model = job.group.agree(lambda: _build(job, has_checkpoint=checkpoint is not None))
    with job.group.lockstep():
        job.group.prepare(model)
        state = FoldState(
            model=model,
            average=WeightAverage(model, steps_per_epoch=len(job.batches)),
            optimiser=make_optimiser(model, job.task.hyperparameters),
            history=[],
            note=note,
        )
        if checkpoint is not None:
            model.load_state_dict(checkpoint["model"])
            state.average.module.load_state_dict(checkpoint["average"])
            state.optimiser.load_state_dict(checkpoint["optimiser"])
            state.history = checkpoint["history"]
    return state


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
    model = build_pretrained(job.spec, weights) if is_pretrained else build_model(job.spec)
    return model.to(job.device, memory_format=MEMORY_FORMAT)  # type: ignore[call-overload,no-any-return] # torch's stub lacks it


def store_state(job: FoldJob, state: FoldState) -> None:
    """Save the state after a complete epoch, so that a fold killed later goes on from here.

    Raises:
        DiskFullError: There is no room; the state of the epoch before stays.
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
    with writing(job.folder.checkpoint):
        save_checkpoint(job.folder.checkpoint, content)


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
    folder.checkpoint.unlink(missing_ok=True)
    return result
