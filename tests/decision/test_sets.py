from fractions import Fraction

import numpy as np
import pytest

from consilia.decision.sets import (
    conforming_classes,
    describe_guarantee,
    from_arrays,
    least_patients,
    prediction_sets,
    to_arrays,
)
from consilia.ensemble.selection import Truth
from consilia.ensemble.uncertainty import ALPHA, calibrate_sets
from consilia.errors import BundleError
from consilia.metrics.scores import softmax

FOLDS = 5


def draw_pool(generator, *, patients=60, n_classes=3, shares=None, per_patient=(1, 2, 4)):
    """Images of patients, and what fold ensembles that were not trained on them say, (FOLDS, n, n_classes)."""
    counts = generator.choice(per_patient, size=patients)
    owner = np.repeat(np.arange(patients), counts)
    labels = generator.choice(n_classes, size=patients, p=shares)[owner]
    logits = 1.5 * np.eye(n_classes)[labels] + generator.normal(size=(patients, n_classes))[owner]
    logits = logits + 0.3 * generator.normal(size=(FOLDS, len(owner), n_classes))  # each fold errs in its own way
    truth = Truth(labels=labels, patients=owner.astype(str), folds=(np.arange(patients) % FOLDS)[owner])
    return softmax(logits), truth


def out_of_fold(fold_probabilities, truth):
    return fold_probabilities[truth.folds, np.arange(len(truth.labels))]


def covered_share(members, truth):
    """Share of a random image of a random patient."""
    covered = members[np.arange(len(truth.labels)), truth.labels]
    owners, numbers = np.unique(truth.patients, return_inverse=True)
    return np.mean(np.bincount(numbers, covered, len(owners)) / np.bincount(numbers))


def sets_by_definition(oof, truth, new, alpha, least):
    """The rule of docs/methods.md section 6, image by image in exact fractions."""
    result = np.zeros(new.shape[1:], dtype=bool)
    for c in range(new.shape[2]):
        own = [i for i in range(len(oof)) if truth.labels[i] == c]
        rows = own if len(set(truth.patients[own])) >= least else range(len(oof))
        images = {p: sum(truth.patients[i] == p for i in rows) for p in truth.patients[list(rows)]}
        for x in range(new.shape[1]):
            below = sum(
                Fraction(1, int(images[truth.patients[i]]))
                for i in rows
                if 1 - oof[i, truth.labels[i]] < 1 - new[truth.folds[i], x, c]
            )
            result[x, c] = below < (1 - alpha) * (len(images) + 1)
    return result


@pytest.mark.parametrize("alpha", [Fraction(1, 10), Fraction(1, 4)])
def test_sets_are_those_of_the_definition_in_exact_fractions(alpha):
    generator = np.random.default_rng(0)
    pool, truth = draw_pool(generator, patients=40, shares=[0.6, 0.3, 0.1], per_patient=(1, 3, 7))
    new, _ = draw_pool(generator, patients=60)
    pool, new = np.round(pool, 2), np.round(new, 2)  # many ties
    oof = out_of_fold(pool, truth)
    calibration = calibrate_sets(oof, truth, alpha=float(alpha))
    assert calibration.has_guarantee.tolist() in ([True, True, False], [True, True, True])
    expected = sets_by_definition(oof, truth, new, alpha, 1 / alpha - 1)
    np.testing.assert_array_equal(conforming_classes(calibration, new), expected)


def test_one_fold_and_one_image_a_patient_is_split_conformal():
    generator = np.random.default_rng(1)
    n = 50
    labels = np.zeros(n, dtype=np.int64)
    oof = np.column_stack([generator.random(n), np.zeros(n)])
    truth = Truth(labels=labels, patients=np.arange(n).astype(str), folds=np.zeros(n, dtype=np.int64))
    quantile = np.sort(1 - oof[:, 0])[int(np.ceil((n + 1) * 0.9)) - 1]
    new = np.column_stack([np.linspace(0, 1, 301), np.zeros(301)])
    members = conforming_classes(calibrate_sets(oof, truth), new[None])
    np.testing.assert_array_equal(members[:, 0], 1 - new[:, 0] <= quantile)


