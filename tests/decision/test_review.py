"""Judgements of many images are those of each, whoever asks for how many at once."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilia.config.recipe import Safety
from consilia.config.records import Prediction
from consilia.decision.ood.inputs import RULES, InputReference
from consilia.decision.ood.picture import PARTS
from consilia.decision.review import Judgements, Reviewer, SafetyReport, Unusual, UsualImages, join, review_part
from consilia.ensemble.selection import Truth
from consilia.ensemble.uncertainty import calibrate_sets, report_safety
from consilia.metrics.scores import softmax
from consilia.predict.predictions import Predictions

CLASSES = ("clear", "nodule", "effusion")
N_FOLDS = 3


def draw_folds(generator, n) -> np.ndarray:
    """Probabilities of fold ensembles, (n_folds, n, n_classes), from sure ones to torn ones."""
    sharpness = generator.uniform(0.1, 8, (1, n, 1))
    return softmax(sharpness * generator.normal(size=(N_FOLDS, n, 3)))


def make_report() -> tuple[SafetyReport, object]:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 900)
    probabilities = 0.7 * np.eye(3)[labels] + 0.3 * generator.dirichlet((1, 1, 1), 900)
    truth = Truth(labels=labels, patients=np.arange(900).astype(str), folds=np.arange(900) % N_FOLDS)
    sets = calibrate_sets(probabilities, truth, alpha=0.1)
    return report_safety(Safety(risk=0.1), sets, probabilities, truth, CLASSES, disagreement=0.1), sets


REPORT, SETS = make_report()
LOW = (0.8, -np.inf, -np.inf, -np.inf, np.nan, 0.4, -np.inf)
HIGH = (1.2, 0.3, 0.3, 20, 30, np.inf, 1)
LIMITS = np.stack([LOW, HIGH], axis=1)
USUAL = UsualImages(
    inputs=InputReference(histogram=np.zeros(256), layout=np.zeros((8, 8)), limits=LIMITS), n_distances=1200
)
WHOLE = Reviewer(report=REPORT, sets=SETS, without_sets="", classes=CLASSES, usual=USUAL)
REVIEWERS = {
    "all that a bundle can have": WHOLE,
    "no gate": Reviewer(report=REPORT, sets=SETS, without_sets="", classes=CLASSES),
    "refits": Reviewer(report=REPORT, sets=None, without_sets="no image was left out", classes=CLASSES),
    "some members": review_part(REPORT, CLASSES, n_members=1, n_all=4),
}


def judge_drawn(reviewer: Reviewer, seed: int, n: int, rows: slice = slice(None)) -> Judgements:
    """Judge some of `n` images that the seed draws, usual ones and others."""
    generator = np.random.default_rng(seed)
    folds = draw_folds(generator, n)
    measures = generator.normal(size=(n, len(RULES))) * 0.3 + [1, 0, 0, 10, 10, 1, 0]
    measures[generator.random(measures.shape) < 0.1] = np.nan
    parts = generator.integers(0, len(PARTS), n)
    unusual = Unusual(p_values=generator.choice([0.0005, 0.005, 0.5], n), parts=parts, measures=measures)
    disagreement = generator.uniform(0, 0.15, n)
    kept = Unusual(p_values=unusual.p_values[rows], parts=unusual.parts[rows], measures=unusual.measures[rows])
    return reviewer.judge(
        folds.mean(axis=0)[rows], folds[:, rows], disagreement[rows], None if reviewer.usual is None else kept
    )


@pytest.mark.parametrize("kind", REVIEWERS)
@given(seed=st.integers(0, 10_000), sizes=st.lists(st.integers(1, 7), min_size=1, max_size=5))
def test_batches_of_any_size_are_judged_as_image_by_image(kind, seed, sizes):
    n, reviewer = sum(sizes), REVIEWERS[kind]
    ends = np.cumsum(sizes).tolist()
    batches = [judge_drawn(reviewer, seed, n, slice(end - size, end)) for size, end in zip(sizes, ends, strict=True)]
    together = Judgements(join([batch.columns for batch in batches]), reviewer)
    singly = [judge_drawn(reviewer, seed, n, slice(image, image + 1))[0] for image in range(n)]
    assert list(together) == [each for batch in batches for each in batch] == singly
    assert list(together[1::2]) == singly[1::2]
    assert together[-1] == singly[-1]
    assert together.need_review.tolist() == [prediction.needs_review for prediction in singly]


@pytest.mark.parametrize("kind", REVIEWERS)
def test_a_frame_of_judgements_is_the_frame_of_their_predictions(kind):
    found = judge_drawn(REVIEWERS[kind], 3, 200)
    names = [f"image {number}" for number in range(len(found))]
    by_row = Predictions(names, list(found)).to_frame()
    pd.testing.assert_frame_equal(Predictions(names, found).to_frame(), by_row, check_exact=True)
    pd.testing.assert_frame_equal(Predictions(names, found)[5:9].to_frame(), by_row[5:9].reset_index(drop=True))
    pd.testing.assert_frame_equal(Predictions(names, found)[:0].to_frame(), Predictions((), ()).to_frame())


def test_the_drawn_images_have_every_reason_for_review_and_none():
    found = list(judge_drawn(WHOLE, 3, 2000))
    for start in ("rejected: ", "unusual: ", "width over", "no class conforms", "may be", "confidence", "the members"):
        assert any(reason.startswith(start) for each in found for reason in each.review), start
    assert {each.unusual.state for each in found} == {"usual", "unusual", "rejected"}
    assert any(each.review == () for each in found)
    assert all(isinstance(each, Prediction) for each in found)
