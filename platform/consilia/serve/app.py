"""The application: routes and page behind a guard, with what they share from its start to its end."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import torch
from fastapi import FastAPI
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from consilia.config.records import Prediction
from consilia.predict.images import InputImage, OnUnknownKind
from consilia.predict.predictor import EnsemblePredictor
from consilia.predict.prefetch import spare_threads
from consilia.serve.access import Access, Guard
from consilia.serve.batching import MOST, READING, Batcher, wait_for_threads
from consilia.serve.failures import tell_failures
from consilia.serve.metrics import Metrics, Watch
from consilia.serve.routes import Service, router
from consilia.serve.uploads import Limits
from consilia.train.device import set_threads
from consilia.version import __version__

_AT_A_TIME = 2  # batches on a CPU: two on half of its threads each are done sooner than one after the other on all
_PATIENCE = 1  # seconds that files under way are waited for at the end
PAGE = Path(__file__).parent / "page"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",  # answers are about patients
}
_RAW_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]


def make_app(
    predictor: EnsemblePredictor,
    *,
    digest: str,
    access: Access,
    limits: Limits | None = None,
    on_unknown_kind: OnUnknownKind = "refuse",
) -> FastAPI:
    """Return the ASGI application of an ensemble; it answers between the start and the end of its lifespan.

    Args:
        predictor: The ensemble.
        digest: SHA-256 of its bundle, which every result names.
        access: What requests must bring.
        limits: What is refused; None: the defaults.
        on_unknown_kind: As of `EnsemblePredictor.predict`.
    """
    limits = limits or Limits()
    device = predictor.networks.device
    n_threads = torch.get_num_threads()
    n_predictors = min(_AT_A_TIME, n_threads) if device.type == "cpu" else 1
    batcher = Batcher(
        partial(_predict, predictor),
        claim=lambda has_all: set_threads(n_threads if has_all else n_threads // n_predictors),
        most_waiting=limits.waiting,
        n_predictors=n_predictors,
        n_readers=spare_threads(device),
    )
    metrics = Metrics(predictor.classes, lambda: batcher.n_waiting)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with tempfile.TemporaryDirectory(prefix="consilia-serve-", ignore_cleanup_errors=True) as folder:
            app.state.service = Service(
                predictor=predictor,
                digest=digest,
                on_unknown_kind=on_unknown_kind,
                limits=limits,
                folder=Path(folder),
                batcher=batcher,
                metrics=metrics,
            )
            batcher.start()
            yield
            batcher.stop()
            wait_for_threads(READING, _PATIENCE)  # they delete what they have written

    # The pages that FastAPI draws of an API load scripts from elsewhere; /openapi.json is the same without them.
    app = FastAPI(
        title=f"consilia: {predictor.document.name}",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.include_router(router)
    app.mount("/", StaticFiles(directory=PAGE, html=True))
    tell_failures(app)
    app.add_middleware(Guard, access=access)
    app.add_middleware(Watch, metrics=metrics)
    app.add_middleware(_Headed)  # the last to be added is the first to be asked
    return app


class _Headed:
    """ASGI middleware that puts `HEADERS` on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_RAW_HEADERS]
            await send(message)

        await self._app(scope, receive, headed if scope["type"] == "http" else send)


def _predict(predictor: EnsemblePredictor, images: list[InputImage]) -> list[Prediction]:
    """Return predictions, from as many images at once as a predictor takes by itself."""
    batches = (images[start : start + MOST] for start in range(0, len(images), MOST))
    return [found for batch in batches for found in predictor.judge(batch)]
