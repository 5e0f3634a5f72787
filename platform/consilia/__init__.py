"""consilia: distributed hyperparameter search and calibrated ensembles for medical images."""

from typing import TYPE_CHECKING

from consilia.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from consilia.predict.networks import Precision
    from consilia.predict.predictor import EnsemblePredictor

__all__ = ["__version__", "load"]


def load(path: "str | Path", *, device: str = "auto", precision: "Precision" = "float32") -> "EnsemblePredictor":
    """Load an ensemble bundle, check it against its hashes and golden outputs, and return its predictor.

    Args:
        path: Folder of the bundle, as written to `studies/<name>/ensembles/<recipe>`.
        device: A torch device such as "cpu" or "cuda:0"; "auto" takes the best one present.
        precision: "float32", or "bfloat16", which is faster on GPUs and refused where it moves one of the ensemble's
            probabilities by more than 0.01 on the golden inputs or on the first batch of images.

    Raises:
        BundleError: A file is missing or changed, the schema is another than this version of consilia reads, a path
            leaves the folder, or the model does not reproduce its golden outputs.
        UserError: torch cannot use the device, or the networks cannot run with this precision.
    """
    from consilia.predict.loading import load_predictor  # torch is imported only when a model is

    return load_predictor(path, device=device, precision=precision)