@pytest.mark.parametrize(("alpha", "least"), [(0.1, 9), (0.05, 19), (0.2, 4), (0.01, 99), (0.3, 3), (0.5, 1), (0.9, 1)])
def test_with_one_patient_less_than_the_least_no_class_can_be_left_out(alpha, least):
    assert least_patients(alpha) == least
    for n, can in ((least - 1, False), (least, True)):
        if n == 0:
            continue
        oof = np.tile([0.9, 0.1], (n, 1))
        truth = Truth(labels=np.zeros(n, int), patients=np.arange(n).astype(str), folds=np.zeros(n, int))
        members = conforming_classes(calibrate_sets(oof, truth, alpha=alpha), np.array([[[0.2, 0.8]]]))
        assert members[0, 0] != can


def test_ten_tenths_of_a_patient_are_one_patient():
    """In floating point ten times 0.1 is less than 1, and 9 patients would be less than the limit of 9."""
    oof = np.tile([0.9, 0.1], (90, 1))
    owner = np.repeat(np.arange(9), 10)
    truth = Truth(labels=np.zeros(90, int), patients=owner.astype(str), folds=owner)
    assert not conforming_classes(calibrate_sets(oof, truth), np.full((9, 1, 2), 0.5))[0, 0]


def coverage_of_draws(seeds, *, measure, shares=None, patients=60):
    """Mean over draws of the pool of `measure`, and its standard error."""
    values = []
    for seed in range(seeds):
        generator = np.random.default_rng(seed)
        pool, truth = draw_pool(generator, patients=patients, shares=shares)
        new, new_truth = draw_pool(generator, patients=200, shares=shares)
        values.append(measure(out_of_fold(pool, truth), truth, new, new_truth))
    values = np.array(values)
    return np.nanmean(values, axis=0), np.nanstd(values, axis=0) / np.sqrt(seeds)


def test_sets_cover_at_least_the_promised_share_of_new_patients_images():
    def measure(oof, truth, new, new_truth):
        return covered_share(conforming_classes(calibrate_sets(oof, truth), new), new_truth)

    coverage, error = coverage_of_draws(200, measure=measure, patients=150)
    assert coverage >= 1 - ALPHA - 3 * error
    assert coverage <= 0.95  # neither is it bought by sets of everything


def fit_and_predict(generator, features, labels, new, folds):
    """Nearest-mean classifiers of each fold's complement on many features: they overfit, and differ."""
    answers = []
    for fold in range(FOLDS):
        rows = folds != fold
        means = np.stack([features[rows & (labels == c)].mean(axis=0) for c in (0, 1)])
        answers.append(softmax(-0.5 * ((new[:, None] - means) ** 2).sum(axis=2)))
    return np.stack(answers)


