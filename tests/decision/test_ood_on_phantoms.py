"""A small network, trained on phantoms in seconds, tells what is no phantom. Source: docs/methods.md section 7."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.stats import betabinom, ks_2samp, mannwhitneyu
from torch import nn

from consilia.bundle.array_files import OodReference
from consilia.data.phantom_image import CLASSES
from consilia.decision.ood.distance import measure_distance, p_values, views
from consilia.decision.ood.inputs import find_broken_rules, measure_inputs
from consilia.decision.ood.verdict import FLAG_BELOW
from consilia.ensemble.ood_reference import fit_inputs, fit_reference
from consilia.train.input import network_input
from consilia.train.networks.layers import logits_and_features
from unusual_pictures import FOREIGN, N_FOREIGN, PREPROCESSING, draw_phantoms, train

pytestmark = pytest.mark.slow("draws 6,600 phantoms; predict/test_ood claims the same of fewer, through a bundle")
N_TRAINED_ON, N_HELD_OUT, N_NEW = 600, 3000, 3000


@dataclass(frozen=True)
class Detector:
    model: nn.Module
    reference: OodReference

    def views(self, pixels):
        with torch.inference_mode():
            inputs = network_input(torch.from_numpy(np.ascontiguousarray(pixels)), PREPROCESSING)
            return views(logits_and_features(self.model, inputs)[1].numpy(), pixels)

    def p_values(self, pixels):
        return p_values(self.views(pixels), self.reference.features)

    def break_rules(self, pixels):
        measures = measure_inputs(pixels, self.reference.inputs, aspect=np.ones(len(pixels)))
        return np.array([bool(find_broken_rules(each, self.reference.inputs)) for each in measures])


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
    model = train(request.param, *trained_on, n_classes=len(CLASSES))
    usual = np.concatenate([trained_on[0], held_out])
    inputs = fit_inputs(usual, aspect=np.ones(len(usual)))
    blind = Detector(model, None)
    features = fit_reference(blind.views(trained_on[0]), blind.views(held_out))
    return Detector(model, OodReference(features=features, inputs=inputs))


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
