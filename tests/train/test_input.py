import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torchvision.transforms.v2 import functional as reference

from consilia.config.network import Preprocessing
from consilia.train.input import network_input


def preprocessing(size: int, image_size: int, channels: int = 1) -> Preprocessing:
    return Preprocessing(
        size=size,
        channels=channels,
        image_size=image_size,
        mean=(0.4, 0.5, 0.6)[:channels],
        std=(0.2, 0.25, 0.3)[:channels],
    )


def noise(size: int, channels: int = 1) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (4, size, size, channels), dtype=np.uint8))


@pytest.mark.parametrize("channels", [1, 3])
def test_at_the_stored_size_pixels_are_only_scaled_and_normalised(channels):
    images = noise(8, channels)
    recipe = preprocessing(8, 8, channels)
    expected = (images.numpy() / 255 - recipe.mean) / recipe.std
    np.testing.assert_allclose(network_input(images, recipe).permute(0, 2, 3, 1), expected, atol=1e-5)


@pytest.mark.parametrize(("size", "image_size", "antialias"), [(20, 32, False), (32, 24, False), (64, 20, True)])
def test_resizing_equals_torchvisions_and_reduces_with_antialiasing(size, image_size, antialias):
    images = noise(size)
    recipe = preprocessing(size, image_size)
    planes = images.permute(0, 3, 1, 2).float() / 255
    resized = reference.resize(planes, [image_size, image_size], antialias=antialias)
    torch.testing.assert_close(network_input(images, recipe), (resized - 0.4) / 0.2, atol=1e-4, rtol=0)


def test_a_fine_pattern_becomes_grey_rather_than_an_alias():
    rows, columns = np.indices((64, 64))
    board = (255 * ((rows + columns) % 2)).astype(np.uint8)[None, :, :, None]
    grey = network_input(torch.from_numpy(board), preprocessing(64, 20))
    assert (grey * 0.2 + 0.4 - 0.5).abs().max() < 0.02


def test_an_image_of_another_size_is_not_taken():
    with pytest.raises(AssertionError):
        network_input(noise(8), preprocessing(9, 9))


@pytest.mark.parametrize(("mean", "std"), [((0.5, 0.5), (0.2,)), ((0.5,), (0.0,)), ((), ())])
def test_mean_and_std_must_have_one_value_a_channel(mean, std):
    with pytest.raises(ValidationError, match="1 values"):
        Preprocessing(size=8, channels=1, image_size=8, mean=mean, std=std)
