"""Predictions of many images, and what the images of one patient say together."""

from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pandas as pd

from consilia.config.records import OodVerdict, Prediction
from consilia.decision.ood.verdict import STATES
from consilia.decision.review import Judgements
from consilia.errors import UserError
from consilia.metrics.patients import pool_images
from consilia.predict.display import MOST_ROWS, show_facts
from consilia.predict.networks import Precision


class Predictions(Sequence[Prediction]):
    """One prediction an image, in the order of the images."""

    def __init__(
        self, names: Sequence[str], predictions: Sequence[Prediction], *, precision: Precision = "float32"
    ) -> None:
        """Take names, and predictions or the judgements that they are made of when they are asked for."""
        self.names = tuple(names)  # the image's path, or "image 0" and so on
        self.precision = precision  # that the networks computed in
        self._predictions = predictions if isinstance(predictions, Judgements) else tuple(predictions)

    @overload
    def __getitem__(self, index: int) -> Prediction: ...
    @overload
    def __getitem__(self, index: slice) -> "Predictions": ...
    def __getitem__(self, index: int | slice) -> "Prediction | Predictions":
        if isinstance(index, slice):
            return Predictions(self.names[index], self._predictions[index], precision=self.precision)
        return self._predictions[index]

    def __len__(self) -> int:
        return len(self._predictions)

    def __repr__(self) -> str:
        return f"Predictions({list(self._predictions)!r})"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the first images, and how many are to be looked at."""
        frame = self[:MOST_ROWS].to_frame().drop(columns="unusual_p_value")
        if not self:
            return show_facts("Predictions", {"images": "none"})
        n_review = sum(bool(each.review) for each in self)
        facts = {"images": str(len(self)), "to be looked at by a person": str(n_review)}
        return show_facts("Predictions", facts, table=frame, n_rows=len(self))

    def to_frame(self) -> pd.DataFrame:
        """Return one row an image, with the columns of `prediction_columns`; without images, none of a class."""
        if isinstance(self._predictions, Judgements) and len(self) > 0:
            return pd.DataFrame({"image": self.names, **_columns(self._predictions)})
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


def _columns(found: Judgements) -> dict[str, Any]:
    """Return what `prediction_row` says of each image, by column, without a `Prediction` of any."""
    probabilities, classes, states = found.columns.probabilities, found.reviewer.classes, found.states
    review = [""] * len(found)
    for image in np.flatnonzero(found.need_review).tolist():
        review[image] = "; ".join(found.review(image))
    return {
        "label": _named(classes, probabilities.argmax(axis=1)),
        "confidence": probabilities.max(axis=1),
        "unusual": None if states is None else _named(STATES, states),
        "unusual_p_value": found.columns.p_values,
        "prediction_set": _joined_sets(found),
        "review": review,
        **{f"probability_{name}": probabilities[:, number] for number, name in enumerate(classes)},
    }


def _named(names: Sequence[str], numbers: npt.NDArray[np.int64]) -> list[str]:
    return [names[number] for number in numbers.tolist()]


def _joined_sets(found: Judgements) -> list[str] | None:
    if (members := found.columns.members) is None:
        return None
    _, first, kind = np.unique(members, axis=0, return_index=True, return_inverse=True)
    return _named([";".join(found.prediction_set(image) or ()) for image in first.tolist()], kind)


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
        precision=predictions.precision,
    )


def _gravity(found: OodVerdict) -> tuple[int, float]:
    return STATES.index(found.state), -found.p_value
