"""Golden outputs: a loaded model has to reproduce what it said when its bundle was written.

The inputs are synthetic (noise and gradients), never a patient's image: a bundle is made to be shared.
"""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from consilia.bundle.arrays import read_arrays
from consilia.bundle.document import BundleDocument
from consilia.config.reading import Reading
from consilia.decision.calibrators import AnyCalibrator, pool_folds
from consilia.errors import BundleError, RunError
from consilia.predict.networks import FoldEnsembles
from consilia.version import __version__

GOLDEN = "golden.npz"
TOLERANCE = 1e-3  # of a probability, on another build or device than the bundle was written with


def write_golden(path: Path, networks: FoldEnsembles, calibrator: AnyCalibrator, reading: Reading) -> None:
    """Write the golden inputs and what the ensemble says of them.

    Raises:
        RunError: The ensemble gives NaN.
    """
    images = golden_images(reading)
    probabilities = pool_folds(calibrator, networks.probabilities(images))
    if not np.isfinite(probabilities).all():
        raise RunError(
            "An ensemble must give finite probabilities, but this one gives NaN: a member's weights are "
            "damaged. Leave that trial out, or train it again."
        )
    np.savez_compressed(path, images=images, probabilities=probabilities)


def check_golden(path: Path, networks: FoldEnsembles, document: BundleDocument) -> None:
    """Compare what the ensemble says of the golden inputs with what it said.

    On the environment that wrote the bundle every bit has to agree, on any other only about three digits.

    Raises:
        BundleError: They differ, or the file cannot be read.
    """
    images, expected = _read_golden(path, document)
    found = pool_folds(document.calibrator, networks.probabilities(images))
    written_on = document.environment
    tolerance = 0.0 if written_on == environment(networks.device) else TOLERANCE
    difference = float(np.abs(found - expected).max())
    if not difference <= tolerance:  # true for NaN too
        raise BundleError(
            f"{path}: the model must reproduce its golden outputs within {tolerance:g}, but differs by "
            f"{difference:.2g}. Written on {_describe(written_on)}; loaded on "
            f"{_describe(environment(networks.device))}. Build it again here: consilia ensemble STUDY"
        )


def environment(device: torch.device) -> dict[str, str]:
    """Return everything that decides the last bits of a network's output; equal values promise equal bits."""
    cuda = device.type == "cuda"
    return {
        "device": device.type,
        "processor": torch.cuda.get_device_name(device) if cuda else _processor(),
        "threads": str(torch.get_num_threads()),  # oneDNN splits its sums by them
        "consilia": __version__,  # a job of a cluster has the package without its metadata
        **{name: version(name) for name in ("numpy", "timm", "torch")},
    }


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


def _read_golden(path: Path, document: BundleDocument) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    images = golden_images(document.reading)
    n_classes = len(document.classes)
    layouts = {"images": (images.shape, np.uint8), "probabilities": ((len(images), n_classes), np.float64)}
    found = read_arrays(path, layouts)
    return found["images"], found["probabilities"]


def _processor() -> str:
    model = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{model} {torch.backends.cpu.get_cpu_capability()}"


def _describe(found: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(found.items()))
