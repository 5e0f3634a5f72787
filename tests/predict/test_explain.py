"""A heat map says of an image and a class what the predictor says, and where, for one image or many."""

import numpy as np
import pytest
from PIL import Image

from consilia.errors import ReaderError, UserError
from consilia.predict.explain import Explanation, explain


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


def test_a_heat_map_is_of_the_stored_size_between_0_and_1_and_reaches_1(predictor, images):
    some = [explanation for name in predictor.classes for _, explanation in explain(predictor, images, label=name)]
    for each in some:
        assert each.heat_map.shape == (32, 32)
        assert each.heat_map.dtype == np.float32
        assert each.heat_map.min() >= 0
        assert each.heat_map.max() == (0 if each.peak is None else 1)
    assert any(each.peak is not None for each in some)


def test_a_heat_map_does_not_depend_on_the_images_beside_it(predictor, images):
    together = [explanation.heat_map for _, explanation in explain(predictor, images, label="nodule")]
    alone = [explanation.heat_map for _, explanation in explain(predictor, images, label="nodule", batch_size=1)]
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_explaining_leaves_the_predictor_as_it_was(predictor, images):
    before = predictor.predict_proba(images)
    list(explain(predictor, images))
    np.testing.assert_array_equal(predictor.predict_proba(images), before)
    assert all(
        parameter.grad is None
        for network in predictor.networks.each(images[..., None])
        for parameter in network.module.parameters()
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


class TestPeak:
    def explanation(self, heat_map) -> Explanation:
        return Explanation(
            label="a", probability=1, heat_map=np.float32(heat_map), pixels=np.zeros((4, 4, 1), np.uint8), cell=1
        )

    def test_it_is_the_strongest_place(self):
        assert self.explanation(np.arange(16).reshape(4, 4) == 9).peak == (2, 1)

    def test_on_a_plateau_at_the_border_it_is_the_innermost_place(self):
        plateau = np.zeros((9, 9))
        plateau[3, :3] = 1
        assert self.explanation(plateau).peak == (3, 2)

    def test_there_is_none_where_nothing_speaks_for_the_class(self):
        assert self.explanation(np.zeros((4, 4))).peak is None
