import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from consilia.ensemble.calibration import (
    Calibrator,
    Identity,
    Temperature,
    calibrate,
    choose_calibrator,
    cross_calibrate,
    cross_calibrate_members,
    fit_temperature,
    pool_folds,
)
from consilia.ensemble.selection import Truth, weighted_log_loss
from consilia.scoring.metrics import softmax


def planted(temperature, *, n=4000, n_classes=3, seed=0):
    """Probabilities that are `temperature` times too sure, and labels drawn from the honest ones."""
    generator = np.random.default_rng(seed)
    honest = softmax(generator.normal(size=(n, n_classes)) * 1.5)
    labels = (generator.random((n, 1)) > honest.cumsum(axis=1)).sum(axis=1)
    truth = Truth(labels=labels, patients=np.arange(n).astype(str), folds=np.arange(n) % 3)
    return softmax(np.log(honest) * temperature), honest, truth


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_a_planted_temperature_is_recovered(temperature):
    probabilities, _, truth = planted(temperature)
    assert fit_temperature(probabilities, truth).temperature == pytest.approx(temperature, rel=0.08)


def test_the_fitted_temperature_has_the_lowest_loss_of_a_grid():
    probabilities, _, truth = planted(1.7, n=300)
    fitted = weighted_log_loss(calibrate(fit_temperature(probabilities, truth), probabilities), truth)
    grid = [
        weighted_log_loss(calibrate(Temperature(temperature=float(t)), probabilities), truth)
        for t in np.geomspace(0.05, 20, 400)
    ]
    assert fitted <= min(grid) + 1e-9


def test_calibration_with_the_planted_temperature_gives_the_honest_probabilities():
    probabilities, honest, _ = planted(2.5)
    np.testing.assert_allclose(calibrate(Temperature(temperature=2.5), probabilities), honest, atol=1e-9)


def test_a_perfect_model_does_not_break_the_fit():
    labels = np.arange(30) % 2
    truth = Truth(labels=labels, patients=np.arange(30).astype(str), folds=np.arange(30) % 3)
    assert 0.05 <= fit_temperature(np.eye(2)[labels], truth).temperature <= 20


def test_a_temperature_that_helps_is_kept():
    probabilities, _, truth = planted(2.5)
    calibration = choose_calibrator("temperature", probabilities, truth)
    assert isinstance(calibration.calibrator, Temperature)
    assert calibration.loss_after < calibration.loss_before
    assert f"{calibration.calibrator.temperature:.3f}" in calibration.reason


def test_the_identity_is_kept_where_a_temperature_only_fits_noise():
    kept = []
    for seed in range(6):
        probabilities, _, truth = planted(1.0, n=45, seed=seed)
        calibration = choose_calibrator("temperature", probabilities, truth)
        cross_fitted = weighted_log_loss(cross_calibrate(probabilities, truth), truth)
        assert calibration.loss_after == pytest.approx(cross_fitted)
        assert isinstance(calibration.calibrator, Identity) == (cross_fitted >= calibration.loss_before)
        kept.append(isinstance(calibration.calibrator, Identity))
    assert any(kept)


def test_a_recipe_without_calibration_gets_none():
    probabilities, _, truth = planted(2.5, n=60)
    calibration = choose_calibrator("none", probabilities, truth)
    assert (calibration.calibrator, calibration.loss_after) == (Identity(), None)


def test_labels_of_a_fold_do_not_reach_the_temperature_that_calibrates_it():
    probabilities, _, truth = planted(2.0, n=300)
    changed = Truth(labels=np.where(truth.folds == 1, 0, truth.labels), patients=truth.patients, folds=truth.folds)
    first, second = cross_calibrate(probabilities, truth), cross_calibrate(probabilities, changed)
    np.testing.assert_array_equal(first[truth.folds == 1], second[truth.folds == 1])
    assert not np.allclose(first[truth.folds == 0], second[truth.folds == 0])


def test_cross_fitted_members_and_temperature_come_from_the_other_folds():
    candidates = np.stack([planted(2.0, n=300)[0], planted(0.5, n=300)[0]])
    _, _, truth = planted(2.0, n=300)
    weights = np.array([[1.0, 0.0], [0.3, 0.7], [0.0, 1.0]])
    result = cross_calibrate_members(candidates, weights, truth)
    for fold in range(3):
        held_out = truth.folds == fold
        mixed = np.tensordot(weights[fold], candidates, axes=1)
        fitted = fit_temperature(mixed[~held_out], truth.subset(~held_out))
        np.testing.assert_allclose(result[held_out], calibrate(fitted, mixed[held_out]))


@pytest.mark.parametrize("calibrator", [Identity(), Temperature(temperature=1.7)])
def test_the_log_pool_of_one_fold_is_plain_calibration(calibrator):
    probabilities, _, _ = planted(2.0, n=50)
    np.testing.assert_array_equal(pool_folds(calibrator, probabilities[None]), calibrate(calibrator, probabilities))


@pytest.mark.parametrize("calibrator", [Identity(), Temperature(temperature=1.7)])
def test_the_log_pool_of_equal_folds_is_plain_calibration(calibrator):
    probabilities, _, _ = planted(1.0, n=50)
    pooled = pool_folds(calibrator, np.repeat(probabilities[None], 4, axis=0))
    np.testing.assert_allclose(pooled, calibrate(calibrator, probabilities), atol=3e-5)  # the clip's size


def test_the_order_of_folds_is_irrelevant_and_rows_sum_to_one():
    folds = np.stack([planted(2.0, n=50, seed=seed)[0] for seed in range(5)])
    pooled = pool_folds(Temperature(temperature=0.3), folds)
    np.testing.assert_allclose(pool_folds(Temperature(temperature=0.3), folds[::-1]), pooled, atol=1e-12)
    np.testing.assert_allclose(pooled.sum(axis=1), 1)


def test_one_fold_cannot_veto_a_class():
    folds = np.array([[[0.0, 1.0]], [[0.9, 0.1]], [[0.9, 0.1]], [[0.9, 0.1]]])
    pooled = pool_folds(Identity(), folds)
    assert pooled[0, 0] > 0.2
    assert np.isfinite(pooled).all()


def test_a_calibrator_is_read_by_its_kind_and_unknown_ones_are_refused():
    read = TypeAdapter(Calibrator).validate_python
    assert read({"kind": "temperature", "temperature": 2.0}) == Temperature(temperature=2.0)
    for wrong in (
        {"kind": "magic"},
        {"kind": "temperature", "temperature": -1242.0},
        {"kind": "identity", "x": 1},
    ):
        with pytest.raises(ValidationError):
            read(wrong)
