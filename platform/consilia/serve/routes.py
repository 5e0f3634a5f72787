"""What can be asked over HTTP."""

import io
import json
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from consilia.bundle.card import model_card
from consilia.config.records import Prediction
from consilia.errors import ReaderError
from consilia.predict.explain import CAUTION, Explanation, explain
from consilia.predict.images import Frame, Images, OnUnknownKind
from consilia.predict.predictor import EnsemblePredictor
from consilia.report.overlay import draw_explanation
from consilia.serve.answers import Model, Predicted, PredictedImage, RequestLimits, UnreadableImage, say
from consilia.serve.batching import Batcher
from consilia.serve.failures import FAILURES
from consilia.serve.metrics import Metrics
from consilia.serve.uploads import Limits, Received, Upload, receive
from consilia.version import __version__

EXPLANATION = "Consilia-Explanation"  # header of a heat map: JSON of what it shows, for those who cannot see it
_FOOTNOTE = "Which places raise the log odds of the label. Not an outline of a finding."
_FILE = {"type": "string", "format": "binary", "description": "DICOM, PNG, JPEG, TIFF, WebP or BMP"}

router = APIRouter()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Service:
    """What all routes share."""

    predictor: EnsemblePredictor
    digest: str  # of the bundle
    on_unknown_kind: OnUnknownKind
    limits: Limits
    folder: Path  # of files while they are predicted
    batcher: Batcher[Prediction | ReaderError]
    metrics: Metrics


def _service(request: Request) -> Service:
    return cast(Service, request.app.state.service)


Served = Annotated[Service, Depends(_service)]


def _body(**fields: dict[str, Any]) -> dict[str, Any]:
    """Return what OpenAPI says of a multipart body, the first field of which is needed."""
    schema = {"type": "object", "required": [next(iter(fields))], "properties": fields}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


@router.post("/v1/predict", responses=FAILURES, openapi_extra=_body(files={"type": "array", "items": _FILE}))
async def predict(request: Request, service: Served) -> Predicted:
    """Predict images; one that cannot be read has its error in its place, and the others are predicted."""
    service.batcher.admit(1)  # before a body is read for nothing
    async with _received(request, service) as received:
        results = await service.batcher.predict(received.paths, received.n_images)
        service.metrics.count(results)
        return Predicted(images=_say_all(received, results, service), precision=service.predictor.precision)


@router.post(
    "/v1/explain",
    response_class=Response,
    responses=FAILURES | {200: {"content": {"image/png": {}}, "description": "The image, and under its heat map"}},
    openapi_extra=_body(file=_FILE, label={"type": "string"}, frame={"type": "integer", "minimum": 0}),
)
async def explain_image(request: Request, service: Served) -> Response:
    """Draw which places of an image raise the log odds of `label`, or of its most probable class."""
    service.batcher.admit(1)
    async with _received(request, service) as received:
        if len(received.uploads) != 1:
            raise HTTPException(422, f"One image is explained at a time, but there are {len(received.uploads)}.")
        (upload,) = received.uploads
        work = partial(
            _draw,
            service,
            upload,
            label=_label(received.fields.get("label", ""), service.predictor.classes),
            frame=_frame(received.fields.get("frame", "0"), upload),
        )
        picture, shown = await service.batcher.alone(work)
    return Response(picture, media_type="image/png", headers={EXPLANATION: json.dumps(shown)})


@router.get("/v1/model", response_model=Model)
async def model(service: Served, format: Literal["json", "markdown"] = "json") -> Model | Response:
    """Return the model card: JSON with every number of it, or Markdown alone."""
    predictor, document = service.predictor, service.predictor.document
    card, deployed = model_card(document), predictor.deployed
    if format == "markdown":
        return Response(card, media_type="text/markdown; charset=utf-8")
    return Model(
        name=document.name,
        bundle=service.digest,
        consilia=__version__,
        modality=document.modality,
        kinds=document.kinds,
        on_unknown_kind=service.on_unknown_kind,
        classes=document.classes,
        deployed=None if deployed is None else dict(zip(document.classes, deployed.tolist(), strict=True)),
        members_left_out=0 if predictor.cut_from is None else predictor.cut_from - len(document.members),
        limits=RequestLimits(images=service.limits.images, bytes=service.limits.bytes),
        caution=CAUTION,
        card=card,
        document=document.model_dump(mode="json"),
    )


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Say that the server answers."""
    return {"status": "ok"}


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(service: Served) -> Response:
    """Return the counters, as Prometheus reads them."""
    return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _received(request: Request, service: Service) -> AbstractAsyncContextManager[Received]:
    reading = service.predictor.document.reading
    return receive(request, folder=service.folder, reading=reading, limits=service.limits)


def _say_all(
    received: Received, results: Sequence[Prediction | ReaderError], service: Service
) -> list[PredictedImage | UnreadableImage]:
    said: list[PredictedImage | UnreadableImage] = []
    places = ((upload, number) for upload in received.uploads for number in range(upload.n_images))
    for (upload, number), result in zip(places, results, strict=True):
        frame = number if upload.n_images > 1 else None
        name = upload.name if frame is None else f"{upload.name}[{frame}]"
        if isinstance(result, ReaderError):
            error = upload.in_words(result)
            said.append(UnreadableImage(name=name, frame=frame, error=error, bundle=service.digest))
        else:
            said.append(say(result, name=name, frame=frame, bundle=service.digest))
    return said


def _draw(service: Service, upload: Upload, *, label: str | None, frame: int | None) -> tuple[bytes, dict[str, Any]]:
    """Return the picture of a heat map, and what it shows in words and numbers.

    Raises:
        HTTPException: 422: the image cannot be read.
    """
    # A frame is what a predictor makes of a path; its type is not one that people hand over.
    image = upload.path if frame is None else cast(Images, [Frame(upload.path, frame)])
    ((_, found),) = explain(service.predictor, image, label=label, on_unknown_kind=service.on_unknown_kind)
    if isinstance(found, ReaderError):
        raise HTTPException(422, upload.in_words(found))
    picture = io.BytesIO()
    draw_explanation(found, upload.name, footnote=_FOOTNOTE).save(picture, "PNG")
    return picture.getvalue(), _facts(found)


def _facts(found: Explanation) -> dict[str, Any]:
    return {
        "label": found.label,
        "probability": found.probability,
        "gain": found.gain,
        "peak": found.peak,
        "says_nothing_because": found.says_nothing_because,
    }


def _label(text: str, classes: Sequence[str]) -> str | None:
    if text and text not in classes:
        raise HTTPException(422, f"label must be one of {', '.join(classes)}, but is {text!r}.")
    return text or None


def _frame(text: str, upload: Upload) -> int | None:
    """Return which frame is meant; None where the file is one image."""
    if not text.isdecimal() or int(text) >= upload.n_images:
        raise HTTPException(
            422, f"frame must be one of the file's {upload.n_images} images, counted from 0, but is {text!r}."
        )
    return int(text) if upload.n_images > 1 else None
