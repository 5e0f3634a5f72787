"""consilia: distributed hyperparameter search and calibrated ensembles for medical images.

    study = consilia.search("examples/phantoms.yaml")
    predictor = study.predictor()
    predictor.predict(["image.png"])

Everything that `__all__` names is imported when it is first used, so `import consilia` is quick and imports neither
torch nor ray nor pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from consilia.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from consilia.bundle.evaluation import Evaluation
    from consilia.cluster.jobs import ClusterJobs
    from consilia.cluster.options import JobOptions
    from consilia.config.card import DataCard
    from consilia.config.recipe import EnsembleRecipe
    from consilia.config.records import Prediction
    from consilia.config.study import StudyPlan
    from consilia.data.phantoms import write_phantoms
    from consilia.errors import (
        BundleError,
        ClusterError,
        ConsiliaError,
        DataError,
        PlanError,
        ReaderError,
        RunError,
        StudyError,
        UserError,
    )
    from consilia.predict.explain import Explanation, explain
    from consilia.predict.precision import AskedPrecision
    from consilia.predict.predictions import Predictions
    from consilia.predict.predictor import EnsemblePredictor
    from consilia.study.cards import audit_card, prepare_card, preview_card
    from consilia.study.combine import StudyResult
    from consilia.study.draft import draft_study, write_draft
    from consilia.study.end import InterruptedStudyError
    from consilia.study.explain import write_explanations
    from consilia.study.exports import export_dicom, export_onnx
    from consilia.study.measure import compare_on_card, evaluate_on_card, write_figures
    from consilia.study.mlflow import export_mlflow
    from consilia.study.plan import change_plan, read_card, read_plan, read_single_plan
    from consilia.study.prototype import TrainedFold, train_fold
    from consilia.study.study import Study, open_study, search
    from consilia.study.view import StudyView

__all__ = [
    "BundleError",
    "ClusterError",
    "ClusterJobs",
    "ConsiliaError",
    "DataCard",
    "DataError",
    "EnsemblePredictor",
    "EnsembleRecipe",
    "Evaluation",
    "Explanation",
    "InterruptedStudyError",
    "JobOptions",
    "PlanError",
    "Prediction",
    "Predictions",
    "ReaderError",
    "RunError",
    "Study",
    "StudyError",
    "StudyPlan",
    "StudyResult",
    "StudyView",
    "TrainedFold",
    "UserError",
    "__version__",
    "audit_card",
    "change_plan",
    "compare_on_card",
    "draft_study",
    "evaluate_on_card",
    "explain",
    "export_dicom",
    "export_mlflow",
    "export_onnx",
    "load",
    "open_study",
    "prepare_card",
    "preview_card",
    "read_card",
    "read_plan",
    "read_single_plan",
    "search",
    "train_fold",
    "write_draft",
    "write_explanations",
    "write_figures",
    "write_phantoms",
]

# No name may be that of a room, such as `train`: the room's import would put the module in its place.
_MODULE_OF = {
    "ClusterJobs": "cluster.jobs",
    "DataCard": "config.card",
    "EnsemblePredictor": "predict.predictor",
    "EnsembleRecipe": "config.recipe",
    "Evaluation": "bundle.evaluation",
    "Explanation": "predict.explain",
    "InterruptedStudyError": "study.end",
    "JobOptions": "cluster.options",
    "Prediction": "config.records",
    "Predictions": "predict.predictions",
    "Study": "study.study",
    "StudyPlan": "config.study",
    "StudyResult": "study.combine",
    "StudyView": "study.view",
    "TrainedFold": "study.prototype",
    "audit_card": "study.cards",
    "change_plan": "study.plan",
    "compare_on_card": "study.measure",
    "draft_study": "study.draft",
    "evaluate_on_card": "study.measure",
    "explain": "predict.explain",
    "export_dicom": "study.exports",
    "export_mlflow": "study.mlflow",
    "export_onnx": "study.exports",
    "open_study": "study.study",
    "prepare_card": "study.cards",
    "preview_card": "study.cards",
    "read_card": "study.plan",
    "read_plan": "study.plan",
    "read_single_plan": "study.plan",
    "search": "study.study",
    "train_fold": "study.prototype",
    "write_draft": "study.draft",
    "write_explanations": "study.explain",
    "write_figures": "study.measure",
    "write_phantoms": "data.phantoms",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, imported or not."""
    return sorted(__all__)


def load(path: "str | Path", *, device: str = "auto", precision: "AskedPrecision" = "auto") -> "EnsemblePredictor":
    """Load an ensemble bundle, check it against its hashes and golden outputs, and return its predictor.

    Args:
        path: Folder of the bundle, as written to `studies/<name>/ensembles/<recipe>`.
        device: A torch device such as "cpu" or "cuda:0"; "auto" takes the best one present.
        precision: "auto" takes, on a GPU, the first of bfloat16, TF32 and float32 that moves none of the ensemble's
            probabilities by more than 0.01 on the golden inputs and on the first batch of images; elsewhere float32.
            "bfloat16" is refused where it moves one farther. `predictions.precision` names what was computed in.

    Raises:
        BundleError: A file is missing or changed, the schema is another than this version of consilia reads, a path
            leaves the folder, or the model does not reproduce its golden outputs.
        UserError: torch cannot use the device, or the networks cannot run with this precision.
    """
    from consilia.predict.loading import load_predictor  # torch is imported only when a model is

    return load_predictor(path, device=device, precision=precision)
