"""A bundle's promises are measured again on images that nothing was chosen on."""

import numpy as np
import pytest

from consilia.config.recipe import Safety
from consilia.decision.promises import PROMISES_SEEN, measure_promises, promise_rows
from consilia.ensemble.evaluate import evaluate
from consilia.ensemble.selection import Truth
from consilia.ensemble.uncertainty import calibrate_sets, report_safety
from consilia.metrics.scores import softmax
from consilia.metrics.subgroups import Scored
from consilia.predict.predictor import BATCH_SIZE

CLASSES = ("clear", "nodule")


def draw(n: int, *, seed: int, shift: float = 0.0) -> tuple[np.ndarray, Truth]:
    """Honest probabilities, one image a patient; `shift` moves them towards the second class."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, n)
    scores = generator.normal(size=n) + 3.0 * (labels - 0.5)
    truth = Truth(labels=labels, patients=np.arange(n).astype(str), folds=np.arange(n) % 4)
    return softmax(np.stack([np.zeros(n), 3.0 * scores + shift], axis=1)), truth


def promised():
    """What a bundle stores, chosen on images of its study."""
    probabilities, truth = draw(4000, seed=0)
    safety = Safety(alpha=0.1, sensitivity=0.9, risk=0.05)
    sets = calibrate_sets(probabilities, truth, alpha=safety.alpha)
    return report_safety(safety, sets, probabilities, truth, CLASSES, disagreement=None), sets


def new_images(*, shift: float = 0.0, copies: int = 1) -> Scored:
    """Images of other patients, `copies` of each."""
    probabilities, truth = draw(20_000, seed=1, shift=shift)
    return Scored(
        probabilities=np.repeat(probabilities, copies, axis=0),
        labels=np.repeat(truth.labels, copies),
        patients=np.repeat(truth.patients, copies),
        classes=CLASSES,
    )


def measure(scored: Scored):
    report, sets = promised()
    return measure_promises(report, sets, scored, np.repeat(scored.probabilities[None], 4, axis=0))


def test_promises_are_kept_on_images_like_those_they_were_made_on():
    seen = measure(new_images())
    assert [point.name for point in seen.points] == list(CLASSES)
    assert all(point.sensitivity.high >= 0.9 for point in seen.points)
    assert seen.sets.coverage.high >= 0.9
    assert 1 <= seen.sets.mean_size < 1.1
    assert seen.abstention.wrong.low <= 0.05


def test_rates_are_those_of_counting_and_a_shift_that_breaks_a_promise_is_seen():
    scored = new_images(shift=4.0)  # everything looks like a nodule
    seen = measure(scored)
    clear, nodule = seen.points
    called = scored.probabilities[:, 1] >= nodule.threshold
    is_nodule = scored.labels == 1
    assert nodule.sensitivity.value == pytest.approx(called[is_nodule].mean())
    assert nodule.specificity.value == pytest.approx((~called[~is_nodule]).mean())
    assert nodule.accuracy.value == pytest.approx((called == is_nodule).mean())
    assert clear.sensitivity.high < 0.9
    assert seen.sets.by_class["clear"].high < 0.9 <= seen.sets.by_class["nodule"].high
    assert seen.abstention.wrong.low > 0.05


def test_a_patient_counts_once_however_many_images_there_are():
    once, thrice = (measure(new_images(copies=copies)) for copies in (1, 3))
    for one, three in (
        (once.points[1].sensitivity, thrice.points[1].sensitivity),
        (once.sets.coverage, thrice.sets.coverage),
    ):
        assert (one.value, one.low, one.high) == pytest.approx((three.value, three.low, three.high))
    assert thrice.sets.coverage.images == 3 * once.sets.coverage.images


def test_a_bundle_without_sets_or_thresholds_has_none_to_measure():
    report, _ = promised()
    silent = report.model_copy(update={"operating_points": (), "abstention": None})
    scored = new_images()
    seen = measure_promises(silent, None, scored, np.repeat(scored.probabilities[None], 4, axis=0))
    assert (seen.points, seen.sets, seen.abstention) == ((), None, None)
    assert promise_rows(seen) == []


def test_an_evaluation_measures_the_sets_that_predictions_show(predictor, finished_study):
    store, rows = finished_study.store, finished_study.folds.test
    seen = evaluate(predictor, store, rows).promises
    predictions = predictor.predict(store.pixels[rows], batch_size=BATCH_SIZE, on_unknown_kind="as_displayed")
    names = [store.classes[label] for label in store.labels[rows]]
    covered = [name in each.prediction_set for name, each in zip(names, predictions, strict=True)]
    _, patients = np.unique(store.patients[rows], return_inverse=True)
    by_patient = np.bincount(patients, covered) / np.bincount(patients)
    assert seen.sets.coverage.value == pytest.approx(by_patient.mean())
    sizes = np.bincount(patients, [len(each.prediction_set) for each in predictions]) / np.bincount(patients)
    assert seen.sets.mean_size == pytest.approx(sizes.mean())
    assert "every patient weighs the same" in PROMISES_SEEN
    assert any("sets hold the true class in 90%" in promise for promise, _ in promise_rows(seen))
