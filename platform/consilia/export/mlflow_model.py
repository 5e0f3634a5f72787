"""An ensemble as MLflow loads it: a pyfunc model whose data is the bundle's folder and whose code is this package.

MLflow imports this module by its name and calls `_load_pyfunc`: nothing of ours is pickled.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from consilia.predict.predictor import EnsemblePredictor

COLUMN = "image"  # of the table that the model takes: paths of image files


class BundleModel:
    """What the model that `mlflow.pyfunc.load_model` returns asks."""

    def __init__(self, predictor: "EnsemblePredictor") -> None:
        """Take a loaded ensemble."""
        self.predictor = predictor

    def predict(self, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Return what `EnsemblePredictor.predict` says: one row an image, as of `Predictions.to_frame`.

        Args:
            model_input: Paths of image files, in the column "image".
            params: MLflow's; there are none.
        """
        return self.predictor.predict([Path(image) for image in model_input[COLUMN]]).to_frame()


def _load_pyfunc(data_path: str) -> BundleModel:
    from consilia.predict.loading import load_predictor

    return BundleModel(load_predictor(data_path, precision="auto"))
