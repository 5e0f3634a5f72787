"""Golden outputs: what an ensemble said of a few images when its bundle was written. `predict.golden` computes them.

The inputs are synthetic (noise and gradients), never a patient's image, since a bundle is made to be shared.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from consilia.bundle.arrays import read_arrays
from consilia.bundle.document import BundleDocument
from consilia.config.reading import Reading

GOLDEN = "golden.npz"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GoldenOutputs:
    """Images, and what the ensemble said of them."""

    images: npt.NDArray[np.uint8]  # (n_images, size, size, channels)
    probabilities: npt.NDArray[np.float64]  # (n_images, n_classes), calibrated
    environment: Mapping[str, str]  # that computed them; it is stored in `ensemble.json`


def golden_images(reading: Reading) -> npt.NDArray[np.uint8]:
    """Return noise, two gradients and a disc, (4, size, size, channels)."""
    size = reading.size
    noise = np.random.default_rng(0).integers(0, 256, (size, size, reading.channels), dtype=np.uint8)
    ramp = np.linspace(0, 255, size)
    across = np.tile(ramp, (size, 1))
    distance = np.hypot(*np.meshgrid(ramp - 127.5, ramp - 127.5))
    greys = np.stack([across, across.T, np.clip(255 - 2 * distance, 0, 255)]).astype(np.uint8)
    colours = np.repeat(greys[..., None], reading.channels, axis=3)
    return np.concatenate([noise[None], colours])


def write_golden(path: Path, golden: GoldenOutputs) -> None:
    """Write images and probabilities to `path`, which ends in .npz."""
    np.savez_compressed(path, images=golden.images, probabilities=golden.probabilities)


def read_golden(path: Path, document: BundleDocument) -> GoldenOutputs:
    """Read what `write_golden` wrote.

    Raises:
        BundleError: The file is missing, damaged, or of another ensemble; names it.
    """
    images = golden_images(document.reading)
    n_classes = len(document.classes)
    layouts = {"images": (images.shape, np.uint8), "probabilities": ((len(images), n_classes), np.float64)}
    return GoldenOutputs(**read_arrays(path, layouts), environment=document.environment)
