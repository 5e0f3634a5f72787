import dataclasses

import numpy as np
import pytest

from consilia.bundle.evaluation import Evaluation
from consilia.decision.calibrators import Identity, pool_folds
from consilia.ensemble.evaluate import Subject, evaluate, score_predictions
from consilia.errors import DataError
from consilia.metrics.bootstrap import patient_bootstrap
from consilia.metrics.patients import pool_images
from consilia.metrics.scores import METRICS


@pytest.fixture(scope="module")
def evaluation(predictor, finished_study):
    return evaluate(predictor, finished_study.store, finished_study.folds.test)


def test_the_numbers_are_those_of_the_shipped_predictor(evaluation, predictor, finished_study):
    store, rows = finished_study.store, finished_study.folds.test
    probabilities = predictor.predict_store(store, rows)
    assert evaluation.split == "test"
    assert evaluation.predictor == "the shipped predictor: 2 trials, the average of its 3 fold ensembles"
    assert (evaluation.images, evaluation.patients) == (len(rows), len(np.unique(store.patients[rows])))
    intervals = patient_bootstrap(list(METRICS), probabilities, store.labels[rows], store.patients[rows])
    for name, interval in intervals.items():
        found = evaluation.metrics[name]
        assert (found.value, found.low, found.high) == pytest.approx((interval.value, interval.low, interval.high))


def test_calibration_is_judged_before_and_after(evaluation, predictor, finished_study):
    store, rows = finished_study.store, finished_study.folds.test
    before = pool_folds(Identity(), predictor.fold_probabilities(store, rows))
    assert set(evaluation.uncalibrated) == {"log_loss", "brier", "ece", "signed_gap"}
    for name, estimate in evaluation.uncalibrated.items():
        assert estimate.value == pytest.approx(METRICS[name].function(before, store.labels[rows]))


def test_the_confusion_matrix_counts_every_image(evaluation, finished_study):
    assert np.sum(evaluation.confusion) == evaluation.images
    labels = finished_study.store.labels[finished_study.folds.test]
    assert np.sum(evaluation.confusion, axis=1).tolist() == np.bincount(labels).tolist()
    assert [report.recall for report in evaluation.classes] == pytest.approx(
        [row[number] / sum(row) for number, row in enumerate(evaluation.confusion)]
    )


def test_an_evaluation_survives_json(evaluation):
    assert Evaluation.model_validate(evaluation.to_json()) == evaluation


def test_without_a_test_split_there_is_nothing_to_evaluate(predictor, finished_study):
    with pytest.raises(DataError, match=r"there is no test split.*internal estimate"):
        evaluate(predictor, finished_study.store, np.array([], np.int64))


def test_a_set_without_patients_is_noted(predictor, finished_study):
    manifest = finished_study.store.manifest.model_copy(update={"has_patients": False})
    store = dataclasses.replace(finished_study.store, manifest=manifest)
    notes = evaluate(predictor, store, finished_study.folds.test, split="external").notes
    assert any("No patient grouping" in note for note in notes)


def scored(labels, patients):
    probabilities = np.tile([0.7, 0.3], (len(labels), 1))
    subject = Subject(
        labels=np.array(labels),
        patients=np.array(patients).astype(str),
        classes=("clear", "nodule"),
        split="external",
        predictor="a constant",
    )
    return score_predictions(probabilities, probabilities, subject, draws=20)


def test_a_class_of_thirty_patients_carries_a_claim_and_of_twenty_nine_none():
    labels = [0] * 30 + [1] * 30
    patients = [*range(30), *range(30, 59), 58]  # class 1: 30 images of 29 patients
    assert scored(labels, patients).notes == ("No claim for class nodule: 29 patients have it, under 30.",)
    assert scored(labels, range(60)).notes == ()


def test_a_metric_that_the_labels_leave_undefined_is_none_and_not_nan():
    evaluation = scored([0] * 40, range(40))
    assert evaluation.metrics["macro_auc"] is None
    assert evaluation.metrics["accuracy"].value == 1.0
    assert Evaluation.model_validate_json(evaluation.model_dump_json()) == evaluation


def patients_of(labels, *, mixed=()):
    """Two images a patient, and some patients whose images differ."""
    labels = np.repeat(labels, 2)
    patients = np.repeat([f"p{number}" for number in range(len(labels) // 2)], 2)
    for number in mixed:
        labels[2 * number] = 1 - labels[2 * number]
    return labels, patients


def test_patients_are_scored_as_a_whole_and_those_of_several_classes_are_left_out():
    labels, patients = patients_of(np.arange(80) % 2, mixed=(3, 4))
    generator = np.random.default_rng(0)
    second = np.clip(0.3 + 0.4 * labels + generator.normal(0, 0.2, len(labels)), 0.01, 0.99)
    probabilities = np.stack([1 - second, second], axis=1)
    subject = Subject(labels=labels, patients=patients, classes=("a", "b"), split="external", predictor="it")
    evaluation = score_predictions(probabilities, probabilities, subject, draws=50)
    whole = evaluation.by_patient
    assert (whole.images, whole.patients) == (78, 78)
    assert "2 of 80 patients are left out: their images are of several classes." in whole.notes
    _, pooled = pool_images(probabilities, patients)
    kept = np.setdiff1d(np.arange(80), [list(np.unique(patients)).index("p3"), list(np.unique(patients)).index("p4")])
    truth = np.array([labels[patients == name][0] for name in np.unique(patients)[kept]])
    assert whole.metrics["macro_auc"].value == pytest.approx(METRICS["macro_auc"].function(pooled[kept], truth))
    assert whole.metrics["accuracy"].value > evaluation.metrics["accuracy"].value
    assert Evaluation.model_validate(evaluation.to_json()) == evaluation


def test_where_nobody_has_two_images_nothing_is_told_twice():
    labels = np.arange(20) % 2
    subject = Subject(
        labels=labels, patients=np.arange(20).astype(str), classes=("a", "b"), split="external", predictor="it"
    )
    probabilities = np.full((20, 2), 0.5)
    assert score_predictions(probabilities, probabilities, subject, draws=20).by_patient is None
