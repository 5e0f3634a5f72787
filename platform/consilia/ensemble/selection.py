"""Which trials join the ensemble, and how they are combined. Source: docs/methods.md section 4.

Pure functions on arrays. Candidates come in the order of their trial numbers: a tie goes to the earlier one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from consilia.config.recipe import BestSingle, Greedy, Selection, SoftVote
from consilia.config.records import Labels
from consilia.decision.combination import LinearPool, combine
from consilia.metrics.patients import patient_weights
from consilia.metrics.scores import SMALLEST_PROBABILITY, Weights, image_log_loss

Candidates = npt.NDArray[np.float64]  # (n_candidates, n_images, n_classes), out-of-fold probabilities
CandidateWeights = npt.NDArray[np.float64]  # (n_candidates,), not negative, sums to 1

_LOSS_DECIMALS = 12
_FACTORS = 16  # probabilities that share one logarithm: 1e-15 ** 16 is still far from underflow


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What the images of the folds are known to be."""

    labels: Labels  # (n_images,)
    patients: npt.NDArray[np.str_]  # (n_images,)
    folds: npt.NDArray[np.int64]  # (n_images,) the fold that held each image out
    drawn: Weights | None = None  # (n_images,) in a bootstrap sample, how often each image's patient was drawn

    @property
    def weights(self) -> Weights:
        """Weight of each image, (n_images,): 1 / (images of its patient), times how often the patient was drawn."""
        weights = patient_weights(self.patients)
        return weights if self.drawn is None else weights * self.drawn

    def subset(self, kept: npt.NDArray[np.bool_]) -> "Truth":
        """Return the truth about the images where `kept`, (n_images,), holds."""
        drawn = None if self.drawn is None else self.drawn[kept]
        return Truth(labels=self.labels[kept], patients=self.patients[kept], folds=self.folds[kept], drawn=drawn)


def select(selection: Selection, candidates: Candidates, truth: Truth, *, seed: int) -> LinearPool:
    """Return how the candidates are combined; those that are left out weigh 0.

    The objective is the log loss, each image weighted 1 / (images of its patient); lower is better.

    Args:
        selection: The recipe's selection.
        candidates: At least one.
        truth: About the same images.
        seed: Of the random halves of the candidates that `Greedy` draws.

    Source: docs/methods.md section 4.
    """
    true = _true_probabilities(candidates, truth.labels)
    return _as_pool(_select(selection, true, truth.weights, seed=seed))


def _select(
    selection: BestSingle | SoftVote | Greedy, true: npt.NDArray[np.float64], weights: Weights, *, seed: int
) -> CandidateWeights:
    """Return the weights of a linear pool, given the (n_candidates, n_images) probabilities of the true class."""
    ranked = np.argsort(_losses(true, weights), kind="stable")  # best first, ties to the earlier candidate
    if isinstance(selection, BestSingle):
        return _equal_weights(ranked[:1], len(true))
    if isinstance(selection, SoftVote):
        return _equal_weights(ranked[: selection.members], len(true))
    eligible = np.sort(ranked[: selection.pool])
    factors = _factorise(true[eligible], weights)

    def add(bag: npt.NDArray[np.intp]) -> npt.NDArray[np.int64]:
        return _add_greedily(factors, np.searchsorted(eligible, bag), additions=selection.additions)

    return weigh_in_bags(eligible, selection, add, n_candidates=len(true), seed=seed)


def select_greedily(
    true: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], *, additions: int
) -> npt.NDArray[np.int64]:
    """Add, with replacement, the candidate whose addition to the mean lowers the loss most.

    Additions after the best one are dropped, so raising `additions` never raises the loss. A tie goes to the
    earlier candidate, and to the shorter prefix.

    Args:
        true: Probability that each candidate gave to the true class, (n_candidates, n_images).
        weights: Of each image, (n_images,).
        additions: How often a candidate may be added in all, at least 1.

    Returns:
        How often each candidate was added, (n_candidates,).

    Source: Caruana et al., Ensemble Selection from Libraries of Models, ICML 2004, section 2.
    """
    return _add_greedily(_factorise(true, weights), np.arange(len(true)), additions=additions)


def cross_fit(selection: Selection, candidates: Candidates, truth: Truth, *, seed: int) -> tuple[LinearPool, ...]:
    """Select anew for each fold on the images of the other folds; the j-th is for the j-th of the sorted folds."""
    true, weights = _true_probabilities(candidates, truth.labels), truth.weights
    pools = []
    for fold in np.unique(truth.folds):
        others = truth.folds != fold  # a patient is of one fold, so the others' weights stay what they are
        pools.append(_as_pool(_select(selection, true[:, others], weights[others], seed=seed)))
    return tuple(pools)


def combine_cross_fitted(
    candidates: Candidates, fold_combinations: Sequence[LinearPool], truth: Truth
) -> npt.NDArray[np.float64]:
    """Return, for each image, the ensemble that was selected without its fold, (n_images, n_classes)."""
    result = np.empty(candidates.shape[1:])
    for fold, combination in zip(np.unique(truth.folds), fold_combinations, strict=True):
        rows = truth.folds == fold
        result[rows] = combine(candidates[:, rows], combination)
    return result


