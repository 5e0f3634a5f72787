import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from consilia.decision.calibrators import (
    Calibrator,
    Identity,
    Isotonic,
    Temperature,
    TemperatureBias,
    calibrate,
    pool_folds,
)
from consilia.decision.combination import LinearPool
from consilia.ensemble.calibration import (
    LEAST_WRONG,
    choose_calibrator,
    cross_calibrate,
    cross_calibrate_members,
    fit_isotonic,
    fit_temperature,
    fit_temperature_bias,
)
from consilia.ensemble.selection import Truth, weighted_log_loss
from consilia.errors import RunError
from consilia.metrics.scores import softmax


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
        cross_fitted = weighted_log_loss(cross_calibrate("temperature", probabilities, truth), truth)
        assert calibration.loss_after == pytest.approx(cross_fitted)
        assert isinstance(calibration.calibrator, Identity) == (cross_fitted >= calibration.loss_before)
        kept.append(isinstance(calibration.calibrator, Identity))
    assert any(kept)


def test_a_recipe_without_calibration_gets_none():
    probabilities, _, truth = planted(2.5, n=60)
    calibration = choose_calibrator("none", probabilities, truth)
    assert (calibration.calibrator, calibration.loss_after) == (Identity(), None)


def biased(biases, *, n=6000, seed=0):
    """Probabilities from which a bias of each class was taken away, and labels drawn from the honest ones."""
    _, honest, truth = planted(1.0, n=n, n_classes=len(biases), seed=seed)
    return softmax((np.log(honest) - biases) * 1.6), truth


def test_a_planted_temperature_and_bias_are_recovered():
    biases = np.array([-0.8, 0.1, 0.7])
    probabilities, truth = biased(biases)
    found = fit_temperature_bias(probabilities, truth)
    assert found.temperature == pytest.approx(1.6, rel=0.08)
    np.testing.assert_allclose(found.biases, biases, atol=0.12)


def test_biases_lower_the_loss_below_that_of_any_temperature_and_are_a_stationary_point():
    probabilities, truth = biased(np.array([-0.8, 0.1, 0.7]), n=800)
    found = fit_temperature_bias(probabilities, truth)
    loss = weighted_log_loss(calibrate(found, probabilities), truth)
    assert loss < weighted_log_loss(calibrate(fit_temperature(probabilities, truth), probabilities), truth)
    for step in np.random.default_rng(0).normal(size=(20, 4)) * 0.05:
        moved = TemperatureBias(
            temperature=found.temperature * float(np.exp(step[0])), biases=tuple(np.array(found.biases) + step[1:])
        )
        assert weighted_log_loss(calibrate(moved, probabilities), truth) > loss


def test_auto_takes_biases_where_they_help_and_a_temperature_where_classes_are_called_fairly():
    probabilities, truth = biased(np.array([-0.8, 0.1, 0.7]))
    assert isinstance(choose_calibrator("auto", probabilities, truth).calibrator, TemperatureBias)
    kinds = [choose_calibrator("auto", *planted(2.5, seed=seed)[::2]).calibrator.kind for seed in range(5)]
    assert kinds.count("temperature") >= 3  # biases fit nothing but noise there


def test_auto_tries_no_bias_where_a_class_is_rare_and_a_recipe_that_names_it_is_refused():
    probabilities, truth = biased(np.array([-0.8, 0.1, 0.7]), n=900)
    found = choose_calibrator("auto", probabilities, truth)
    assert (found.calibrator.kind, "biases" in found.reason) == ("temperature", False)
    with pytest.raises(RunError, match="temperature_bias needs 1000 images and 50 of every class, but there are 900"):
        choose_calibrator("temperature_bias", probabilities, truth)


def test_isotonic_recovers_a_monotone_distortion_that_no_temperature_can():
    generator = np.random.default_rng(0)
    honest = generator.random(6000)
    labels = (generator.random(6000) < honest).astype(int)
    truth = Truth(labels=labels, patients=np.arange(6000).astype(str), folds=np.arange(6000) % 3)
    bent = np.stack([1 - honest**3, honest**3], axis=1)
    chosen = choose_calibrator("isotonic", bent, truth)
    assert isinstance(chosen.calibrator, Isotonic)
    assert np.abs(calibrate(chosen.calibrator, bent)[:, 1] - honest).mean() < 0.02
    by_temperature = calibrate(fit_temperature(bent, truth), bent)
    assert np.abs(by_temperature[:, 1] - honest).mean() > 0.04


