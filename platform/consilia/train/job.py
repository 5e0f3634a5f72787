"""What is to be trained: one fold of one trial, or its refit."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from consilia.config.network import ModelSpec, Preprocessing
from consilia.config.records import ALL_FOLDS, EpochReport, FoldResult, Labels, Rows, TrialTask
from consilia.config.study_folder import FoldFolder
from consilia.data.store.image_store import intensity
from consilia.files import sha256_of_json
from consilia.train.context import TrainingContext
from consilia.train.device import resolve_device
from consilia.train.distributed import ALONE, Group
from consilia.train.losses import Loss, make_loss
from consilia.train.networks.pretrained import pretrained_normalisation
from consilia.train.order import EpochShare, batch_slices, check_refit_workers, check_workers, epoch_share
from consilia.train.tables import HistoryRow


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldJob:
    """Everything that decides what the training of a fold, or of a refit, computes."""

    task: TrialTask
    fold: int  # 0 ... k-1, or ALL_FOLDS
    context: TrainingContext
    spec: ModelSpec
    preprocessing: Preprocessing
    training_rows: Rows
    validation_rows: Rows  # empty for a refit
    labels: Labels  # of the whole store
    batches: list[slice]  # of an epoch's order; those of all workers together
    share: EpochShare  # this worker's
    loss: Loss
    device: torch.device
    group: Group

    @property
    def folder(self) -> FoldFolder:
        """Where its files go."""
        trial = self.context.trial(self.task.number)
        return trial.refit if self.is_refit else trial.fold(self.fold)

    @property
    def is_refit(self) -> bool:
        """Say whether it trains on the images of all folds and holds none out."""
        return self.fold == ALL_FOLDS

    @property
    def stream(self) -> int:
        """Number of its streams of random numbers; a refit draws from the stream after the last fold's."""
        return self.context.folds.k if self.is_refit else self.fold

    def is_scored(self, epoch: int) -> bool:
        """Say whether anybody asks for the score after an epoch."""
        return not self.is_refit and (epoch == self.context.rung or self.context.training.is_scored(epoch))

    @property
    def title(self) -> str:
        """What messages call it; folds count from 1."""
        if self.is_refit:
            return "the refit"
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
            "place": [context.folds.digest, context.seed, self.stream],
            "order of the parameters": 2,  # of the optimiser's state; another one would be taken for it
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
            score=float(row[self.context.metric]) if self.is_scored(int(row["epoch"])) else math.nan,
            train_loss=float(row["train_loss"]),
            seconds=float(row["seconds"]),
            images=int(row["images"]),
            fold_result=result,
            is_repeat=is_repeat,
            note=note,
        )


def make_job(task: TrialTask, fold: int, context: TrainingContext, *, group: Group = ALONE) -> FoldJob:
    """Gather what the training needs; no network is built yet.

    Args:
        task: The trial.
        fold: The one to hold out, 0 ... k-1; ALL_FOLDS holds none out and trains on every image of the pool.
        context: What the trial shares with the study's others.
        group: The workers that train it together.

    Raises:
        PlanError: The study does not know the architecture, or has too few images for the workers.
        DataError: The training images are all of one grey, or lack a class that the loss needs.
    """
    is_refit = fold == ALL_FOLDS
    check = check_refit_workers if is_refit else check_workers
    check(group.size, folds=context.folds, training=context.training)
    labels = context.store.labels
    rows = context.folds.pool if is_refit else context.folds.training(fold)
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
        validation_rows=rows[:0] if is_refit else context.folds.validation(fold),
        labels=labels,
        batches=batches,
        share=epoch_share(batches, worker=group.rank, n_workers=group.size, partners=with_partners),
        loss=make_loss(task.hyperparameters, counts, device),
        device=device,
        group=group,
    )


def _preprocessing(task: TrialTask, context: TrainingContext, spec: ModelSpec, rows: Rows) -> Preprocessing:
    """Normalise as the pretrained weights were, or else by its own training images alone."""
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
