"""Halves of recorded trials, drawn again and again: how far a figure moves with trials and images.

The mean of a random half, drawn without replacement, spreads about that of the whole as the mean of the whole spreads
about the truth. So percentiles over draws are intervals for what is estimated from all images, paired for differences
of sides (delete-half jackknife: Shao and Wu, Annals of Statistics 1989).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from consilia.ensemble.selection import Candidates, Truth
from consilia.metrics.scores import softmax
from shared.trials_file import RecordedTrials

Figures = Mapping[str, float]  # NaN: undefined on this draw
Sides = Mapping[str, Figures]  # figures by the side that is compared
_PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HalfDraw:
    """Half of the trials, some images of the pool to choose and calibrate on, and half of the held-out images."""

    candidates: Candidates  # (n_trials, n_pool, n_classes) out-of-fold probabilities
    truth: Truth  # about the pool's images; a group counts as a patient
    fold_candidates: npt.NDArray[np.float64]  # (n_trials, n_folds, n_held_out, n_classes)
    held_out: Truth  # its folds mean nothing
    seed: int


def half_draws(recorded: RecordedTrials, *, draws: int, pool_images: int | None) -> Iterator[HalfDraw]:
    """Yield draws; the seed of each is its number.

    Args:
        recorded: At least two trials.
        draws: How many.
        pool_images: About so many images of the pool are drawn, by groups; None: half of them.
    """
    oof, held_out = softmax(recorded.oof), softmax(recorded.held_out)
    share = 0.5 if pool_images is None else min(1.0, pool_images / len(recorded.labels))
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        trials = np.sort(rng.permutation(len(oof))[: max(2, len(oof) // 2)])
        pool = _draw_groups(recorded.groups, share, rng)
        others = _draw_groups(recorded.held_out_groups, 0.5, rng)
        yield HalfDraw(
            candidates=oof[trials][:, pool],
            truth=_truth(recorded.labels, recorded.groups, recorded.folds).subset(pool),
            fold_candidates=held_out[trials][:, :, others],
            held_out=_truth(
                recorded.held_out_labels, recorded.held_out_groups, np.zeros_like(recorded.held_out_labels)
            ).subset(others),
            seed=seed,
        )


def compare(draws: Iterator[HalfDraw], measure: Callable[[HalfDraw], Sides], *, reference: str) -> list[dict[str, Any]]:
    """Return one row per side: each figure's mean over draws and 2.5th and 97.5th percentiles, also less `reference`.

    Args:
        draws: To measure on.
        measure: Returns the same sides and figures of every draw.
        reference: The side that differences are taken to, draw by draw.
    """
    measured = [measure(draw) for draw in draws]
    return [
        {
            "side": side,
            "figures": _summarise([each[side] for each in measured]),
            "difference": _summarise([_subtract(each[side], each[reference]) for each in measured]),
        }
        for side in measured[0]
    ]


def _summarise(figures: Sequence[Figures]) -> dict[str, list[float | None]]:
    return {name: _summary(np.array([each[name] for each in figures])) for name in figures[0]}


def _summary(values: npt.NDArray[np.float64]) -> list[float | None]:
    """Return mean and percentiles of the defined values; None where there are none."""
    defined = values[~np.isnan(values)]
    if len(defined) == 0:
        return [None, None, None]
    return [float(defined.mean()), *np.percentile(defined, _PERCENTILES).tolist()]


def _subtract(side: Figures, reference: Figures) -> Figures:
    return {name: value - reference[name] for name, value in side.items()}


def _draw_groups(groups: npt.NDArray[np.int64], share: float, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Return which images belong to a drawn share of the groups."""
    names = np.unique(groups)
    return np.isin(groups, rng.permutation(names)[: round(share * len(names))])


def _truth(labels: npt.NDArray[np.int64], groups: npt.NDArray[np.int64], folds: npt.NDArray[np.int64]) -> Truth:
    return Truth(labels=labels, patients=groups.astype(str), folds=folds)