def test_isotonic_is_never_certain_and_never_turns_two_images_round():
    labels = np.repeat([0, 1], 600)
    truth = Truth(labels=labels, patients=np.arange(1200).astype(str), folds=np.arange(1200) % 3)
    second = np.linspace(0, 1, 1200)  # separates the classes perfectly
    fitted = fit_isotonic(np.stack([1 - second, second], axis=1), truth)
    wide = np.linspace(0, 1, 5001)
    found = calibrate(fitted, np.stack([1 - wide, wide], axis=1))
    assert found.min() >= 1 / 1203
    assert (np.diff(found[:, 1]) >= 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_isotonic_of_equal_probabilities_is_their_frequency():
    labels = np.repeat([0, 1], [300, 100])
    truth = Truth(labels=labels, patients=np.arange(400).astype(str), folds=np.arange(400) % 3)
    equal = np.full((400, 2), 0.5)
    np.testing.assert_allclose(calibrate(fit_isotonic(equal, truth), equal)[:, 1], 0.25)


@pytest.mark.parametrize(
    ("kind", "n_classes", "n", "reason"),
    [("isotonic", 3, 4000, "needs two classes, but there are 3"), ("isotonic", 2, 900, "needs 1000 images of the sec")],
)
def test_isotonic_without_the_data_for_it_is_refused(kind, n_classes, n, reason):
    probabilities, _, truth = planted(2.0, n=n, n_classes=n_classes)
    with pytest.raises(RunError, match=reason):
        choose_calibrator(kind, probabilities, truth)


@pytest.mark.parametrize(
    ("inputs", "outputs", "problem"),
    [
        ((0.1, 0.1), (0.2, 0.3), "ascend"),
        ((0.1, 0.2), (0.3, 0.2), "descend"),
        ((0.1, 0.2), (0.0, 0.2), "certain"),
        ((0.1, 0.2, 0.3), (0.1, 0.2), "pairs"),
    ],
)
def test_an_isotonic_map_that_is_none_is_refused(inputs, outputs, problem):
    with pytest.raises(ValidationError, match=problem):
        Isotonic(inputs=inputs, outputs=outputs)


def test_labels_of_a_fold_do_not_reach_the_temperature_that_calibrates_it():
    probabilities, _, truth = planted(2.0, n=300)
    changed = Truth(labels=np.where(truth.folds == 1, 0, truth.labels), patients=truth.patients, folds=truth.folds)
    first, second = (
        cross_calibrate("temperature", probabilities, truth),
        cross_calibrate("temperature", probabilities, changed),
    )
    np.testing.assert_array_equal(first[truth.folds == 1], second[truth.folds == 1])
    assert not np.allclose(first[truth.folds == 0], second[truth.folds == 0])


def test_cross_fitted_members_and_temperature_come_from_the_other_folds():
    candidates = np.stack([planted(2.0, n=300)[0], planted(0.5, n=300)[0]])
    _, _, truth = planted(2.0, n=300)
    weights = np.array([[1.0, 0.0], [0.3, 0.7], [0.0, 1.0]])
    pools = [LinearPool(weights=tuple(each)) for each in weights.tolist()]
    result = cross_calibrate_members("temperature", candidates, pools, truth)
    for fold in range(3):
        held_out = truth.folds == fold
        mixed = np.tensordot(weights[fold], candidates, axes=1)
        fitted = fit_temperature(mixed[~held_out], truth.subset(~held_out))
        np.testing.assert_allclose(result[held_out], calibrate(fitted, mixed[held_out]))


EVERY = [
    Identity(),
    Temperature(temperature=1.7),
    TemperatureBias(temperature=1.7, biases=(0.1, -0.3, 0.2)),
]


@pytest.mark.parametrize("calibrator", EVERY)
def test_the_log_pool_of_one_fold_is_plain_calibration(calibrator):
    probabilities, _, _ = planted(2.0, n=50)
    np.testing.assert_array_equal(pool_folds(calibrator, probabilities[None]), calibrate(calibrator, probabilities))


@pytest.mark.parametrize("calibrator", EVERY)
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


@pytest.mark.parametrize("kind", ["auto", "temperature"])
def test_without_mistakes_nothing_is_made_surer(kind):
    labels = np.arange(100) % 2
    probabilities = np.where(np.eye(2)[labels] == 1, 0.8, 0.2)
    for n_wrong, is_kept in ((0, False), (LEAST_WRONG - 1, False), (LEAST_WRONG, True)):
        said = probabilities.copy()
        said[:n_wrong] = said[:n_wrong, ::-1]
        truth = Truth(labels=labels, patients=np.arange(100).astype(str), folds=np.arange(100) // 2 % 5)
        found = choose_calibrator(kind, said, truth)
        assert (found.calibrator.kind != "identity") == is_kept
        assert is_kept or f"{n_wrong} patients have an image that is called wrongly" in found.reason


def test_mistakes_are_counted_by_patient():
    labels = np.arange(100) % 2
    said = np.where(np.eye(2)[labels] == 1, 0.8, 0.2)
    said[: 2 * LEAST_WRONG] = said[: 2 * LEAST_WRONG, ::-1]
    patients = np.where(np.arange(100) < 2 * LEAST_WRONG, "one", np.arange(100).astype(str))
    truth = Truth(labels=labels, patients=patients, folds=np.where(patients == "one", 0, np.arange(100) // 2 % 5))
    assert choose_calibrator("auto", said, truth).calibrator.kind == "identity"
