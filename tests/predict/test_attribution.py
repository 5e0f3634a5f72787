"""What is explained is the predictor's own log odds, and what exceeds those of the blurred image is divided exactly."""

from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients
from torch import nn

from consilia.config.network import Preprocessing
from consilia.decision.calibrators import Identity, Temperature, TemperatureBias, pool_folds
from consilia.decision.combination import LinearPool
from consilia.metrics.scores import softmax
from consilia.predict import attribution
from consilia.predict.attribution import STEPS, TOLERANCE, blurred, contributions, log_odds

SIZE = 32
LABELS = np.array([0, 1, 1, 0, 1])


@pytest.fixture
def pixels():
    return np.random.default_rng(1).integers(0, 256, (5, SIZE, SIZE, 1), dtype=np.uint8)


def linear_ensemble(*networks: nn.Linear, weights=(1.0,)):
    """Return what `contributions` asks of an ensemble: these networks, member by member, of flattened images."""
    n_folds = len(networks) // len(weights)
    preprocessing = Preprocessing(size=SIZE, image_size=SIZE, channels=1, mean=(0.5,), std=(0.25,))
    loaded = [
        SimpleNamespace(
            member=i // n_folds, fold=i % n_folds, module=nn.Sequential(nn.Flatten(), each), preprocessing=preprocessing
        )
        for i, each in enumerate(networks)
    ]
    combination, device = LinearPool(weights=weights), torch.device("cpu")
    return SimpleNamespace(loaded=loaded, combination=combination, n_members=len(weights), device=device)


@pytest.mark.parametrize(
    "calibrator", [Identity(), Temperature(temperature=1.7), TemperatureBias(temperature=1.7, biases=(0.5, -0.7))]
)
def test_the_log_odds_are_those_of_the_predictor_s_probabilities(predictor, pixels, calibrator):
    networks = predictor.networks
    p = pool_folds(calibrator, networks.pool(softmax(networks.logits(pixels))))[np.arange(5), LABELS]
    n_folds = 1 + max(network.fold for network in networks.loaded)
    images = [torch.from_numpy(pixels)] * n_folds
    found = log_odds(networks, calibrator)(*images, torch.from_numpy(LABELS))
    np.testing.assert_allclose(found.detach(), np.log(p) - np.log1p(-p), rtol=1e-5, atol=1e-6)


def test_of_linear_networks_each_pixel_adds_its_weight_times_what_blurring_takes_from_it(pixels):
    torch.manual_seed(0)
    folds = [nn.Linear(SIZE * SIZE, 2), nn.Linear(SIZE * SIZE, 2)]
    with torch.no_grad():
        folds[1].bias += torch.tensor([0.0, 60.0])  # surer than any clip
    found, _ = contributions(linear_ensemble(*folds), Temperature(temperature=2.0), pixels, LABELS)
    change = (pixels - blurred(pixels)).squeeze(-1) / 255 / 0.25
    for fold, network in enumerate(folds):
        against_the_other = (network.weight[1] - network.weight[0]).detach().numpy().reshape(SIZE, SIZE)
        slope = np.where(LABELS == 1, 1, -1)[:, None, None] * against_the_other / (2 * 2.0)  # folds, temperature
        np.testing.assert_allclose(found[fold], slope * change, atol=1e-5)


def test_all_pixels_of_all_folds_add_up_to_what_the_log_odds_exceed_those_of_the_blurred_image_by(predictor, pixels):
    calibrator = Temperature(temperature=0.005)  # steep, so that there is something to add up
    found, gains = contributions(predictor.networks, calibrator, pixels, LABELS)
    n_folds = 1 + max(network.fold for network in predictor.networks.loaded)
    assert found.shape == (n_folds, 5, SIZE, SIZE)
    odds, without = (
        log_odds(predictor.networks, calibrator)(*[torch.from_numpy(each)] * n_folds, torch.from_numpy(LABELS))
        for each in (pixels, blurred(pixels))
    )
    np.testing.assert_allclose(gains, (odds - without).detach(), atol=1e-4)
    assert np.abs(gains).max() > 1
    assert (np.abs(found.sum(axis=(0, 2, 3)) - gains) <= TOLERANCE * np.maximum(np.abs(gains), 1)).all()


def test_only_images_whose_sum_is_off_take_more_steps():
    class Sudden(nn.Module):
        """Says the second class as soon as the corner is bright."""

        def forward(self, inputs):
            corner = inputs[:, 0, 0, 0]
            return torch.stack([torch.zeros_like(corner), torch.sigmoid(40 * corner)], dim=1)

    asked = []

    class Counted(IntegratedGradients):
        def attribute(self, inputs, **options):
            asked.append((options["n_steps"], len(inputs[0])))
            return super().attribute(inputs, **options)

    ensemble = linear_ensemble(nn.Linear(1, 1))
    ensemble.loaded[0].module = Sudden()
    images = np.full((2, SIZE, SIZE, 1), 60, np.uint8)
    images[1, 0, 0] = 255
    with patch.object(attribution, "IntegratedGradients", Counted):
        found, gains = contributions(ensemble, Identity(), images, np.array([1, 1]))
    assert asked[:2] == [(STEPS[0], 2), (STEPS[1], 1)]
    np.testing.assert_allclose(gains, [0, 1], atol=1e-3)
    np.testing.assert_allclose(found.sum(axis=(0, 2, 3)), gains, atol=TOLERANCE)
    assert found[0, 1, 0, 0] == pytest.approx(found[0, 1].sum())


def test_members_count_by_their_weight(pixels):
    torch.manual_seed(0)
    one, other = nn.Linear(SIZE * SIZE, 2), nn.Linear(SIZE * SIZE, 2)
    alone, _ = contributions(linear_ensemble(one), Identity(), pixels, LABELS)
    beside, _ = contributions(linear_ensemble(one, other, weights=(1 - 1e-9, 1e-9)), Identity(), pixels, LABELS)
    np.testing.assert_allclose(beside, alone, atol=1e-4)


def test_blurring_takes_a_lesion_away_and_leaves_how_brightness_changes():
    y, x = np.mgrid[:64, :64]
    ramp = np.uint8(40 + 2 * x)
    lesion = np.where(np.hypot(y - 30, x - 30) < 5, ramp + 60, ramp).astype(np.uint8)
    found = blurred(np.stack([ramp, lesion])[..., None])[..., 0]
    assert np.abs(found[1] - found[0]).max() < 0.1 * 60
    np.testing.assert_allclose(found[0][:, 30:34], ramp[:, 30:34], atol=2)
    np.testing.assert_array_equal(blurred(np.full((1, 28, 28, 3), 7, np.uint8)), np.full((1, 28, 28, 3), 7))
