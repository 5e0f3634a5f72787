"""One fold of one trial: what is to be trained, the state while it is, and its files at the end."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from consilia.data.statistics import intensity
from consilia.errors import RunError
from consilia.files import sha256_of_json
from consilia.folder import FoldFolder
from consilia.models.factory import ModelSpec, build_model, pretrained_normalisation
from consilia.plan.weights import FROM_SCRATCH
from consilia.record_files import write_fold_result
from consilia.records import EpochReport, FoldResult, Labels, Logits, Rows, TrialTask
from consilia.scoring.metrics import score, softmax
from consilia.training.artifacts import write_weights
from consilia.training.average import WeightAverage
from consilia.training.checkpoint import UnusableCheckpointError, load_checkpoint, save_checkpoint
from consilia.training.context import TrainingContext
from consilia.training.device import MEMORY_FORMAT, resolve_device
from consilia.training.disk import writing
from consilia.training.input import Preprocessing
from consilia.training.losses import Loss, make_loss
from consilia.training.optimiser import make_optimiser
from consilia.training.order import EpochShare, batch_slices, check_workers, epoch_share
from consilia.training.parallel import ALONE, Group
from consilia.training.seeds import Purpose, seed_torch
from consilia.training.tables import HistoryRow, write_history, write_out_of_fold


class TrainingError(RunError):
    """A trial cannot go on with this configuration; others may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldJob:
    """Everything that decides what a fold's training computes."""

    task: TrialTask
    fold: int
    context: TrainingContext
    spec: ModelSpec
    preprocessing: Preprocessing
    training_rows: Rows
    validation_rows: Rows
    labels: Labels  # of the whole store
    batches: list[slice]  # of an epoch's order; those of all workers together
    share: EpochShare  # this worker's
    loss: Loss
    device: torch.device
    group: Group

    @property
    def folder(self) -> FoldFolder:
        """Where the fold's files go."""
        return self.context.trial(self.task.number).fold(self.fold)

    @property
    def title(self) -> str:
        """The fold as people count."""
        return f"fold {self.fold + 1}/{self.context.folds.k}"

    @property
    def fingerprint(self) -> str:
        """Digest of all that a checkpoint depends on."""
        context = self.context
        parts = {
            "hyperparameters": self.task.hyperparameters.model_dump(mode="json"),
            "training": context.training.model_dump(mode="json"),
            "policy": context.policy.model_dump(mode="json"),
            "model": self.spec.model_dump(mode="json"),
            "preprocessing": self.preprocessing.model_dump(mode="json"),
            "place": [context.folds.digest, context.seed, self.fold],
        }
        return sha256_of_json(parts)

    def report(
        self, row: HistoryRow, result: FoldResult | None = None, *, is_repeat: bool = False, note: str = ""
    ) -> EpochReport:
        """Return what is said of the epoch in `row`."""
        return EpochReport(
            number=self.task.number,
            fold=self.fold,
            epoch=int(row["epoch"]),
            score=float(row[self.context.metric]),
            train_loss=float(row["train_loss"]),
            seconds=float(row["seconds"]),
            images=int(row["images"]),
            fold_result=result,
            is_repeat=is_repeat,
            note=note,
        )


@dataclass(slots=True, kw_only=True)
class FoldState:
    """What training changes."""

    model: nn.Module
    average: WeightAverage
    optimiser: torch.optim.Optimizer
    history: list[HistoryRow]
    note: str = ""  # why the fold starts again although it had a checkpoint; for the next report


def make_job(task: TrialTask, fold: int, context: TrainingContext, *, group: Group = ALONE) -> FoldJob:
    """Gather what the fold's training needs; no network is built yet.

    Raises:
        PlanError: The study does not know the architecture, or has too few images for the workers.
        DataError: The training images are all of one grey, or lack a class that the loss needs.
    """
    check_workers(group.size, folds=context.folds, training=context.training)
    labels = context.store.labels
    rows = context.folds.training(fold)
    spec = context.model_spec(task.hyperparameters)
    device = resolve_device(context.device)
    counts = np.bincount(labels[rows], minlength=spec.n_classes)
    batches = batch_slices(len(rows), context.training.batch_size, n_workers=group.size)
    with_partners = task.hyperparameters.mixup > 0
    return FoldJob(
        task=task,
        fold=fold,
        context=context,
        spec=spec,
        preprocessing=_preprocessing(task, context, spec, rows),
        training_rows=rows,
        validation_rows=context.folds.validation(fold),
        labels=labels,
        batches=batches,
        share=epoch_share(batches, worker=group.rank, n_workers=group.size, partners=with_partners),
        loss=make_loss(task.hyperparameters, counts, device),
        device=device,
        group=group,
    )


def open_fold(job: FoldJob) -> FoldState:
    """Return the state to train on from: the checkpoint's if it can be used, else the start."""
    checkpoint, note = job.group.from_leader(lambda: _read_checkpoint(job))
    model = job.group.agree(lambda: _build(job, from_scratch=checkpoint is not None))
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


def _build(job: FoldJob, *, from_scratch: bool) -> nn.Module:
    seed_torch(job.context.seed, fold=job.fold, epoch=0, purpose=Purpose.WEIGHTS)
    weights = FROM_SCRATCH if from_scratch else job.context.weights
    model = build_model(job.spec, weights=weights)
    return model.to(job.device, memory_format=MEMORY_FORMAT)  # type: ignore[call-overload,no-any-return] # torch's stub lacks it


def store_state(job: FoldJob, state: FoldState) -> None:
    """Save the state after a complete epoch, so that a fold killed later goes on from here.

    Raises:
        DiskFullError: There is no room; the state after the epoch before stays.
    """
    content: dict[str, Any] = {
        "fingerprint": job.fingerprint,
        "model": state.model.state_dict(),
        "average": state.average.module.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "history": [dict(row) for row in state.history],
    }
    with writing(job.folder.history):  # outlives the checkpoint: racing compares with stopped trials
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


def _preprocessing(task: TrialTask, context: TrainingContext, spec: ModelSpec, rows: Rows) -> Preprocessing:
    """Normalise as the pretrained weights were, or else by this fold's training images alone."""
    if context.weights.is_pretrained:
        mean, std = pretrained_normalisation(spec, context.weights)
    else:
        grey = intensity(context.store, rows)
        mean, std = (grey.mean,) * spec.channels, (grey.std,) * spec.channels
    return Preprocessing(
        size=context.store.manifest.size,
        channels=spec.channels,
        image_size=context.image_size_of(task.hyperparameters),
        mean=mean,
        std=std,
    )
