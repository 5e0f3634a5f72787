"""A heat map says of an image and a class what the predictor says, and where, for one image or many."""

import numpy as np
import pytest
from PIL import Image

from consilia.errors import ReaderError, UserError
from consilia.predict.explain import Explanation, _agreement, explain, smoothed


@pytest.fixture
def images():
    return np.random.default_rng(1).integers(0, 256, (5, 32, 32), dtype=np.uint8)


def test_label_and_probability_are_the_predictor_s(predictor, images):
    for prediction, (_, explanation) in zip(predictor.predict(images), explain(predictor, images), strict=True):
        assert explanation.label == prediction.label
        assert explanation.probability == pytest.approx(prediction.confidence, abs=1e-12)


def test_another_class_than_the_predicted_one_can_be_explained(predictor, images):
    probabilities = predictor.predict_proba(images)
    for number, name in enumerate(predictor.classes):
        found = [explanation for _, explanation in explain(predictor, images, label=name)]
        assert [each.label for each in found] == [name] * 5
        np.testing.assert_allclose([each.probability for each in found], probabilities[:, number], atol=1e-12)


def test_a_heat_map_is_of_the_stored_size_and_its_mean_is_the_gain(predictor, images):
    for name in predictor.classes:
        found = [explanation for _, explanation in explain(predictor, images, label=name)]
        gains = [each.gain for each in found]
        assert all(each.heat_map.shape == (32, 32) and each.heat_map.dtype == np.float32 for each in found)
        # The integral is numerical; of networks with nearly fresh weights its error is small.
        np.testing.assert_allclose([100 * each.heat_map.mean(dtype=float) for each in found], gains, atol=0.01)


def test_smoothing_keeps_what_there_is_and_spreads_it_by_a_fifteenth_of_the_side():
    point = np.zeros((64, 64))
    point[32, 20] = 3.0
    found = smoothed(point)
    assert found.mean() * 100 == pytest.approx(3.0)
    rows = found.sum(axis=1) / found.sum()
    assert np.sqrt(rows @ (np.arange(64) - 32) ** 2) == pytest.approx(64 / 15, rel=0.01)
    assert np.unravel_index(found.argmax(), found.shape) == (32, 20)


def test_a_heat_map_does_not_depend_on_the_images_beside_it(predictor, images):
    together = [explanation.heat_map for _, explanation in explain(predictor, images, label="nodule")]
    alone = [explanation.heat_map for _, explanation in explain(predictor, images, label="nodule", batch_size=1)]
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_explaining_leaves_the_predictor_as_it_was(predictor, images):
    before = predictor.predict_proba(images)
    list(explain(predictor, images))
    np.testing.assert_array_equal(predictor.predict_proba(images), before)
    assert all(
        parameter.grad is None for network in predictor.networks.loaded for parameter in network.module.parameters()
    )


def test_an_image_that_cannot_be_read_keeps_its_place(predictor, images, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    Image.fromarray(images[0]).save(tmp_path / "whole.png")
    (first, error), (second, explanation) = explain(predictor, [tmp_path / "broken.png", tmp_path / "whole.png"])
    assert first.endswith("broken.png")
    assert isinstance(error, ReaderError)
    assert second.endswith("whole.png")
    assert isinstance(explanation, Explanation)


def test_a_class_that_is_not_there_is_refused_with_those_that_are(predictor, images):
    with pytest.raises(UserError, match="label must be one of clear, nodule, but is 'nodul'"):
        list(explain(predictor, images, label="nodul"))


class TestWhetherAMapSaysAnything:
    def explanation(self, heat_map=((0, 1), (0, 0)), *, gain=1.0, agreement=0.5) -> Explanation:
        pixels = np.zeros((*np.shape(heat_map), 1), np.uint8)
        return Explanation(
            label="a", probability=1, gain=gain, agreement=agreement, heat_map=np.float32(heat_map), pixels=pixels
        )

    def test_its_peak_is_the_strongest_place(self):
        assert self.explanation(np.arange(16).reshape(4, 4) == 9).peak == (2, 1)
        assert self.explanation().says_nothing_because is None

    def test_one_network_has_nobody_to_contradict(self):
        assert self.explanation(agreement=float("nan")).says_nothing_because is None

    def test_it_says_nothing_where_blurring_changes_little_or_speaks_for_the_class(self):
        assert "its log odds would be 0.09 lower" in self.explanation(gain=0.09).says_nothing_because
        assert "its log odds would be 2.00 higher" in self.explanation(gain=-2).says_nothing_because
        assert self.explanation(gain=0.09).peak is None

    def test_it_says_nothing_where_folds_contradict_each_other(self):
        assert "folds contradict" in self.explanation(agreement=-0.1).says_nothing_because
        assert self.explanation(agreement=-0.1).peak is None


def test_folds_agree_as_their_maps_correlate():
    one, other = np.random.default_rng(0).normal(size=(2, 8, 8))
    assert _agreement(np.stack([one, 2 * one + 3])) == pytest.approx(1)
    assert _agreement(np.stack([one, -one])) == pytest.approx(-1)
    expected = np.corrcoef(one.ravel(), other.ravel())[0, 1]
    assert _agreement(np.stack([one, one, other])) == pytest.approx((1 + 2 * expected) / 3)
    assert _agreement(np.stack([one, np.ones((8, 8))])) == 0
    assert np.isnan(_agreement(one[None]))


@pytest.mark.parametrize("background", [0, 128])
def test_an_image_without_detail_has_no_map(predictor, background):
    ((_, found),) = explain(predictor, np.full((1, 32, 32), background, np.uint8))
    assert found.gain == pytest.approx(0, abs=1e-6)
    assert found.peak is None
