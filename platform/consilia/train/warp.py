"""Augmentation on the device: one warp an image zooms, turns, shifts, flips, resizes; then intensity jitter.

The card's policy bounds what may be done; a trial's strength scales it. Where stored images are more than 1.5
times larger than the network's, training first reduces the batch with the evaluation view's antialiased
filter and warps the result: zooming in then costs some sharpness, and nothing aliases.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from consilia.config.augmentation import AugmentationPolicy
from consilia.config.network import Preprocessing
from consilia.train.input import ChannelConstants, channel_constants, normalised, resized_planes, sized_planes

FloatArray = npt.NDArray[np.float32]

_DRAWS = 9  # uniform numbers an image; fixed, so that a policy changes what is done but not which numbers are drawn


@dataclass(frozen=True, slots=True)
class Warps:
    """What is done to each of n images."""

    theta: torch.Tensor  # (n, 2, 3) output to input coordinates, x right, y down, both -1 ... 1 over the image
    contrast: torch.Tensor  # (n, 1, 1, 1) factor about the image's own mean
    brightness: torch.Tensor  # (n, 1, 1, 1) shift, in 0 ... 255

    def __getitem__(self, images: slice | torch.Tensor) -> "Warps":
        """Return the warps of some of the images; a tensor holds their numbers."""
        return Warps(self.theta[images], self.contrast[images], self.brightness[images])

    def to(self, device: torch.device) -> "Warps":
        """Return the same warps on another device."""
        return Warps(self.theta.to(device), self.contrast.to(device), self.brightness.to(device))


def draw_warps(rng: np.random.Generator, n: int, *, policy: AugmentationPolicy, strength: float) -> Warps:
    """Draw the warps of n images.

    Turn, zoom, shift, brightness and contrast are uniform within `strength` times the policy's bounds. An
    allowed flip is done with probability `strength / 2`; 0, 1, 2 or 3 quarter turns, if allowed, with
    probability `strength`.

    Args:
        rng: Advances by the same amount whatever the policy.
        n: Number of images.
        policy: Of the data card.
        strength: 0 ... 1.
    """
    draws = rng.random((n, _DRAWS))
    symmetric = (2 * draws - 1) * strength
    angle = np.deg2rad(policy.rotate_degrees) * symmetric[:, 0]
    if policy.quarter_turns:
        angle = angle + np.where(draws[:, 7] < strength, np.floor(4 * draws[:, 8]) * (np.pi / 2), 0.0)
    zoom = 1 + policy.scale * symmetric[:, 1]
    shift = 2 * policy.translate * symmetric[:, 2:4]  # a side is 2 in these coordinates
    flips = np.where(draws[:, 4:6] < strength / 2, -1.0, 1.0)
    flips = np.where([policy.flip_horizontal, policy.flip_vertical], flips, 1.0)
    jitter = rng.random((n, 2)) * 2 - 1
    return Warps(
        theta=torch.from_numpy(_theta(angle, zoom, shift, flips)),
        contrast=_column(1 + strength * policy.contrast * jitter[:, 0]),
        brightness=_column(255 * strength * policy.brightness * jitter[:, 1]),
    )


def warp_images(
    images: torch.Tensor, warps: Warps, preprocessing: Preprocessing, constants: ChannelConstants | None = None
) -> torch.Tensor:
    """Return the training view of stored images: warped, resized, jittered and normalised.

    Beyond the border the nearest pixel is repeated, so that a turn leaves no black wedge to learn from.

    Args:
        images: uint8 (b, size, size, channels).
        warps: One an image, on the same device.
        preprocessing: Of the network.
        constants: As of `input.normalised`.

    Returns:
        float32 (b, channels, image_size, image_size).
    """
    planes = resized_planes(images, preprocessing)
    side = preprocessing.image_size
    planes = F.grid_sample(
        planes, sampling_grid(warps.theta, side), mode="bilinear", padding_mode="border", align_corners=False
    )
    mean, std = constants or channel_constants(preprocessing, planes.device)
    centre = planes.mean(dim=(1, 2, 3), keepdim=True)
    offset = centre * (1 - warps.contrast) + warps.brightness - 255 * mean
    return torch.addcmul(offset / (255 * std), planes, warps.contrast / (255 * std))


def sampling_grid(theta: torch.Tensor, side: int) -> torch.Tensor:
    """Return where each output pixel is sampled, (n, side, side, 2), as `affine_grid(align_corners=False)` does.

    An affine map is a sum of a function of the row and one of the column: one broadcast addition instead of
    affine_grid's batched product, which cost more than the sampling itself.

    Args:
        theta: (n, 2, 3).
        side: Of the output, pixels.
    """
    centres = (torch.arange(side, dtype=theta.dtype, device=theta.device) * 2 + (1 - side)) / side
    columns = centres[:, None] * theta[:, None, :, 0]  # (n, side, 2)
    rows = torch.addcmul(theta[:, None, :, 2], centres[:, None], theta[:, None, :, 1])
    return rows[:, :, None] + columns[:, None]


def training_input(
    images: torch.Tensor, warps: Warps | None, preprocessing: Preprocessing, constants: ChannelConstants | None = None
) -> torch.Tensor:
    """Return the training view, or the evaluation view where there are no warps; arguments as of `warp_images`."""
    if warps is None:
        return normalised(sized_planes(images, preprocessing), preprocessing, constants)
    return warp_images(images, warps, preprocessing, constants)


def _theta(
    angle: npt.NDArray[np.float64],
    zoom: npt.NDArray[np.float64],
    shift: npt.NDArray[np.float64],
    flips: npt.NDArray[np.float64],
) -> FloatArray:
    """Invert 'flip, then turn and zoom about the centre, then shift': (n, 2, 3)."""
    cosine, sine = np.cos(angle) / zoom, np.sin(angle) / zoom
    linear = np.stack([np.stack([cosine, sine], axis=-1), np.stack([-sine, cosine], axis=-1)], axis=-2)
    linear = linear * flips[:, :, None]
    offset = -linear @ shift[:, :, None]
    theta: FloatArray = np.concatenate([linear, offset], axis=2).astype(np.float32)
    return theta


def _column(values: npt.NDArray[np.float64]) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32)).view(-1, 1, 1, 1)