def weighted_log_loss(probabilities: npt.NDArray[np.float64], truth: Truth) -> float:
    """Return the log loss with the images weighted as the truth weighs them."""
    return float(np.average(image_log_loss(probabilities, truth.labels), weights=truth.weights))


def _as_pool(weights: CandidateWeights) -> LinearPool:
    return LinearPool(weights=tuple(weights.tolist()))


def weigh_in_bags(
    eligible: npt.NDArray[np.intp],
    greedy: Greedy,
    add: Callable[[npt.NDArray[np.intp]], npt.NDArray[np.int64]],
    *,
    n_candidates: int,
    seed: int,
) -> CandidateWeights:
    """Return mean weights over bags of the eligible candidates, cut to the largest, (n_candidates,).

    A bag is half of them, but at least as many as may be kept: half of three trials would be a lottery.

    Args:
        eligible: Numbers of the candidates that bags are drawn from, sorted.
        greedy: How many bags, and how many are kept.
        add: How often each candidate of a bag, given as sorted numbers, is added to it.
        n_candidates: In all.
        seed: Of the bags.
    """
    generator = np.random.default_rng(seed)
    share = np.zeros(n_candidates)
    size = max((len(eligible) + 1) // 2, min(len(eligible), greedy.members))
    for _ in range(greedy.bags):
        bag = np.sort(generator.choice(eligible, size=size, replace=False))
        counts = add(bag)
        share[bag] += counts / counts.sum()
    kept = np.argsort(-share, kind="stable")[: greedy.members]
    result = np.zeros(n_candidates)
    result[kept] = share[kept]
    normalised: CandidateWeights = result / result.sum()
    return normalised


def _equal_weights(chosen: npt.NDArray[np.intp], n_candidates: int) -> CandidateWeights:
    result = np.zeros(n_candidates)
    result[chosen] = 1.0 / len(chosen)
    return result


def _true_probabilities(candidates: Candidates, labels: Labels) -> npt.NDArray[np.float64]:
    """Probability given to the true class, (n_candidates, n_images): all that the log loss looks at."""
    result: npt.NDArray[np.float64] = candidates[:, np.arange(len(labels)), labels]
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class _Factors:
    """Probabilities of the true class in groups of 16 images of equal weight: one logarithm serves a whole group."""

    true: npt.NDArray[np.float64]  # (n_candidates, 16, n_groups), 0 in places that no image fills
    filler: npt.NDArray[np.float64]  # (16, n_groups), 1 in those places and else 0; added, it makes them count nothing
    shares: npt.NDArray[np.float64]  # (n_groups,) of each of a group's images in the weight of all


def _factorise(true: npt.NDArray[np.float64], weights: Weights) -> _Factors:
    """Group the images of `true`, (n_candidates, n_images), by their weight."""
    values, numbers, counts = np.unique(weights, return_inverse=True, return_counts=True)
    groups = -(-counts // _FACTORS)  # of each weight
    ranks = np.empty(len(weights), dtype=np.int64)  # of each image among those of its weight
    ranks[np.argsort(numbers, kind="stable")] = np.concatenate([np.arange(count) for count in counts])
    places = ranks % _FACTORS, (np.cumsum(groups) - groups)[numbers] + ranks // _FACTORS
    factors = np.zeros((len(true), _FACTORS, groups.sum()))
    factors[:, *places] = true
    filler = np.ones(factors.shape[1:])
    filler[places] = 0.0
    return _Factors(true=factors, filler=filler, shares=np.repeat(values, groups) / weights.sum())


def _add_greedily(factors: _Factors, bag: npt.NDArray[np.intp], *, additions: int) -> npt.NDArray[np.int64]:
    """Do what `select_greedily` says with the candidates in `bag`, (n_bag,)."""
    true, total = factors.true[bag], factors.filler
    needs_clip = bool((true + total).min() < SMALLEST_PROBABILITY)  # rare, and a third of the time
    sums = np.empty_like(true)
    added: list[int] = []
    losses: list[float] = []
    for size in range(1, additions + 1):
        np.add(true, total, out=sums)
        if needs_clip:
            np.maximum(sums, size * SMALLEST_PROBABILITY, out=sums)
        trial_losses = np.round(np.log(size) - np.log(sums.prod(axis=1)) @ factors.shares, _LOSS_DECIMALS)
        added.append(int(np.argmin(trial_losses)))
        losses.append(float(trial_losses[added[-1]]))
        total = total + true[added[-1]]
    best = int(np.argmin(losses)) + 1
    return np.bincount(added[:best], minlength=len(true))


def _losses(true: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Weighted log loss of each row, (n_rows,), rounded so that ties are not decided by the last bits."""
    logs = np.log(np.clip(true, SMALLEST_PROBABILITY, 1.0))
    losses = -(logs * weights).sum(axis=1) / weights.sum()
    result: npt.NDArray[np.float64] = np.round(losses, _LOSS_DECIMALS)
    return result
