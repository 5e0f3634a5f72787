"""How the members of an ensemble become one probability: a linear pool. Source: docs/methods.md section 4.

A pool speaks of all candidates in their order; those that are not members have the weight 0. A bundle
holds members only.
"""

import numpy as np
import numpy.typing as npt
from pydantic import Field

from consilia.config.frozen import Frozen
from consilia.config.records import Probabilities

Shares = npt.NDArray[np.float64]  # (n_candidates,), not negative, sums to 1


class LinearPool(Frozen):
    """The weighted mean of the probabilities."""

    weights: tuple[float, ...] = Field(min_length=1)  # (n_candidates,), not negative, of sum 1

    @property
    def members(self) -> tuple[int, ...]:
        """Which candidates take part, ascending."""
        return tuple(number for number, weight in enumerate(self.weights) if weight > 0)

    @property
    def shares(self) -> Shares:
        """The weights as an array."""
        return np.array(self.weights, dtype=np.float64)


def combine(candidates: npt.NDArray[np.float64], pool: LinearPool) -> Probabilities:
    """Return the probabilities of the ensemble, (..., n_classes), from those of the candidates.

    Args:
        candidates: Uncalibrated, (n_candidates, ..., n_classes).
        pool: Of these candidates.
    """
    result: Probabilities = np.tensordot(pool.shares, candidates, axes=1)
    return result


def keep_largest(pool: LinearPool, n_members: int) -> LinearPool:
    """Return the pool of the `n_members` largest weights, renormalised; a tie goes to the earlier one."""
    result = np.zeros_like(pool.shares)
    kept = np.argsort(-pool.shares, kind="stable")[:n_members]
    result[kept] = pool.shares[kept]
    return LinearPool(weights=tuple((result / result.sum()).tolist()))
