from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from consilia.bundle.document import BundleDocument
from consilia.bundle.reading import read_bundle
from consilia.config.recipe import BestSingle, EnsembleRecipe, SoftVote
from consilia.decision.calibrators import pool_folds
from consilia.decision.combination import LinearPool, combine, keep_largest
from consilia.ensemble.calibration import choose_calibrator, cross_calibrate_members
from consilia.ensemble.choice import Choice
from consilia.ensemble.fitting import FittedRecipe, measure_sizes
from consilia.ensemble.selection import Truth, weighted_log_loss
from consilia.errors import UserError
from consilia.metrics.scores import softmax
from consilia.predict.loading import load_predictor

WEIGHTS = arrays(np.float64, st.integers(1, 8), elements=st.floats(0.01, 1)).map(lambda found: found / found.sum())


def pool_of(weights):
    return LinearPool(weights=tuple(map(float, weights)))


@pytest.fixture
def images():
    return np.random.default_rng(1).integers(0, 256, (5, 40, 36), dtype=np.uint8)


@pytest.fixture(scope="module")
def pool():
    """Return four candidates of falling quality, and the truth about 120 images of 60 patients."""
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 2, 120)
    qualities = np.array([2.0, 1.5, 1.0, 0.5])[:, None, None]
    candidates = softmax(2 * (qualities * np.eye(2)[labels] + generator.normal(size=(4, 120, 2))))
    patients = np.array([f"p{number // 2}" for number in range(120)])
    return candidates, Truth(labels=labels, patients=patients, folds=np.arange(120) // 2 % 3)


# --- which members stay


@given(WEIGHTS, st.integers(1, 9))
def test_the_largest_weights_stay_in_proportion(weights, n_members):
    found = np.array(keep_largest(pool_of(weights), n_members).weights)
    kept = np.flatnonzero(found)
    assert len(kept) == min(n_members, len(weights))
    assert found.sum() == pytest.approx(1)
    np.testing.assert_allclose(found[kept] / found[kept[0]], weights[kept] / weights[kept[0]])
    assert weights[kept].min() >= np.delete(weights, kept).max(initial=0.0)


def test_of_equal_weights_the_earlier_stays():
    assert keep_largest(pool_of(np.full(4, 0.25)), 2) == pool_of([0.5, 0.5, 0, 0])


# --- the curve


def test_each_size_is_measured_and_calibrated_for_itself(pool):
    candidates, truth = pool
    weights = np.array([0.2, 0.5, 0.0, 0.3])
    fold_weights = np.array([[0.2, 0.5, 0.0, 0.3], [0.6, 0.4, 0.0, 0.0], [0.1, 0.2, 0.3, 0.4]])
    choice = Choice(
        combination=pool_of(weights),
        fold_combinations=tuple(map(pool_of, fold_weights)),
        reason="",
        gain=None,
        standard_error=None,
    )
    recipe = EnsembleRecipe(name="sizes", selection=SoftVote(), calibration="temperature")
    sizes = measure_sizes(FittedRecipe(recipe=recipe, candidates=candidates, truth=truth, choice=choice))
    assert [size.members for size in sizes] == [1, 2, 3]
    cut = np.array([[0, 0.5 / 0.8, 0, 0.3 / 0.8], [0.6, 0.4, 0, 0], [0, 0, 0.3 / 0.7, 0.4 / 0.7]])
    unseen = cross_calibrate_members("temperature", candidates, tuple(map(pool_of, cut)), truth)
    assert sizes[1].loss == pytest.approx(weighted_log_loss(unseen, truth))
    expected = choose_calibrator("temperature", candidates[1], truth).calibrator
    assert sizes[0].calibrator == expected
    all_of_them = combine(candidates, pool_of(weights))
    assert sizes[2].calibrator == choose_calibrator("temperature", all_of_them, truth).calibrator
    assert [size.difference for size in sizes] == pytest.approx([size.loss - sizes[2].loss for size in sizes])
    assert sizes[2].difference == 0


def test_the_bundle_holds_the_curve_up_to_what_it_reports_of_all_members(built_bundle):
    document = read_bundle(built_bundle)
    assert [size.members for size in document.sizes] == [1, 2]
    assert document.sizes[-1].calibrator == document.calibrator
    card = (built_bundle / "card.md").read_text(encoding="utf-8")
    for size in document.sizes:
        assert f"| {size.members} | {size.loss:.4f} | {size.difference:+.4f} |" in card


def test_a_single_member_has_one_size_and_no_table(study):
    bundle = study.build(EnsembleRecipe(name="best", selection=BestSingle()))
    assert len(read_bundle(bundle).sizes) == 1
    assert "difference to all" not in (bundle / "card.md").read_text(encoding="utf-8")


# --- predicting with fewer members


def test_fewer_members_say_what_they_say_alone_with_their_own_calibrator(predictor, images):
    pixels = np.stack([image.pixels for batch in predictor.read(images) for _, image in batch])
    first = softmax(predictor.networks.logits(pixels))[0]  # of equal weights the earlier one stays
    expected = pool_folds(predictor.document.sizes[0].calibrator, first)
    np.testing.assert_allclose(predictor.with_members(1).predict_proba(images), expected, atol=1e-12)
    assert not np.allclose(expected, predictor.predict_proba(images))


def test_fewer_members_compute_in_the_precision_that_all_did(built_bundle, predictor, images):
    fast = load_predictor(built_bundle, device="cpu", precision="bfloat16").with_members(1)
    expected = predictor.with_members(1).predict_proba(images)
    difference = np.abs(fast.predict_proba(images) - expected).max()
    assert 0 < difference <= 1e-2


def test_what_holds_for_all_members_is_not_said_of_fewer(predictor, images):
    assert predictor.predict(images)[0].prediction_set is not None
    for prediction in predictor.predict(images, max_members=1):
        assert prediction.prediction_set is None
        reason = "only 1 of 2 members were asked: prediction sets and limits hold for all of them"
        assert prediction.review[-1] == prediction.without_set == reason  # after what the gate says


def test_max_members_is_a_short_way_to_say_with_members(predictor, images):
    found = predictor.predict(images, max_members=1)
    assert list(found) == list(predictor.with_members(1).predict(images))
    assert list(predictor.predict(images, max_members=2)) == list(predictor.predict(images))


def test_the_gate_judges_images_whoever_is_asked(predictor, images):
    few = [predictor.with_members(1).predict(images), predictor.predict(images)]
    assert [each.unusual for each in few[0]] == [each.unusual for each in few[1]]


def test_as_many_members_as_there_are_is_the_predictor_itself(predictor):
    assert predictor.with_members(2) is predictor
    assert predictor.with_members(99) is predictor


def test_a_predictor_with_fewer_members_leaves_the_one_it_came_from_alone(predictor, images):
    before = predictor.predict_proba(images)
    fewer = predictor.with_members(1)
    np.testing.assert_array_equal(predictor.predict_proba(images), before)
    assert fewer.with_members(1) is fewer


def test_prevalence_and_fewer_members_go_together_in_either_order(predictor, images):
    rare = {"nodule": 0.01}
    one = predictor.with_members(1).for_prevalence(rare).predict_proba(images)
    np.testing.assert_allclose(one, predictor.for_prevalence(rare).with_members(1).predict_proba(images))


@pytest.mark.parametrize("most", [0, -1])
def test_no_members_are_refused(predictor, images, most):
    with pytest.raises(UserError, match=f"At least 1 member must be asked, but got max_members={most}"):
        predictor.predict(images, max_members=most)


def test_a_bundle_that_was_not_calibrated_for_fewer_members_says_so(predictor):
    old = replace(predictor, document=predictor.document.model_copy(update={"sizes": ()}))
    with pytest.raises(UserError, match="calibrated for all its 2 members only"):
        old.with_members(1)


THREE_CLASSES = {"kind": "temperature_bias", "temperature": 1.0, "biases": [0, 0, 0]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda sizes: sizes[:1], "sizes must be those from one member to all 2"),
        (lambda sizes: sizes[::-1], "sizes must be those from one member to all 2"),
        (
            lambda sizes: [{**sizes[0], "calibrator": THREE_CLASSES}, sizes[1]],
            "calibrator of 1 members must be of 2",
        ),
    ],
)
def test_sizes_that_do_not_fit_the_members_are_refused(predictor, change, message):
    content = predictor.document.model_dump()
    with pytest.raises(ValidationError, match=message):
        BundleDocument.model_validate({**content, "sizes": change(content["sizes"])})
