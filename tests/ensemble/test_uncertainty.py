"""What a predictor says beside a probability: prediction sets, operating points, and when to ask a person."""

import numpy as np
import pytest

from consilia.bundle.reading import read_bundle
from consilia.config.recipe import EnsembleRecipe, Safety, SoftVote
from consilia.decision.calibrators import Identity, Temperature, calibrate, pool_folds
from consilia.decision.disagreement import mutual_information
from consilia.decision.review import Reviewer
from consilia.decision.sets import prediction_sets
from consilia.ensemble.selection import Truth
from consilia.ensemble.uncertainty import calibrate_sets, report_safety
from consilia.metrics.scores import softmax
from consilia.predict.loading import load_predictor

CLASSES = ("clear", "nodule", "effusion")


def drawn(n: int, *, seed: int, separation: float = 2.0) -> tuple[np.ndarray, Truth]:
    """Honest probabilities of images, one a patient, and their labels."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, n)
    images = generator.normal(size=(n, 3)) + separation * np.eye(3)[labels]
    truth = Truth(labels=labels, patients=np.arange(n).astype(str), folds=np.arange(n) % 4)
    return softmax(images * separation), truth


def test_sets_hold_the_truth_as_often_as_promised_and_point_thresholds_keep_their_targets():
    probabilities, truth = drawn(4000, seed=0)
    safety, calibrator = Safety(alpha=0.1, sensitivity=0.9, risk=0.1), Temperature(temperature=1.0)
    sets = calibrate_sets(calibrate(calibrator, probabilities), truth, alpha=safety.alpha)
    report = report_safety(safety, sets, probabilities, truth, CLASSES, disagreement=0.1)
    new, new_truth = drawn(20_000, seed=1)
    folds = np.repeat(new[None], 4, axis=0)
    reviewer = Reviewer(report=report, sets=sets, without_sets="", classes=CLASSES)
    judgements = reviewer.judge(new, folds, np.zeros(len(new)))
    covered = [CLASSES[label] in each.prediction_set for label, each in zip(new_truth.labels, judgements, strict=True)]
    assert np.mean(covered) == pytest.approx(0.9, abs=0.02)
    for number, point in enumerate(report.operating_points):
        found = new[new_truth.labels == number, number] >= point.threshold
        assert found.mean() >= 0.9 - 0.01
    answered = np.array([not any("below" in reason for reason in each.review) for each in judgements])
    wrong = new.argmax(axis=1) != new_truth.labels
    assert 0.2 < answered.mean() < 1
    assert wrong[answered].mean() < 0.1
    assert wrong[answered].mean() < wrong.mean()


def test_an_image_is_referred_for_the_size_of_its_set_and_for_its_confidence_in_words():
    probabilities, truth = drawn(4000, seed=0)
    safety = Safety(risk=0.1)
    sets = calibrate_sets(probabilities, truth, alpha=safety.alpha)
    report = report_safety(safety, sets, probabilities, truth, CLASSES, disagreement=0.1)
    sure, torn = [0.98, 0.01, 0.01], [0.5, 0.49, 0.01]
    both = np.array([sure, torn])
    reviewer = Reviewer(report=report, sets=sets, without_sets="", classes=CLASSES)
    first, second = reviewer.judge(both, np.repeat(both[None], 4, axis=0), np.array([0.1, 0.2]))
    assert (first.prediction_set, first.review) == (("clear",), ())
    assert second.prediction_set == ("clear", "nodule")
    assert second.review[0] == "may be clear or nodule"
    assert second.review[1] == f"confidence 0.500 is below {report.abstention.threshold:.3f}"
    assert second.review[2].startswith("the members disagree")


def test_a_recipe_that_asks_for_no_point_gets_none():
    probabilities, truth = drawn(200, seed=0)
    safety = Safety(sensitivity=None, risk=None)
    sets = calibrate_sets(probabilities, truth, alpha=safety.alpha)
    report = report_safety(safety, sets, probabilities, truth, CLASSES, disagreement=0.1)
    assert (report.operating_points, report.abstention) == ((), None)


def test_a_bundle_keeps_what_it_promises_and_its_predictor_says_it(study, tmp_path):
    bundle = study.build(EnsembleRecipe(name="safe", selection=SoftVote(members=2), safety=Safety(specificity=0.5)))
    document = read_bundle(bundle)
    assert [(point.name, point.goal) for point in document.safety.operating_points] == [
        ("clear", "sensitivity"),
        ("nodule", "sensitivity"),
        ("clear", "specificity"),
        ("nodule", "specificity"),
    ]
    unsupported = document.safety.operating_points[0]
    assert unsupported.threshold is None  # 30 patients cannot show a sensitivity of 0.95
    assert "needs at least 59 patients" in unsupported.reason
    card = (bundle / "card.md").read_text()
    for said in (*document.safety.guarantee, unsupported.reason, document.safety.abstention.reason):
        assert said in card
    predictor = load_predictor(bundle, device="cpu")
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32), dtype=np.uint8)
    folds = calibrate(document.calibrator, predictor.networks.probabilities(images[..., None]))
    expected = prediction_sets(predictor.sets, folds).members
    predictions = predictor.predict(images)
    said = softmax(predictor.networks.logits(images[..., None]))
    apart = np.median(mutual_information(said, predictor.networks.combination.shares), axis=0)
    for prediction, members, amount in zip(predictions, expected, apart, strict=True):
        flagged = any("members disagree" in reason for reason in prediction.review)
        assert flagged == (amount > document.safety.disagreement)
        assert [name in prediction.prediction_set for name in predictor.classes] == members.tolist()
        assert prediction.needs_review == bool(prediction.review)
    np.testing.assert_allclose(predictor.predict_proba(images), pool_folds(Identity(), folds))


def test_a_predictor_for_another_prevalence_keeps_the_sets_and_no_threshold_of_the_old_one(predictor):
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32), dtype=np.uint8)
    rare = predictor.for_prevalence({"nodule": 0.01})
    before, after = predictor.predict(images), rare.predict(images)
    assert [each.prediction_set for each in after] == [each.prediction_set for each in before]
    assert not any("below" in reason for each in after for reason in each.review)
