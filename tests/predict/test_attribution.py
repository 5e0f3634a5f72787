"""A heat map is the derivative of what the predictor computes, added up over all its networks."""

import numpy as np
import pytest
import torch

from consilia.config.network import ModelSpec
from consilia.config.space import Architecture
from consilia.decision.calibrators import Identity, Temperature, TemperatureBias, pool_folds
from consilia.decision.combination import LinearPool, combine
from consilia.metrics.scores import softmax
from consilia.predict.attribution import _drawing, cell_contributions, contributions, odds_gradient
from consilia.train.networks.factory import build_model

POOL = LinearPool(weights=(0.2, 0.5, 0.3))


@pytest.fixture
def images():
    return np.random.default_rng(1).integers(0, 256, (5, 32, 32), dtype=np.uint8)


def log_odds(logits, combination, calibrator, labels):
    """Of the predictor's own probabilities; nothing is under a clip in these tests."""
    probabilities = pool_folds(calibrator, combine(softmax(logits), combination))
    own = probabilities[np.arange(len(labels)), labels]
    return np.log(own) - np.log1p(-own)


@pytest.mark.parametrize(
    "calibrator",
    [Identity(), Temperature(temperature=1.7), TemperatureBias(temperature=1.7, biases=(0.5, -0.7, 0.2))],
)
def test_the_gradient_is_the_slope_of_the_predictor_s_log_odds(calibrator):
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(3, 2, 4, 3))
    labels = np.array([0, 1, 2, 1])
    gradient = odds_gradient(logits, POOL, calibrator, labels)
    for _ in range(5):
        step = 1e-5 * generator.normal(size=logits.shape)
        slope = log_odds(logits + step, POOL, calibrator, labels)
        slope -= log_odds(logits - step, POOL, calibrator, labels)
        expected = 2 * (gradient * step).sum(axis=(0, 1, 3))
        np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-10)


def test_what_all_classes_share_is_no_evidence_for_any():
    logits = np.random.default_rng(0).normal(size=(3, 2, 4, 3))
    gradient = odds_gradient(logits, POOL, Identity(), np.zeros(4, np.int64))
    np.testing.assert_allclose(gradient.sum(axis=-1), 0, atol=1e-15)


def test_a_fold_that_is_sure_beyond_the_clip_counts_as_much_as_one_that_is_not():
    logits = np.array([[[[60.0, 0.0]], [[0.3, 0.0]]]])  # one member, two folds
    gradient = odds_gradient(logits, LinearPool(weights=(1.0,)), Temperature(temperature=2.0), np.array([0]))
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
    with torch.no_grad():
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
    gradient = odds_gradient(logits, networks.combination, predictor.document.calibrator, np.zeros(5, np.int64))
    evidence, cell = contributions(networks, pixels, gradient)
    biases = np.zeros_like(logits)
    for network in networks.each(pixels):
        biases[network.member, network.fold] = network.module.get_classifier().bias.detach().numpy()
    assert cell == 32  # one cell an image, so enlarging it loses nothing
    np.testing.assert_allclose(
        evidence.sum(axis=(1, 2)), (gradient * (logits - biases)).sum(axis=(0, 1, 3)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("centres", [[0.5], [0.3, 0.7], [0.1, 0.25, 0.55, 0.9], np.linspace(0.05, 0.95, 10)])
def test_cells_that_say_the_same_are_drawn_as_one_plane(centres):
    drawn = _drawing(np.array(centres), 64)
    assert drawn.shape == (64, len(centres))
    assert (drawn >= 0).all()
    np.testing.assert_allclose(drawn.sum(axis=1), 1, atol=1e-12)


def test_a_maximum_between_two_cells_is_drawn_between_them():
    centres = (np.arange(8) + 0.5) / 8
    drawn = _drawing(centres, 800)

    def peak(values):
        return (np.argmax(drawn @ values) + 0.5) / 800

    one, two, more = np.eye(8)[3], np.eye(8)[3] + np.eye(8)[4], np.eye(8)[3] + 0.5 * np.eye(8)[4]
    assert peak(one) == pytest.approx(centres[3], abs=1e-3)
    assert peak(two) == pytest.approx((centres[3] + centres[4]) / 2, abs=1e-3)
    # The vertex of the parabola through 0, 1 and 0.5 lies (0.5 - 0) / (2 * (2 - 0 - 0.5)) of a cell to the right.
    assert peak(more) == pytest.approx(centres[3] + 0.5 / 3 / 8, abs=1e-3)
