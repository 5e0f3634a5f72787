"""What a recipe makes of finished trials: choose, calibrate, cross-fit. Source: docs/methods.md sections 4 and 5."""

from dataclasses import dataclass
from functools import cached_property

from consilia.bundle.evaluation import EnsembleSize
from consilia.config.recipe import EnsembleRecipe
from consilia.config.records import Probabilities
from consilia.decision.calibrators import calibrate
from consilia.decision.combination import combine, keep_largest
from consilia.ensemble.calibration import Calibration, choose_calibrator, cross_calibrate_members
from consilia.ensemble.choice import Choice, choose
from consilia.ensemble.selection import Candidates, Truth, combine_cross_fitted, weighted_log_loss


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedRecipe:
    """A recipe's choice, and what follows from it; each is computed when it is first asked for.

    Probabilities are (n_images, n_classes), of single folds' ensembles on images that they never saw.
    """

    recipe: EnsembleRecipe
    candidates: Candidates
    truth: Truth  # about the same images
    choice: Choice

    @cached_property
    def out_of_fold(self) -> Probabilities:
        """What the chosen ensemble says, uncalibrated; it was chosen on these images."""
        return combine(self.candidates, self.choice.combination)

    @cached_property
    def calibration(self) -> Calibration:
        """The calibrator that the ensemble keeps.

        Raises:
            RunError: The recipe names a calibrator that these data do not support.
        """
        return choose_calibrator(self.recipe.calibration, self.out_of_fold, self.truth)

    @cached_property
    def calibrated(self) -> Probabilities:
        """`out_of_fold` through the calibrator, which was fitted to it: flattering."""
        return calibrate(self.calibration.calibrator, self.out_of_fold)

    @cached_property
    def cross_fitted_uncalibrated(self) -> Probabilities:
        """Each image by an ensemble that was selected without its fold."""
        return combine_cross_fitted(self.candidates, self.choice.fold_combinations, self.truth)

    @cached_property
    def cross_fitted(self) -> Probabilities:
        """Each image by an ensemble that was selected and calibrated without its fold."""
        kind = self.calibration.calibrator.kind
        return cross_calibrate_members(kind, self.candidates, self.choice.fold_combinations, self.truth)


def fit_recipe(recipe: EnsembleRecipe, candidates: Candidates, truth: Truth, *, seed: int) -> FittedRecipe:
    """Choose by the recipe.

    Args:
        recipe: How to select and calibrate.
        candidates: In the order of their trial numbers.
        truth: About the same images; of a bootstrap sample, those that were drawn.
        seed: Of the selection, and of the comparison with the best single trial.
    """
    choice = choose(recipe.selection, candidates, truth, seed=seed)
    return FittedRecipe(recipe=recipe, candidates=candidates, truth=truth, choice=choice)


def measure_sizes(fitted: FittedRecipe) -> tuple[EnsembleSize, ...]:
    """Return the ensemble at every size from one member to all.

    A smaller ensemble has the members of the largest weights, renormalised, and a calibrator of its own: the average of
    fewer members is less sure for other reasons.

    Source: docs/methods.md section 4.
    """
    candidates, choice, truth = fitted.candidates, fitted.choice, fitted.truth
    calibrators, losses = [], []
    for n_members in range(1, len(choice.combination.members) + 1):
        out_of_fold = combine(candidates, keep_largest(choice.combination, n_members))
        calibrators.append(choose_calibrator(fitted.recipe.calibration, out_of_fold, truth).calibrator)
        smaller = tuple(keep_largest(each, n_members) for each in choice.fold_combinations)
        cross_fitted = cross_calibrate_members(calibrators[-1].kind, candidates, smaller, truth)
        losses.append(weighted_log_loss(cross_fitted, truth))
    return tuple(
        EnsembleSize(members=number, calibrator=calibrator, loss=loss, difference=loss - losses[-1])
        for number, (calibrator, loss) in enumerate(zip(calibrators, losses, strict=True), start=1)
    )
