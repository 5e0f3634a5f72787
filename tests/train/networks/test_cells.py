"""The cells of a feature map lie where the network looks, not where a ruler puts them."""

import numpy as np
import pytest
import torch

from consilia.config.network import ModelSpec
from consilia.config.space import Architecture
from consilia.train.networks.cells import cell_centres

TINY_DENSENET = Architecture(timm="densenet121", arguments={"growth_rate": 12, "block_config": (3, 3, 3)})
DILATED = Architecture(timm="test_resnet", arguments={"output_stride": 8})


def centres(architecture: Architecture, size: int) -> np.ndarray:
    """Return the centres in pixels."""
    return cell_centres(ModelSpec(architecture=architecture, n_classes=2, channels=1), size) * size


def test_a_chain_of_strided_convolutions_of_three_looks_half_a_cell_up_and_left():
    # Convolutions of odd size with symmetric padding centre output i on input 2i: five of them on pixel 32i.
    measured = centres(Architecture(timm="resnet18"), 192)
    assert measured[1:-1] == pytest.approx([32 * i + 0.5 for i in range(1, 5)], abs=1.5)


def test_pooling_by_two_between_blocks_does_not_shift():
    # Its stem alone is strided convolution and pooling of three: 0.5 + 1 pixels of cells of 16.
    measured = centres(TINY_DENSENET, 128)
    assert measured[2:-2] == pytest.approx([16 * i + 8 - 1.5 for i in range(2, 6)], abs=2.5)


@pytest.mark.parametrize(
    ("architecture", "size", "n_cells"),
    [(DILATED, 64, 8), (Architecture(timm="test_resnet"), 32, 1), (DILATED, 88, 11)],
)
def test_centres_ascend_within_the_image_one_a_cell(architecture, size, n_cells):
    measured = centres(architecture, size)
    assert len(measured) == n_cells
    assert (np.diff(measured) > 0).all()
    assert measured.min() > 0
    assert measured.max() < size


def test_measuring_is_repeatable_and_leaves_the_random_state_alone():
    from consilia.train.networks.cells import _measure

    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = centres(DILATED, 64)
    _measure.cache_clear()
    torch.manual_seed(6)
    np.testing.assert_array_equal(centres(DILATED, 64), first)
    torch.manual_seed(5)
    centres(DILATED, 64)
    assert torch.equal(torch.get_rng_state(), state)
