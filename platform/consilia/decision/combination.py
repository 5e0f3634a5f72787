"""How the members of an ensemble become one probability: a linear pool or a stack. Source: docs/methods.md section 4.

A combination speaks of all candidates in their order; those that are no members weigh 0. In a bundle there are only
members left.
"""

from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from consilia.config.frozen import Frozen
from consilia.config.records import Probabilities
from consilia.decision.calibrators import POOL_CLIP
from consilia.metrics.scores import softmax

Shares = npt.NDArray[np.float64]  # (n_candidates,), not negative, sums to 1

LARGEST_COEFFICIENT = 1e4  # far beyond what a penalised fit finds, and far from overflow

Coefficient = Annotated[float, Field(ge=-LARGEST_COEFFICIENT, le=LARGEST_COEFFICIENT)]  # so neither NaN nor infinite


class LinearPool(Frozen):
    """The weighted mean of the probabilities."""

    kind: Literal["linear_pool"] = "linear_pool"
    weights: tuple[float, ...] = Field(min_length=1)  # (n_candidates,), not negative, of sum 1

    @property
    def members(self) -> tuple[int, ...]:
        """Which candidates take part, ascending."""
        return tuple(number for number, weight in enumerate(self.weights) if weight > 0)

    @property
    def votes(self) -> Shares:
        """How much each candidate's opinion counts where it is asked how far members disagree."""
        return np.array(self.weights, dtype=np.float64)

    def weight_of(self, candidate: int) -> float | None:
        """Return the weight that a bundle states for a member."""
        return self.weights[candidate]


class Stack(Frozen):
    """A multinomial logistic regression on the centred log-probabilities; `ensemble.stacking` fits one."""

    kind: Literal["stack"] = "stack"
    # (n_candidates, n_classes, n_classes): of a candidate's class (second) in the score of a class (third)
    coefficients: tuple[tuple[tuple[Coefficient, ...], ...], ...] = Field(min_length=1)
    intercepts: tuple[Coefficient, ...] = Field(min_length=2)  # (n_classes,)
    strength: float = Field(gt=0)  # of the regularisation that it was fitted with

    @model_validator(mode="after")
    def _must_be_matrices(self) -> "Stack":
        n_classes = len(self.intercepts)
        if any(len(matrix) != n_classes or {len(row) for row in matrix} != {n_classes} for matrix in self.coefficients):
            raise ValueError(f"coefficients must be matrices of {n_classes} x {n_classes}, as there are intercepts")
        return self

    @property
    def members(self) -> tuple[int, ...]:
        """Which candidates take part, ascending."""
        return tuple(number for number, matrix in enumerate(self.coefficients) if any(map(any, matrix)))

    @property
    def votes(self) -> Shares:
        """Equal ones: a stack weighs no opinions, it has coefficients of either sign."""
        votes = np.zeros(len(self.coefficients))
        votes[list(self.members)] = 1.0 / len(self.members)
        return votes

    @property
    def shares(self) -> Shares:
        """Share of each candidate in the sum of all absolute coefficients: for people to read, no weight."""
        sizes = np.abs(self.coefficients).sum(axis=(1, 2))
        result: Shares = sizes / sizes.sum()
        return result

    def weight_of(self, candidate: int) -> float | None:
        """Return None: a stack has no weights."""
        return None

    def without_others(self) -> "Stack":
        """Return the stack of the members alone."""
        return self.model_copy(update={"coefficients": tuple(self.coefficients[number] for number in self.members)})


AnyCombination = LinearPool | Stack


def combine(candidates: npt.NDArray[np.float64], combination: AnyCombination) -> Probabilities:
    """Return the probabilities of the ensemble, (..., n_classes), from those of the candidates.

    Args:
        candidates: Uncalibrated, (n_candidates, ..., n_classes).
        combination: Of these candidates.
    """
    if isinstance(combination, LinearPool):
        result: Probabilities = np.tensordot(np.array(combination.weights), candidates, axes=1)
        return result
    members = list(combination.members)
    logs = np.moveaxis(centred_logs(candidates[members]), 0, -2)  # (..., n_members, n_classes)
    coefficients = np.array([combination.coefficients[number] for number in members])
    return softmax(np.tensordot(logs, coefficients, axes=2) + np.array(combination.intercepts))


def keep_largest(pool: LinearPool, n_members: int) -> LinearPool:
    """Return the pool of the `n_members` largest weights, renormalised; a tie goes to the earlier one."""
    weights = np.array(pool.weights)
    result = np.zeros_like(weights)
    kept = np.argsort(-weights, kind="stable")[:n_members]
    result[kept] = weights[kept]
    return LinearPool(weights=tuple((result / result.sum()).tolist()))


def centred_logs(probabilities: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return log-probabilities of the same shape whose mean over the classes is 0: logits without their free constant.

    They are clipped as folds are when they are pooled: one member that is sure beyond that may not decide alone.
    """
    logs = np.log(np.clip(probabilities, POOL_CLIP, 1.0))
    result: npt.NDArray[np.float64] = logs - logs.mean(axis=-1, keepdims=True)
    return result
