"""consilia: distributed hyperparameter search and calibrated ensembles for medical images."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from consilia.ensemble.predictor import EnsemblePredictor

__all__ = ["__version__", "load"]

__version__ = "0.1.0"


def load(path: "str | Path", *, device: str = "auto") -> "EnsemblePredictor":
    """Load an ensemble bundle, check it against its hashes and golden outputs, and return its predictor.

    Args:
        path: Folder of the bundle, as written to `studies/<name>/ensembles/<recipe>`.
        device: A torch device such as "cpu" or "cuda:0"; "auto" takes the best one present.

    Raises:
        BundleError: A file is missing or changed, the schema is newer than this version of consilia, a path
            leaves the folder, or the model does not reproduce its golden outputs.
    """
    from consilia.ensemble.predictor import load_predictor  # torch is imported only when a model is

    return load_predictor(path, device=device)
