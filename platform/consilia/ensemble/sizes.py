"""What an ensemble loses when fewer of its members are asked. Source: docs/methods.md section 4.

A smaller ensemble has the members of the largest weights, renormalised, and a calibrator of its own: the average of
fewer members is less sure for other reasons.
"""

import numpy as np
import numpy.typing as npt

from consilia.ensemble.calibration import choose_calibrator, cross_calibrate_members
from consilia.ensemble.calibrators import Calibrator
from consilia.ensemble.selection import Candidates, CandidateWeights, Truth, combine, weighted_log_loss
from consilia.plan.ensemble import CalibrationKind
from consilia.plan.frozen import Frozen


class EnsembleSize(Frozen):
    """The ensemble with so many members. Losses are patient-weighted log losses; lower is better."""

    members: int  # of the largest weights
    calibrator: Calibrator  # fitted for this size
    loss: float  # cross-fitted: each image by an ensemble selected, cut and calibrated without its fold
    difference: float  # of the loss, to that of all members; below 0 is better than all


def measure_sizes(
    kind: CalibrationKind,
    candidates: Candidates,
    weights: CandidateWeights,
    fold_weights: npt.NDArray[np.float64],
    truth: Truth,
) -> tuple[EnsembleSize, ...]:
    """Return the ensemble at every size from one member to all.

    Args:
        kind: The recipe's calibration.
        candidates: Out-of-fold probabilities, (n_candidates, n_images, n_classes).
        weights: Of the shipped ensemble.
        fold_weights: Selected without each fold, (n_folds, n_candidates).
        truth: About the images.
    """
    calibrators, losses = [], []
    for n_members in range(1, np.count_nonzero(weights) + 1):
        out_of_fold = combine(candidates, keep_largest(weights, n_members))
        calibrators.append(choose_calibrator(kind, out_of_fold, truth).calibrator)
        smaller = np.stack([keep_largest(each, n_members) for each in fold_weights])
        unseen = cross_calibrate_members(calibrators[-1].kind, candidates, smaller, truth)
        losses.append(weighted_log_loss(unseen, truth))
    return tuple(
        EnsembleSize(members=number, calibrator=calibrator, loss=loss, difference=loss - losses[-1])
        for number, (calibrator, loss) in enumerate(zip(calibrators, losses, strict=True), start=1)
    )


def keep_largest(weights: CandidateWeights, n_members: int) -> CandidateWeights:
    """Return the weights with all but the `n_members` largest at 0, renormalised; a tie goes to the earlier one."""
    kept = np.argsort(-weights, kind="stable")[:n_members]
    result = np.zeros_like(weights)
    result[kept] = weights[kept]
    normalised: CandidateWeights = result / result.sum()
    return normalised
