"""In which order an epoch takes its images, and which of them a data-parallel worker takes.

Every worker draws the same order from the same stream and takes its own part of it, so no rows have to be sent.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from consilia.config.records import Labels, Rows
from consilia.config.study import TrainingPlan
from consilia.data.folds import FoldPlan
from consilia.errors import PlanError


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochShare:
    """What a worker loads in an epoch. A batch of one worker is the whole batch."""

    places: Rows  # (m,) places in the epoch's order, batch after batch
    batches: tuple[slice, ...]  # of `places`, one a step
    n_own: tuple[int, ...]  # that the worker trains on in each step; after them come their partners for mixup
    n_whole: tuple[int, ...]  # images of each step, those of all workers together


def epoch_order(rows: Rows, rng: np.random.Generator) -> Rows:
    """Return every row once, shuffled.

    Args:
        rows: Of the training images, (m,).
        rng: Of the seed, the fold and the epoch: the same in every worker, which then takes its `share` of each batch.
    """
    return rng.permutation(rows)


def sqrt_sampled_order(rows: Rows, labels: Labels, rng: np.random.Generator) -> Rows:
    """Draw as many rows as there are, with replacement, each class in proportion to the root of its size.

    Args:
        rows: Of the training images, (m,).
        labels: Class of each of them, (m,).
        rng: Decides the draw.

    Source: Mahajan et al., Exploring the Limits of Weakly Supervised Pretraining, ECCV 2018, section 2.2.
    """
    counts = np.bincount(labels)
    weights = 1 / np.sqrt(counts[labels])
    return rng.choice(rows, size=len(rows), p=weights / weights.sum())


def batch_slices(n_images: int, batch_size: int, *, n_workers: int = 1) -> list[slice]:
    """Cut an epoch into batches of equal size, give or take one image, none above `batch_size`.

    So no small last batch disturbs batch normalisation. Where a worker would be left with one image, which BatchNorm
    refuses, there are fewer and larger batches.

    Args:
        n_images: Of the epoch.
        batch_size: Images of a step, those of all workers together.
        n_workers: That divide each batch by `share`; they all get the same number of batches.

    Raises:
        ValueError: Fewer than two images for each of several workers.
    """
    if n_workers > 1 and n_images < 2 * n_workers:
        raise ValueError(f"{n_workers} workers need two images each, but the epoch has {n_images}; use fewer workers")
    n_batches = max(1, min(-(-n_images // batch_size), n_images // (2 * n_workers)))
    return _cut(n_images, n_batches)


def check_workers(n_workers: int, *, folds: FoldPlan, training: TrainingPlan) -> None:
    """Check that so many workers can train each fold together and compute what one worker would.

    Raises:
        PlanError: A worker would be left with less than two images of a batch, or none to validate.
    """
    if n_workers == 1:
        return
    for fold in range(folds.k):
        n_training, n_validation = len(folds.training(fold)), len(folds.validation(fold))
        smallest = min(part.stop - part.start for part in batch_slices(n_training, training.batch_size))
        most = min(smallest // 2, n_validation)
        if n_workers > most:
            raise PlanError(
                f"Each of {n_workers} workers needs two images of every batch and one to validate, but fold "
                f"{fold + 1}/{folds.k} has {n_training} training images in batches of {smallest} or more "
                f"(training.batch_size: {training.batch_size}) and {n_validation} to validate. "
                f"Set cluster.workers_per_trial to {max(1, most)} or fewer, or a larger training.batch_size."
            )


def check_refit_workers(n_workers: int, *, folds: FoldPlan, training: TrainingPlan) -> None:
    """Check as `check_workers` for training on the images of all folds together, where none is validated.

    Raises:
        PlanError: A worker would be left with less than two images of a batch.
    """
    n_images = len(folds.pool)
    smallest = min(part.stop - part.start for part in batch_slices(n_images, training.batch_size))
    if n_workers > 1 and n_workers > smallest // 2:
        raise PlanError(
            f"Each of {n_workers} workers needs two images of every batch, but a refit has {n_images} training images "
            f"in batches of {smallest} or more (training.batch_size: {training.batch_size}). "
            f"Set cluster.workers_per_trial to {max(1, smallest // 2)} or fewer."
        )


def share(batch: slice, *, worker: int, n_workers: int) -> slice:
    """Return the part of a batch that a worker trains on; the workers' parts are disjoint and together the batch.

    Args:
        batch: Of `batch_slices`.
        worker: 0 ... n_workers - 1.
        n_workers: Their parts differ by at most one image.
    """
    part = _cut(batch.stop - batch.start, n_workers)[worker]
    return slice(batch.start + part.start, batch.start + part.stop)


def epoch_share(batches: Sequence[slice], *, worker: int, n_workers: int, partners: bool) -> EpochShare:
    """Return what a worker loads in an epoch.

    Args:
        batches: Of `batch_slices`.
        worker: 0 ... n_workers - 1.
        n_workers: Of the trial; one worker has the partners of its images anyway.
        partners: Whether each image needs the one at the mirrored place of the whole batch, as `losses.mix` does.
    """
    own = [share(batch, worker=worker, n_workers=n_workers) for batch in batches]
    loaded = [np.arange(part.start, part.stop) for part in own]
    if partners and n_workers > 1:
        loaded = [np.append(part, _mirrored(part, batch)) for part, batch in zip(loaded, batches, strict=True)]
    edges = np.cumsum([0, *map(len, loaded)]).tolist()
    return EpochShare(
        places=np.concatenate(loaded),
        batches=tuple(slice(start, stop) for start, stop in itertools.pairwise(edges)),
        n_own=tuple(part.stop - part.start for part in own),
        n_whole=tuple(batch.stop - batch.start for batch in batches),
    )


def evaluation_shard(rows: Rows, *, worker: int, n_workers: int) -> Rows:
    """Return the rows that a worker scores: every row falls to exactly one, and none is repeated to fill a batch up.

    The shards one after the other are `rows` again, so logits are put together by concatenation.

    Args:
        rows: To be scored, (m,).
        worker: 0 ... n_workers - 1.
        n_workers: Where m is not a multiple of it, shards differ by one row; some are empty if there are too few rows.
    """
    return rows[_cut(len(rows), n_workers)[worker]]


def _mirrored(places: Rows, batch: slice) -> Rows:
    mirrored: Rows = batch.start + batch.stop - 1 - places
    return mirrored


def _cut(n: int, n_parts: int) -> list[slice]:
    """Return consecutive parts whose sizes differ by at most one."""
    edges = np.linspace(0, n, n_parts + 1).round().astype(int).tolist()
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]
