"""What the API says, as JSON; OpenAPI is made from it."""

from typing import Any

from pydantic import BaseModel

from consilia.config.records import Familiarity, Prediction
from consilia.decision.ood.verdict import reasons


class Failure(BaseModel):
    """Why a request was not answered."""

    error: str  # a sentence


class Unusual(BaseModel):
    """How an image compares with those of the training."""

    state: Familiarity
    p_value: float  # how often a usual image lies as far from the training images or farther
    part: str  # what of the image is unlike the nearest training image above all, usual or not
    reasons: tuple[str, ...]  # empty for a usual image


class PredictedImage(BaseModel):
    """What the ensemble says of one image."""

    name: str  # of the file, as it was sent; `scan.dcm[3]` for a frame that is predicted by itself
    frame: int | None  # that, from 0
    label: str
    confidence: float  # calibrated probability of `label`
    probabilities: dict[str, float]  # by class, calibrated, sums to 1
    prediction_set: tuple[str, ...] | None  # classes that the image may have; None: see `without_set`
    without_set: str  # why there is no prediction set
    review: tuple[str, ...]  # why a person should look at this one; empty: nothing speaks for it
    unusual: Unusual | None  # None: the ensemble has nothing to compare with
    bundle: str  # SHA-256 of the ensemble that said so


class UnreadableImage(BaseModel):
    """Why there is no prediction of an image."""

    name: str
    frame: int | None
    error: str
    bundle: str


class Predicted(BaseModel):
    """Every image of a request, in its order."""

    images: list[PredictedImage | UnreadableImage]
    precision: str  # that the networks computed in


class RequestLimits(BaseModel):
    """What a request may hold."""

    images: int
    bytes: int


class Model(BaseModel):
    """The ensemble, as data and as a card for people."""

    name: str
    bundle: str  # SHA-256, as `digest` of ensemble.json
    consilia: str  # version that serves it
    modality: str
    kinds: tuple[str, ...]  # of the files that it was trained on: dicom, raster
    on_unknown_kind: str  # what becomes of others
    classes: tuple[str, ...]
    deployed: dict[str, float] | None  # that probabilities are corrected for; None: as in training
    members_left_out: int
    limits: RequestLimits
    caution: str  # what a heat map is not
    card: str  # Markdown; `/v1/model?format=markdown` is this alone
    document: dict[str, Any]  # ensemble.json, with every number of the card


def say(found: Prediction, *, name: str, frame: int | None, bundle: str) -> PredictedImage:
    """Return a prediction as the API says it."""
    verdict = found.unusual
    return PredictedImage(
        name=name,
        frame=frame,
        label=found.label,
        confidence=found.confidence,
        probabilities=dict(found.probabilities),
        prediction_set=found.prediction_set,
        without_set=found.without_set,
        review=found.review,
        unusual=verdict
        and Unusual(state=verdict.state, p_value=verdict.p_value, part=verdict.part, reasons=reasons(verdict)),
        bundle=bundle,
    )
