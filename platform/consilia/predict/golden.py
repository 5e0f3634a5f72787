"""Golden outputs, computed and compared: a loaded model has to reproduce what it said when its bundle was written."""

import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from consilia.bundle.document import BundleDocument
from consilia.bundle.golden import GoldenOutputs, golden_images, read_golden
from consilia.decision.calibrators import pool_folds
from consilia.errors import BundleError, RunError
from consilia.predict.networks import FoldEnsembles
from consilia.version import __version__

TOLERANCE = 1e-3  # of a probability, on another build or device than the bundle was written with


def compute_golden(networks: FoldEnsembles, document: BundleDocument) -> GoldenOutputs:
    """Return what the ensemble says of the golden inputs.

    Args:
        networks: Of the ensemble. They lie on the CPU, or the outputs are compared within a tolerance everywhere else.
        document: Of the ensemble; its calibrator and reading are used.

    Raises:
        RunError: The ensemble gives NaN.
    """
    images = golden_images(document.reading)
    probabilities = pool_folds(document.calibrator, networks.probabilities(images))
    if not np.isfinite(probabilities).all():
        raise RunError(
            "An ensemble must give finite probabilities, but this one gives NaN: a member's weights are "
            "damaged. Leave that trial out, or train it again."
        )
    return GoldenOutputs(images=images, probabilities=probabilities, environment=environment(networks.device))


def check_golden(path: Path, networks: FoldEnsembles, document: BundleDocument) -> None:
    """Compare what the ensemble says of the golden inputs with what it said.

    On the environment that wrote the bundle every bit has to agree, on any other only about three digits.

    Raises:
        BundleError: They differ, or the file cannot be read.
    """
    golden = read_golden(path, document)
    found = pool_folds(document.calibrator, networks.probabilities(golden.images))
    here = environment(networks.device)
    tolerance = 0.0 if golden.environment == here else TOLERANCE
    difference = float(np.abs(found - golden.probabilities).max())
    if not difference <= tolerance:  # true for NaN too
        raise BundleError(
            f"{path}: the model must reproduce its golden outputs within {tolerance:g}, but differs by "
            f"{difference:.2g}. Written on {_describe(golden.environment)}; loaded on {_describe(here)}. Build it "
            "again here: consilia ensemble STUDY"
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


def _processor() -> str:
    model = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{model} {torch.backends.cpu.get_cpu_capability()}"


def _describe(found: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(found.items()))
