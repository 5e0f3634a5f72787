"""A small network, trained on phantoms in seconds, tells what is no phantom. Source: docs/methods.md section 7."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import betabinom, ks_2samp, mannwhitneyu
from sklearn.datasets import load_digits, load_sample_images
from torch import nn

from consilia.data.phantom_image import CLASSES, SCANNERS, draw_anatomy, draw_image
from consilia.ensemble.input_rules import describe_unusual, fit_inputs, measure_inputs
from consilia.ensemble.unusual import FLAG_BELOW, fit_reference, measure_distance, p_values, views
from consilia.ensemble.unusual_file import UnusualReference
from consilia.models.factory import ModelSpec, build_model
from consilia.models.features import logits_and_features
from consilia.plan.space import Architecture
from consilia.training.input import Preprocessing, network_input

SIZE = 32
N_TRAINED_ON, N_HELD_OUT, N_NEW, N_FOREIGN = 600, 1000, 1000, 200
PREPROCESSING = Preprocessing(size=SIZE, channels=1, image_size=SIZE, mean=(0.35,), std=(0.25,))


def draw_phantoms(n, *, seed):
    """One image each of `n` patients, (n, SIZE, SIZE, 1), and their classes."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, len(CLASSES), n)
    scanners = list(SCANNERS.values())
    images = [
        draw_image(CLASSES[label], draw_anatomy(generator), scanners[i % 2], size=SIZE, generator=generator)[0]
        for i, label in enumerate(labels)
    ]
    return np.stack(images)[..., None], labels


def train(architecture, pixels, labels):
    torch.manual_seed(0)
    model = build_model(ModelSpec(architecture=Architecture(timm=architecture), n_classes=len(CLASSES), channels=1))
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    inputs, targets = network_input(torch.from_numpy(pixels), PREPROCESSING), torch.from_numpy(labels)
    for _ in range(6):
        for rows in torch.randperm(len(labels)).split(32):
            loss = nn.functional.cross_entropy(model(inputs[rows]), targets[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model.eval()


@dataclass(frozen=True)
class Detector:
    model: nn.Module
    reference: UnusualReference

    def views(self, pixels):
        with torch.inference_mode():
            inputs = network_input(torch.from_numpy(np.ascontiguousarray(pixels)), PREPROCESSING)
            return views(logits_and_features(self.model, inputs)[1].numpy(), pixels)

    def p_values(self, pixels):
        return p_values(self.views(pixels), self.reference.features)

    def break_rules(self, pixels):
        measures = measure_inputs(pixels, self.reference.inputs, aspect=np.ones(len(pixels)))
        return np.array([bool(describe_unusual(each, self.reference.inputs)) for each in measures])


@pytest.fixture(scope="module")
def trained_on():
    return draw_phantoms(N_TRAINED_ON, seed=0)


@pytest.fixture(scope="module")
def held_out():
    return draw_phantoms(N_HELD_OUT, seed=1)[0]


@pytest.fixture(scope="module")
def new():
    return draw_phantoms(N_NEW, seed=2)[0]


@pytest.fixture(scope="module", params=["test_resnet", "test_efficientnet"])
def detector(request, trained_on, held_out):
    model = train(request.param, *trained_on)
    usual = np.concatenate([trained_on[0], held_out])
    inputs = fit_inputs(usual, aspect=np.ones(len(usual)))
    blind = Detector(model, None)
    features = fit_reference(blind.views(trained_on[0]), blind.views(held_out))
    return Detector(model, UnusualReference(features=features, inputs=inputs))


def photos():
    """Grey crops of two photographs: a palace and a flower."""
    generator = np.random.default_rng(3)
    images = [Image.fromarray(image).convert("L") for image in load_sample_images().images]
    crops = []
    for number in range(N_FOREIGN):
        image, side = images[number % 2], int(generator.integers(100, 420))
        x, y = generator.integers(0, image.width - side), generator.integers(0, image.height - side)
        crops.append(np.array(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=(x, y, x + side, y + side))))
    return np.stack(crops)[..., None]


def digits():
    images = [Image.fromarray((image * 15.9).astype(np.uint8)) for image in load_digits().images[:N_FOREIGN]]
    return np.stack([np.array(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)) for image in images])[..., None]


FOREIGN = {
    "photograph": lambda new: photos(),
    "noise": lambda new: np.random.default_rng(4).integers(0, 256, new.shape, dtype=np.uint8),
    "faint noise": lambda new: np.random.default_rng(5).normal(110, 15, new.shape).astype(np.uint8),
    "inverted": lambda new: 255 - new,
    "turned by 90": lambda new: np.rot90(new, axes=(1, 2)),
    "turned by 180": lambda new: np.rot90(new, 2, axes=(1, 2)),
    "turned by 270": lambda new: np.rot90(new, 3, axes=(1, 2)),
    "blank": lambda new: np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None, None], (256, SIZE, SIZE, 1)),
    "handwritten digit": lambda new: digits(),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_images_of_another_kind_are_flagged_by_their_distance_and_by_the_rules(detector, new, kind):
    images = FOREIGN[kind](new[:N_FOREIGN])
    assert (detector.p_values(images) < FLAG_BELOW).mean() >= 0.95
    assert detector.break_rules(images).mean() >= 0.95


def test_new_phantoms_are_flagged_one_in_a_hundred(detector, new):
    c = int(np.ceil(FLAG_BELOW * (N_HELD_OUT + 1))) - 1  # ranks that flag; the reference is drawn too
    low, high = betabinom(N_NEW, c, N_HELD_OUT + 1 - c).interval(0.99)
    far = detector.p_values(new) < FLAG_BELOW
    assert low <= far.sum() <= high
    assert low <= (far | detector.break_rules(new)).sum() <= high


def test_p_values_of_new_phantoms_are_uniform(detector, new):
    reference = detector.reference.features
    # Both samples are finite, so that the distances are compared; equal distributions make p-values uniform.
    assert ks_2samp(measure_distance(detector.views(new), reference), reference.distances).pvalue > 0.01


def test_images_of_the_training_lie_nearer_than_new_ones(detector, trained_on):
    reference = detector.reference.features
    own = measure_distance(detector.views(trained_on[0]), reference)
    assert mannwhitneyu(own, reference.distances, alternative="less").pvalue < 0.01
