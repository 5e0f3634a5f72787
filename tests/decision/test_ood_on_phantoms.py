"""What is no phantom is told from phantoms, and new phantoms are not. Source: docs/methods.md section 7."""

import numpy as np
import pytest
from scipy.stats import betabinom, ks_2samp

from consilia.bundle.array_files import OodReference
from consilia.decision.ood.distance import find_nearest, rank_p_values
from consilia.decision.ood.inputs import find_broken_rules, measure_inputs
from consilia.decision.ood.picture import describe
from consilia.decision.ood.verdict import FLAG_BELOW
from consilia.ensemble.ood_reference import fit_inputs, fit_pictures
from unusual_pictures import FOREIGN, N_FOREIGN, draw_phantoms

pytestmark = pytest.mark.slow("draws 3,500 phantoms; predict/test_ood claims the same of fewer, through a bundle")
N_NEW = 1500


@pytest.fixture(scope="module", params=[200, 2000])
def reference(request):
    usual = draw_phantoms(request.param, seed=0)[0]
    inputs = fit_inputs(usual, aspect=np.ones(len(usual)))
    return OodReference(pictures=fit_pictures(describe(usual), np.arange(len(usual))), inputs=inputs)


@pytest.fixture(scope="module")
def new():
    return draw_phantoms(N_NEW, seed=2)[0]


def distances(reference, pixels):
    return find_nearest(describe(pixels), reference.pictures).distances


def far(reference, pixels):
    return rank_p_values(distances(reference, pixels), reference.pictures.distances) < FLAG_BELOW


def break_rules(reference, pixels):
    measures = measure_inputs(pixels, reference.inputs, aspect=np.ones(len(pixels)))
    return np.array([bool(find_broken_rules(each, reference.inputs)) for each in measures])


@pytest.mark.parametrize("kind", FOREIGN)
def test_images_of_another_kind_are_flagged_by_their_distance_and_by_the_rules(reference, new, kind):
    images = FOREIGN[kind](new[:N_FOREIGN])
    assert far(reference, images).mean() >= 0.95
    assert break_rules(reference, images).mean() >= 0.95


def test_new_phantoms_are_flagged_one_in_a_hundred_and_their_p_values_are_uniform(reference, new):
    n = len(reference.pictures.distances)
    c = int(np.ceil(FLAG_BELOW * (n + 1))) - 1  # ranks that flag; the reference is drawn too
    low, high = betabinom(N_NEW, c, n + 1 - c).interval(0.99)
    assert low <= far(reference, new).sum() <= high
    assert low <= (far(reference, new) | break_rules(reference, new)).sum() <= high
    # Both samples are finite, so that the distances are compared; equal distributions make p-values uniform.
    assert ks_2samp(distances(reference, new), reference.pictures.distances).pvalue > 0.01
