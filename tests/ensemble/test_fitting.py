"""One pipeline from candidates to calibrated, cross-fitted probabilities; each step is what it is by itself."""

import numpy as np
import pytest

from consilia.config.recipe import EnsembleRecipe, Greedy
from consilia.decision.calibrators import calibrate
from consilia.decision.combination import combine
from consilia.ensemble import fitting
from consilia.ensemble.calibration import choose_calibrator, cross_calibrate_members
from consilia.ensemble.choice import choose
from consilia.ensemble.fitting import fit_recipe
from consilia.ensemble.selection import Truth, combine_cross_fitted
from consilia.errors import RunError
from consilia.metrics.scores import softmax

RECIPE = EnsembleRecipe(name="quick", selection=Greedy(bags=3, additions=5))


@pytest.fixture(scope="module")
def candidates():
    """Five trials that are too sure, and the truth about 300 images of 150 patients."""
    generator = np.random.default_rng(2)
    labels = generator.integers(0, 3, 150).repeat(2)
    logits = 3 * (np.eye(3)[labels] + generator.normal(size=(5, 300, 3)))
    patients = np.arange(150).repeat(2)
    return softmax(logits), Truth(labels=labels, patients=patients.astype(str), folds=patients % 4)


def test_each_part_is_what_its_step_gives(candidates):
    trials, truth = candidates
    fitted = fit_recipe(RECIPE, trials, truth, seed=3)
    choice = choose(RECIPE.selection, trials, truth, seed=3)
    calibration = choose_calibrator("auto", combine(trials, choice.combination), truth)
    kind = calibration.calibrator.kind
    assert (fitted.choice, fitted.calibration) == (choice, calibration)
    assert kind == "temperature"
    expected = {
        "out_of_fold": combine(trials, choice.combination),
        "calibrated": calibrate(calibration.calibrator, combine(trials, choice.combination)),
        "cross_fitted_uncalibrated": combine_cross_fitted(trials, choice.fold_combinations, truth),
        "cross_fitted": cross_calibrate_members(kind, trials, choice.fold_combinations, truth),
    }
    for name, probabilities in expected.items():
        np.testing.assert_array_equal(getattr(fitted, name), probabilities, err_msg=name)


def test_a_part_is_computed_once_and_only_when_it_is_asked_for(candidates, monkeypatch):
    calls = []

    def count(*arguments):
        calls.append(arguments)
        return choose_calibrator(*arguments)

    monkeypatch.setattr(fitting, "choose_calibrator", count)
    fitted = fit_recipe(RECIPE, *candidates, seed=0)
    assert fitted.choice.combination.members
    assert calls == []
    assert fitted.calibrated is fitted.calibrated
    assert fitted.cross_fitted is fitted.cross_fitted
    assert len(calls) == 1


def test_a_calibrator_that_the_data_do_not_support_is_refused_where_it_is_asked_for(candidates):
    fitted = fit_recipe(RECIPE.model_copy(update={"calibration": "isotonic"}), *candidates, seed=0)
    with pytest.raises(RunError, match="needs two classes"):
        _ = fitted.calibration
