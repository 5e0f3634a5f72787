"""What an ensemble loses when fewer of its members are asked. Source: docs/methods.md section 4.

A smaller ensemble has the members of the largest weights, renormalised, and a calibrator of its own: the average of
fewer members is less sure for other reasons.
"""

from collections.abc import Sequence

import numpy as np

from consilia.config.frozen import Frozen
from consilia.config.recipe import CalibrationKind
from consilia.decision.calibrators import Calibrator
from consilia.decision.combination import AnyCombination, LinearPool, combine
from consilia.ensemble.calibration import choose_calibrator, cross_calibrate_members
from consilia.ensemble.selection import Candidates, Truth, weighted_log_loss


class EnsembleSize(Frozen):
    """The ensemble with so many members. Losses are patient-weighted log losses; lower is better."""

    members: int  # of the largest weights
    calibrator: Calibrator  # fitted for this size
    loss: float  # cross-fitted: each image by an ensemble selected, cut and calibrated without its fold
    difference: float  # of the loss, to that of all members; below 0 is better than all


def measure_sizes(
    kind: CalibrationKind,
    candidates: Candidates,
    combination: AnyCombination,
    fold_combinations: Sequence[AnyCombination],
    truth: Truth,
) -> tuple[EnsembleSize, ...]:
    """Return the ensemble at every size from one member to all; nothing of a stack, which was fitted to all.

    Args:
        kind: The recipe's calibration.
        candidates: Out-of-fold probabilities, (n_candidates, n_images, n_classes).
        combination: Of the shipped ensemble.
        fold_combinations: Selected without each fold, (n_folds,).
        truth: About the images.
    """
    fold_pools = [each for each in fold_combinations if isinstance(each, LinearPool)]
    if not isinstance(combination, LinearPool) or len(fold_pools) < len(fold_combinations):
        return ()
    calibrators, losses = [], []
    for n_members in range(1, len(combination.members) + 1):
        out_of_fold = combine(candidates, keep_largest(combination, n_members))
        calibrators.append(choose_calibrator(kind, out_of_fold, truth).calibrator)
        smaller = tuple(keep_largest(each, n_members) for each in fold_pools)
        unseen = cross_calibrate_members(calibrators[-1].kind, candidates, smaller, truth)
        losses.append(weighted_log_loss(unseen, truth))
    return tuple(
        EnsembleSize(members=number, calibrator=calibrator, loss=loss, difference=loss - losses[-1])
        for number, (calibrator, loss) in enumerate(zip(calibrators, losses, strict=True), start=1)
    )


def keep_largest(pool: LinearPool, n_members: int) -> LinearPool:
    """Return the pool of the `n_members` largest weights, renormalised; a tie goes to the earlier one."""
    weights = np.array(pool.weights)
    result = np.zeros_like(weights)
    kept = np.argsort(-weights, kind="stable")[:n_members]
    result[kept] = weights[kept]
    return LinearPool(weights=tuple((result / result.sum()).tolist()))
