"""Thresholds and flags on drawn patients: how often a promise is broken. Source: docs/methods.md sections 6 and 7."""

from itertools import count

import numpy as np
from scipy.stats import norm

from consilia.decision.disagreement import measure_disagreement
from consilia.ensemble.thresholds import choose_threshold
from consilia.ensemble.uncertainty import disagreement_limit
from consilia.metrics.risk_coverage import choose_abstention
from consilia.metrics.scores import softmax

TARGET = 0.95
_MEMBERS = np.array([0.5, 0.3, 0.2])


def share_below_target(n_pools: int, *, patients: int, correlation: float) -> float:
    """Return the share of pools whose chosen threshold truly has a lower sensitivity than the target.

    Patients have 3 to 20 positive images each, whose normal scores have this correlation within a patient. In
    uniform scores the share of new images that lie below a threshold is the threshold itself.
    """
    below = 0
    for seed in range(n_pools):
        rng = np.random.default_rng(seed)
        owner = np.repeat(np.arange(patients), rng.integers(3, 21, size=patients))
        shared, own = rng.normal(size=patients)[owner], rng.normal(size=len(owner))
        scores = norm.cdf(np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own)
        positive = np.ones(len(scores), dtype=np.bool_)
        point = choose_threshold(scores, positive, owner.astype(str), name="finding", goal="sensitivity", target=TARGET)
        assert point.threshold is not None
        below += 1 - point.threshold < TARGET
    return below / n_pools


def least_positive(target: float) -> int:
    """Return the least number of patients, all of them found, for which there is a threshold."""
    for n in count(1):
        point = choose_threshold(
            np.full(n, 0.9), np.ones(n, bool), np.arange(n).astype(str), name="", goal="sensitivity", target=target
        )
        if point.threshold is not None:
            return n
    raise AssertionError


def least_answered(risk: float) -> int:
    """Return the least number of patients, all answered rightly, for which there is a confidence to answer at."""
    for n in count(1):
        probabilities = np.tile([0.1, 0.9], (n, 1))
        point = choose_abstention(probabilities, np.ones(n, np.int64), np.arange(n).astype(str), target=risk)
        if point.threshold is not None:
            return n
    raise AssertionError


def disagreement_flags(n_folds: int, *, n_images: int = 20_000) -> float:
    """Return the share of new images, as usual as those of the limit, that are flagged for disagreement."""
    rng = np.random.default_rng(7)
    oof = _voices(rng, n_folds=1, n_images=n_images)[:, 0]
    limit = disagreement_limit(oof, _MEMBERS, np.arange(n_images).astype(str))
    assert limit is not None
    new = measure_disagreement(_voices(rng, n_folds=n_folds, n_images=n_images), _MEMBERS)
    return float((new > limit).mean())


def _voices(rng: np.random.Generator, *, n_folds: int, n_images: int) -> np.ndarray:
    """Return three members (3, n_folds, n_images, 3) that differ more about some images than about others."""
    common = rng.normal(size=(n_images, 3)) * 2
    dispute = 0.5 * rng.lognormal(0, 0.7, size=(n_images, 1))
    return softmax(common + dispute * rng.normal(size=(len(_MEMBERS), n_folds, n_images, 3)))