def test_sets_of_classifiers_that_were_really_trained_cover_new_patients():
    values = []
    for seed in range(150):
        generator = np.random.default_rng(seed)
        owner = np.repeat(np.arange(260), generator.choice([1, 2, 3], size=260))
        labels = (np.arange(260) // 5 % 2)[owner]
        features = generator.normal(size=(260, 30))[owner] + 0.5 * generator.normal(size=(len(owner), 30))
        features[:, 0] += 2.5 * labels
        pool = owner < 60
        folds = owner % FOLDS
        answers = fit_and_predict(generator, features[pool], labels[pool], features, folds[pool])
        truth = Truth(labels=labels, patients=owner.astype(str), folds=folds)
        calibration = calibrate_sets(out_of_fold(answers[:, pool], truth.subset(pool)), truth.subset(pool))
        values.append(covered_share(conforming_classes(calibration, answers[:, ~pool]), truth.subset(~pool)))
    assert np.mean(values) >= 1 - ALPHA - 3 * np.std(values) / np.sqrt(len(values))


def test_a_rare_class_is_covered_when_judged_by_its_own_images_and_not_when_by_all():
    def measure(oof, truth, new, new_truth):
        rare = new_truth.labels == 1
        own = conforming_classes(calibrate_sets(oof, truth), new)
        scores = np.sort(1 - oof[np.arange(len(oof)), truth.labels])
        together = 1 - new[0] <= scores[int(np.ceil((len(scores) + 1) * 0.9)) - 1]
        return [covered_share(members[rare], new_truth.subset(rare)) for members in (own, together)]

    def harder(pool, truth):
        """Class 1 is called class 0 more often than not."""
        logits = np.log(pool)
        logits[..., 0] += 1.5
        return softmax(logits)

    values = []
    for seed in range(100):
        generator = np.random.default_rng(seed)
        pool, truth = draw_pool(generator, patients=150, n_classes=2, shares=[0.85, 0.15])
        new, new_truth = draw_pool(generator, patients=200, n_classes=2, shares=[0.85, 0.15])
        values.append(measure(out_of_fold(harder(pool, truth), truth), truth, harder(new, new_truth), new_truth))
    own, together = np.mean(values, axis=0)
    error = np.std(values, axis=0)[0] / 10
    assert own >= 1 - ALPHA - 3 * error
    assert together < 0.8


def test_a_quantile_of_out_of_fold_scores_put_on_the_fold_average_covers_too_little():
    """Every fold ensemble fails on its own few images, so the average is hurt on far more of them."""
    plus, average = [], []
    for seed in range(60):
        generator = np.random.default_rng(seed)
        n = 600
        difficulty = generator.uniform(0.01, 0.02, size=n)  # 1 - p of the true class
        fails = generator.random((FOLDS, n)) < 0.06
        wrong = np.where(fails, 0.9, difficulty)
        fold_probabilities = np.stack([1 - wrong, wrong], axis=2)
        truth = Truth(labels=np.zeros(n, int), patients=np.arange(n).astype(str), folds=np.arange(n) % FOLDS)
        pool = np.arange(n) < 300
        oof = out_of_fold(fold_probabilities, truth)[pool]
        new = fold_probabilities[:, ~pool]
        plus.append(conforming_classes(calibrate_sets(oof, truth.subset(pool)), new)[:, 0].mean())
        quantile = np.sort(1 - oof[:, 0])[int(np.ceil(301 * 0.9)) - 1]
        pooled = softmax(np.log(new).mean(axis=0))
        average.append((1 - pooled[:, 0] <= quantile).mean())
    assert np.mean(plus) >= 0.9
    assert np.mean(average) < 0.8


def test_an_image_of_which_no_class_conforms_gets_all_classes():
    oof = np.tile([0.99, 0.01], (40, 1))
    oof[1::2] = oof[1::2, ::-1]
    truth = Truth(labels=np.arange(40) % 2, patients=np.arange(40).astype(str), folds=np.arange(40) // 2 % 4)
    calibration = calibrate_sets(oof, truth)
    new = np.tile([[[0.99, 0.01], [0.6, 0.4]]], (4, 1, 1))
    assert conforming_classes(calibration, new).tolist() == [[True, False], [False, False]]
    assert prediction_sets(calibration, new).members.tolist() == [[True, False], [True, True]]


def test_ties_keep_a_class():
    oof = np.full((30, 2), 0.5)
    truth = Truth(labels=np.arange(30) % 2, patients=np.arange(30).astype(str), folds=np.arange(30) // 2 % 3)
    assert conforming_classes(calibrate_sets(oof, truth), np.full((3, 4, 2), 0.5)).all()


def test_order_of_images_order_of_folds_and_copies_of_all_images_change_nothing():
    generator = np.random.default_rng(3)
    pool, truth = draw_pool(generator)
    new, _ = draw_pool(generator)
    oof = out_of_fold(pool, truth)
    expected = conforming_classes(calibrate_sets(oof, truth), new)
    order = generator.permutation(len(oof))
    for rows in (order, np.repeat(order, 3)):
        shuffled = Truth(labels=truth.labels[rows], patients=truth.patients[rows], folds=truth.folds[rows])
        np.testing.assert_array_equal(conforming_classes(calibrate_sets(oof[rows], shuffled), new), expected)
    renamed = Truth(labels=truth.labels, patients=truth.patients, folds=FOLDS - 1 - truth.folds)
    np.testing.assert_array_equal(conforming_classes(calibrate_sets(oof, renamed), new[::-1]), expected)


def test_a_smaller_alpha_never_takes_a_conforming_class_away():
    generator = np.random.default_rng(4)
    pool, truth = draw_pool(generator, patients=150)
    new, _ = draw_pool(generator)
    sets = [conforming_classes(calibrate_sets(out_of_fold(pool, truth), truth, alpha=a), new) for a in (0.05, 0.1, 0.3)]
    assert (sets[0] >= sets[1]).all()
    assert (sets[1] >= sets[2]).all()


def test_a_class_without_enough_patients_is_said_to_have_no_guarantee():
    labels = np.repeat([0, 1, 2], [30, 9, 8])
    oof = np.full((47, 3), 1 / 3)
    calibration = calibrate_sets(
        oof, Truth(labels=labels, patients=np.arange(47).astype(str), folds=np.arange(47) % FOLDS)
    )
    sentences = describe_guarantee(calibration, ("normal", "benign", "malignant"))
    assert calibration.has_guarantee.tolist() == [True, True, False]
    assert len(sentences) == 2
    assert "90 %" in sentences[0]
    assert "malignant: 8 calibration patients" in sentences[1]
    assert "at least 9" in sentences[1]


def test_with_too_few_patients_in_all_every_set_holds_every_class_and_the_words_say_so():
    oof = np.tile([0.9, 0.1], (8, 1))
    truth = Truth(labels=np.zeros(8, int), patients=np.arange(8).astype(str), folds=np.arange(8) % 2)
    calibration = calibrate_sets(oof, truth)
    assert conforming_classes(calibration, np.full((2, 3, 2), 0.5)).all()
    (sentence,) = describe_guarantee(calibration, ("normal", "pneumonia"))
    assert "every set holds every class" in sentence


def test_stored_calibrations_give_the_same_sets_and_damaged_ones_are_refused(tmp_path):
    generator = np.random.default_rng(5)
    pool, truth = draw_pool(generator)
    calibration = calibrate_sets(out_of_fold(pool, truth), truth)
    np.savez(tmp_path / "sets.npz", **to_arrays(calibration))
    with np.load(tmp_path / "sets.npz", allow_pickle=False) as file:
        arrays = dict(file)
    found, expected = (prediction_sets(each, pool).members for each in (from_arrays(arrays), calibration))
    np.testing.assert_array_equal(found, expected)
    for damaged in (
        {**arrays, "starts": arrays["starts"][:-1]},
        {**arrays, "masses": arrays["masses"][1:]},
        {**arrays, "alpha": np.array(1.5)},
        {name: array for name, array in arrays.items() if name != "scores"},
    ):
        with pytest.raises(BundleError, match="prediction sets"):
            from_arrays(damaged)


def test_wrong_shapes_folds_and_numbers_are_refused():
    oof = np.full((4, 2), 0.5)
    truth = Truth(labels=np.zeros(4, int), patients=np.arange(4).astype(str), folds=np.array([0, 0, 1, 1]))
    calibration = calibrate_sets(oof, truth)
    with pytest.raises(ValueError, match="2 folds and 2 classes"):
        prediction_sets(calibration, np.full((3, 1, 2), 0.5))
    with pytest.raises(ValueError, match="finite"):
        prediction_sets(calibration, np.full((2, 1, 2), np.nan))
    with pytest.raises(ValueError, match="alpha must lie between 0 and 1"):
        calibrate_sets(oof, truth, alpha=0.0)
    gap = Truth(labels=truth.labels, patients=truth.patients, folds=np.array([0, 0, 2, 2]))
    with pytest.raises(ValueError, match="each with images"):
        calibrate_sets(oof, gap)
