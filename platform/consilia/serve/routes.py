"""What can be asked over HTTP."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from consilia.bundle.card import model_card
from consilia.config.records import Prediction
from consilia.errors import ReaderError
from consilia.predict.explain import CAUTION, Explanation, explain
from consilia.predict.images import Frame, Images, InputImage, OnUnknownKind
from consilia.predict.predictor import EnsemblePredictor
from consilia.report.overlay import draw_explanation
from consilia.serve.answers import Model, Predicted, PredictedImage, RequestLimits, UnreadableImage, say
from consilia.serve.batching import Batcher
from consilia.serve.failures import FAILURES
from consilia.serve.metrics import Metrics
from consilia.serve.uploads import Limits, Upload, on_disk, receive
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
    folder: Path  # of files while they are read
    batcher: Batcher[InputImage, Prediction]
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
    batcher = service.batcher
    with batcher.place(1):  # before a body is read for nothing
        async with receive(request, service.limits) as form:
            read = await batcher.read(partial(_read, service, form.files))
        with batcher.place(len(read) - 1):
            found = iter(await batcher.predict([each.image for each in read if isinstance(each.image, InputImage)]))
    results = [each.image if isinstance(each.image, str) else next(found) for each in read]
    service.metrics.count(results)
    images = [each.say(result, service.digest) for each, result in zip(read, results, strict=True)]
    return Predicted(images=images, precision=service.predictor.precision)


@router.post(
    "/v1/explain",
    response_class=Response,
    responses=FAILURES | {200: {"content": {"image/png": {}}, "description": "The image, and under its heat map"}},
    openapi_extra=_body(file=_FILE, label={"type": "string"}, frame={"type": "integer", "minimum": 0}),
)
async def explain_image(request: Request, service: Served) -> Response:
    """Draw which places of an image raise the log odds of `label`, or of its most probable class."""
    with service.batcher.place(1):
        async with receive(request, service.limits) as form:
            if len(form.files) != 1:
                raise HTTPException(422, f"One image is explained at a time, but there are {len(form.files)}.")
            label = _label(form.fields.get("label", ""), service.predictor.classes)
            frame = form.fields.get("frame", "0")
            work = partial(_draw, service, form.files, label=label, frame=frame)
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _ReadImage:
    name: str  # as answers call it
    frame: int | None
    image: InputImage | str  # or why it cannot be read

    def say(self, result: Prediction | str, bundle: str) -> PredictedImage | UnreadableImage:
        if isinstance(result, str):
            return UnreadableImage(name=self.name, frame=self.frame, error=result, bundle=bundle)
        return say(result, name=self.name, frame=self.frame, bundle=bundle)


def _read(service: Service, files: Sequence[UploadFile]) -> list[_ReadImage]:
    """Decode all images of a request, as the predictor does; one alone costs no further thread."""
    predictor, found = service.predictor, []
    with on_disk(files, service.folder, predictor.document.reading, service.limits) as uploads:
        paths, n_images = [upload.path for upload in uploads], sum(upload.n_images for upload in uploads)
        batches = predictor.read(paths, batch_size=n_images, on_unknown_kind=service.on_unknown_kind)
        images = (image for batch in batches for _, image in batch)
        for upload in uploads:
            for number in range(upload.n_images):
                frame = number if upload.n_images > 1 else None
                image = next(images)
                found.append(
                    _ReadImage(
                        name=upload.name if frame is None else f"{upload.name}[{frame}]",
                        frame=frame,
                        image=upload.in_words(image) if isinstance(image, ReaderError) else image,
                    )
                )
    return found


def _draw(
    service: Service, files: Sequence[UploadFile], *, label: str | None, frame: str
) -> tuple[bytes, dict[str, Any]]:
    """Return the picture of a heat map, and what it shows in words and numbers.

    Raises:
        HTTPException: 422: the image cannot be read, or has no such frame.
    """
    predictor = service.predictor
    with on_disk(files, service.folder, predictor.document.reading, service.limits) as (upload,):
        number = _frame(frame, upload)
        # A frame is what a predictor makes of a path; its type is not one that people hand over.
        image = upload.path if number is None else cast(Images, [Frame(upload.path, number)])
        ((_, found),) = explain(predictor, image, label=label, on_unknown_kind=service.on_unknown_kind)
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
