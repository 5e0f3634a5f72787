"""A heat map is the derivative of what the predictor computes, added up over all its networks."""

import numpy as np
import pytest
import torch
from PIL import Image

from consilia.ensemble.calibration import Identity, Temperature, pool_folds
from consilia.ensemble.explain import Explanation, cell_contributions, contributions, explain, odds_gradient
from consilia.errors import ReaderError, UserError
from consilia.models.factory import ModelSpec, build_model
from consilia.plan.space import Architecture
from consilia.scoring.metrics import softmax

WEIGHTS = np.array([0.2, 0.5, 0.3])


@pytest.fixture
def images():
    return np.random.default_rng(1).integers(0, 256, (5, 32, 32), dtype=np.uint8)


def log_odds(logits, calibrator, labels):
    """Of the predictor's own probabilities; no fold's is under its clip in these tests."""
    probabilities = pool_folds(calibrator, np.tensordot(WEIGHTS, softmax(logits), axes=1))
    own = probabilities[np.arange(len(labels)), labels]
    return np.log(own) - np.log1p(-own)


@pytest.mark.parametrize("calibrator", [Identity(), Temperature(temperature=1.7)])
def test_the_gradient_is_the_slope_of_the_predictor_s_log_odds(calibrator):
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(3, 2, 4, 3))
    labels = np.array([0, 1, 2, 1])
    gradient = odds_gradient(logits, WEIGHTS, calibrator, labels)
    for _ in range(5):
        step = 1e-5 * generator.normal(size=logits.shape)
        slope = log_odds(logits + step, calibrator, labels) - log_odds(logits - step, calibrator, labels)
        expected = 2 * (gradient * step).sum(axis=(0, 1, 3))
        np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-10)


def test_what_all_classes_share_is_no_evidence_for_any():
    logits = np.random.default_rng(0).normal(size=(3, 2, 4, 3))
    gradient = odds_gradient(logits, WEIGHTS, Identity(), np.zeros(4, np.int64))
    np.testing.assert_allclose(gradient.sum(axis=-1), 0, atol=1e-15)


def test_a_fold_that_is_sure_beyond_the_clip_counts_as_much_as_one_that_is_not():
    logits = np.array([[[[60.0, 0.0]], [[0.3, 0.0]]]])  # one member, two folds
    gradient = odds_gradient(logits, np.ones(1), Temperature(temperature=2.0), np.array([0]))
    np.testing.assert_allclose(gradient[0, :, 0], [[0.25, -0.25]] * 2, rtol=1e-12)  # 1 / (folds * temperature)


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture(timm="test_resnet", arguments={"output_stride": 8}),
        Architecture(timm="test_efficientnet"),
        Architecture(timm="densenet121", arguments={"growth_rate": 12, "block_config": (3, 3, 3)}),
    ],
    ids=lambda architecture: architecture.timm,
)
def test_cells_hold_the_class_activation_map_and_sum_to_what_the_network_says(architecture):
    torch.manual_seed(0)
    model = build_model(ModelSpec(architecture=architecture, n_classes=3, channels=1)).eval()
    inputs = torch.randn(2, 1, 64, 64)
    share = torch.tensor([[1.0, -0.4, -0.6], [-0.1, 0.3, -0.2]])
    with torch.inference_mode():
        features, logits = model.forward_features(inputs), model(inputs)
    head = model.get_classifier()
    by_hand = torch.einsum("bc,ck,bkij->bij", share, head.weight, features) / features[0, 0].numel()
    cells = cell_contributions(model, inputs, share)
    np.testing.assert_allclose(cells, by_hand.detach(), atol=1e-6)
    said = (share * (logits - head.bias)).sum(dim=1).detach().numpy()
    np.testing.assert_allclose(cells.sum(axis=(1, 2)), said, rtol=1e-4, atol=1e-5)


def test_the_map_of_the_ensemble_adds_what_all_its_networks_say(predictor, images):
    pixels = images[..., None]
    networks = predictor.networks
    logits = networks.logits(pixels)
    gradient = odds_gradient(logits, networks.member_weights, predictor.document.calibrator, np.zeros(5, np.int64))
    evidence, cell = contributions(networks, pixels, gradient)
    biases = np.zeros_like(logits)
    for network in networks.each(pixels):
        biases[network.member, network.fold] = network.module.get_classifier().bias.detach().numpy()
    assert cell == 32  # one cell an image, so enlarging it loses nothing
    np.testing.assert_allclose(
        evidence.sum(axis=(1, 2)), (gradient * (logits - biases)).sum(axis=(0, 1, 3)), rtol=1e-4, atol=1e-5
    )


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
