"""Predictions of many images, and what the images of one patient say together."""

from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import pandas as pd

from consilia.config.records import OodVerdict, Prediction
from consilia.errors import UserError
from consilia.metrics.patients import pool_images


class Predictions(Sequence[Prediction]):
    """One prediction an image, in the order of the images."""

    def __init__(self, names: Sequence[str], predictions: Sequence[Prediction]) -> None:
        self.names = tuple(names)  # the image's path, or "image 0" and so on
        self._predictions = tuple(predictions)

    @overload
    def __getitem__(self, index: int) -> Prediction: ...
    @overload
    def __getitem__(self, index: slice) -> "Predictions": ...
    def __getitem__(self, index: int | slice) -> "Prediction | Predictions":
        if isinstance(index, slice):
            return Predictions(self.names[index], self._predictions[index])
        return self._predictions[index]

    def __len__(self) -> int:
        return len(self._predictions)

    def __repr__(self) -> str:
        return f"Predictions({list(self._predictions)!r})"

    def to_frame(self) -> pd.DataFrame:
        """Return one row an image, with the columns of `prediction_columns`; without images, none of a class."""
        classes = tuple(self._predictions[0].probabilities) if self._predictions else ()
        rows = [prediction_row(*each) for each in zip(self.names, self._predictions, strict=True)]
        return pd.DataFrame(rows, columns=prediction_columns(classes))


def prediction_columns(classes: Sequence[str]) -> list[str]:
    """Return the names of a table's columns, whether it is a frame or a CSV.

    `unusual` is "usual", "unusual" or "rejected"; None: not checked. The classes of `prediction_set` are parted by ";".
    """
    noted = ["image", "label", "confidence", "unusual", "unusual_p_value", "prediction_set", "review"]
    return [*noted, *(f"probability_{name}" for name in classes)]


def prediction_row(name: str, prediction: Prediction) -> dict[str, Any]:
    """Return an image's values by `prediction_columns`; None where there is nothing to say."""
    found, classes = prediction.unusual, prediction.prediction_set
    return {
        "image": name,
        "label": prediction.label,
        "confidence": prediction.confidence,
        "unusual": None if found is None else found.state,
        "unusual_p_value": None if found is None else found.p_value,
        "prediction_set": None if classes is None else ";".join(classes),
        "review": "; ".join(prediction.review),
        **{f"probability_{key}": value for key, value in prediction.probabilities.items()},
    }


def combine_patients(predictions: Predictions, patients: Sequence[str]) -> Predictions:
    """Return one prediction a patient, in the order of their first images; see `EnsemblePredictor.predict_patients`.

    Raises:
        UserError: There are not as many patients as images.
    """
    if len(predictions) != len(patients):
        raise UserError(f"patients must name one for each of the {len(predictions)} images, but names {len(patients)}.")
    if len(predictions) == 0:
        return predictions
    classes = tuple(predictions[0].probabilities)
    rows = np.array([list(each.probabilities.values()) for each in predictions])
    names, pooled = pool_images(rows, np.asarray(patients, dtype=str))
    row_of = dict(zip(names.tolist(), pooled, strict=True))
    reviews: dict[str, list[str]] = {str(patient): [] for patient in patients}
    verdicts: dict[str, list[OodVerdict]] = {patient: [] for patient in reviews}
    for name, patient, prediction in zip(predictions.names, patients, predictions, strict=True):
        reviews[str(patient)] += [f"{name}: {reason}" for reason in prediction.review]
        verdicts[str(patient)] += [] if prediction.unusual is None else [prediction.unusual]
    return Predictions(
        tuple(reviews),
        [
            Prediction(
                label=classes[int(row_of[patient].argmax())],
                confidence=float(row_of[patient].max()),
                probabilities=dict(zip(classes, row_of[patient].tolist(), strict=True)),
                review=tuple(reasons),
                unusual=max(verdicts[patient], key=_gravity, default=None),
                without_set="prediction sets are calibrated for images, not for patients",
            )
            for patient, reasons in reviews.items()
        ],
    )


def _gravity(found: OodVerdict) -> tuple[int, float]:
    return ("usual", "unusual", "rejected").index(found.state), -found.p_value
