"""From stored bytes to what the network sees; prediction goes the same way."""

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F

from consilia.config.network import Preprocessing

ANTIALIAS_ABOVE = 1.5  # stored side over image side; below it bilinear interpolation skips no pixel


class ChannelConstants(NamedTuple):
    """What images are normalised by, each (1, channels, 1, 1)."""

    mean: torch.Tensor
    std: torch.Tensor


def network_input(images: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """Return the evaluation view: resized and normalised, nothing random.

    Args:
        images: uint8 (b, size, size, channels), on any device.
        preprocessing: Of the network.

    Returns:
        float32 (b, channels, image_size, image_size) on the same device.
    """
    return normalised(sized_planes(images, preprocessing), preprocessing)


def sized_planes(images: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """Return float32 planes (b, channels, image_size, image_size) in 0 ... 255: what networks of one size share."""
    planes = resized_planes(images, preprocessing)
    side = preprocessing.image_size
    if planes.shape[-1] != side:
        planes = F.interpolate(planes, size=(side, side), mode="bilinear", align_corners=False)
    return planes


def normalised(
    planes: torch.Tensor, preprocessing: Preprocessing, constants: ChannelConstants | None = None
) -> torch.Tensor:
    """Return planes of `sized_planes` as the network of this preprocessing takes them, of the same shape.

    Args:
        planes: Of `sized_planes`.
        preprocessing: Of the network.
        constants: Those of the preprocessing, where the caller holds them.
    """
    mean, std = constants or channel_constants(preprocessing, planes.device)
    return torch.addcmul(-mean / std, planes, 1 / (255 * std))


def resized_planes(images: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """Return float32 planes (b, channels, side, side) in 0 ... 255, reduced where sampling would alias.

    The side is `image_size` where the stored one exceeds `ANTIALIAS_ABOVE` times that, else the stored side.
    """
    size, side = preprocessing.size, preprocessing.image_size
    assert images.shape[1:] == (size, size, preprocessing.channels), images.shape
    planes = images.permute(0, 3, 1, 2).float()
    if size > ANTIALIAS_ABOVE * side:
        planes = F.interpolate(planes, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
    return planes


def channel_constants(preprocessing: Preprocessing, device: torch.device) -> ChannelConstants:
    """Return what the preprocessing normalises by, on the device; shared, so nobody may change it."""
    return _constants(preprocessing.mean, preprocessing.std, device)


@lru_cache(maxsize=64)
def _constants(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> ChannelConstants:
    """Cached: copying them to a GPU for each batch would wait for the batch before it."""
    with torch.inference_mode(mode=False):  # scoring may ask first, and training uses them later
        both = torch.tensor([mean, std], dtype=torch.float32, device=device).view(2, 1, -1, 1, 1)
    return ChannelConstants(mean=both[0], std=both[1])
