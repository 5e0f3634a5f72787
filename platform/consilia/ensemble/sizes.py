"""What an ensemble loses when fewer of its members are asked. Source: docs/methods.md section 4.

A smaller ensemble has the members of the largest weights, renormalised, and a calibrator of its own: the average of
fewer members is less sure for other reasons.
"""

from collections.abc import Sequence

from consilia.bundle.evaluation import EnsembleSize
from consilia.config.recipe import CalibrationKind
from consilia.decision.combination import LinearPool, combine, keep_largest
from consilia.ensemble.calibration import choose_calibrator, cross_calibrate_members
from consilia.ensemble.selection import Candidates, Truth, weighted_log_loss


def measure_sizes(
    kind: CalibrationKind,
    candidates: Candidates,
    combination: LinearPool,
    fold_combinations: Sequence[LinearPool],
    truth: Truth,
) -> tuple[EnsembleSize, ...]:
    """Return the ensemble at every size from one member to all.

    Args:
        kind: The recipe's calibration.
        candidates: Out-of-fold probabilities, (n_candidates, n_images, n_classes).
        combination: Of the shipped ensemble.
        fold_combinations: Selected without each fold, (n_folds,).
        truth: About the images.
    """
    calibrators, losses = [], []
    for n_members in range(1, len(combination.members) + 1):
        out_of_fold = combine(candidates, keep_largest(combination, n_members))
        calibrators.append(choose_calibrator(kind, out_of_fold, truth).calibrator)
        smaller = tuple(keep_largest(each, n_members) for each in fold_combinations)
        unseen = cross_calibrate_members(calibrators[-1].kind, candidates, smaller, truth)
        losses.append(weighted_log_loss(unseen, truth))
    return tuple(
        EnsembleSize(members=number, calibrator=calibrator, loss=loss, difference=loss - losses[-1])
        for number, (calibrator, loss) in enumerate(zip(calibrators, losses, strict=True), start=1)
    )
