"""What Prometheus is told: how much is asked and how fast it is answered, and what the answers are: drift is seen here.

The share of unusual images over an hour, for example:

    sum(increase(consilia_serve_images_total{state=~"unusual|rejected"}[1h]))
    / sum(increase(consilia_serve_images_total[1h]))
"""

import time
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from consilia.config.records import Prediction

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)  # bounds of the histogram
_UNCHECKED = "unchecked"  # of an image that the ensemble compares with nothing


class Metrics:
    """The counters of one server."""

    def __init__(self, classes: Iterable[str], n_waiting: Callable[[], int]) -> None:
        """Begin at zero.

        Args:
            classes: Of the ensemble, so that each has a row before it is predicted.
            n_waiting: Tells how many images wait for an answer.
        """
        registry = self._registry = CollectorRegistry()
        self.requests = Counter("consilia_serve_requests", "Requests answered.", ["route", "status"], registry=registry)
        self.seconds = Histogram(
            "consilia_serve_request_seconds", "Time to answer.", ["route"], buckets=_SECONDS, registry=registry
        )
        self._images = Counter(
            "consilia_serve_images", "Images predicted, by how usual they are.", ["state"], registry=registry
        )
        self._labels = Counter("consilia_serve_labels", "Images predicted, by label.", ["label"], registry=registry)
        self._unreadable = Counter("consilia_serve_unreadable_images", "Images not read.", registry=registry)
        waiting = Gauge("consilia_serve_waiting_images", "Images that wait for an answer.", registry=registry)
        waiting.set_function(n_waiting)
        for name in classes:
            self._labels.labels(name)

    def count(self, results: Iterable[Prediction | str]) -> None:
        """Count what was said of images: a prediction, or why there is none."""
        for result in results:
            if isinstance(result, str):
                self._unreadable.inc()
            else:
                self._labels.labels(result.label).inc()
                self._images.labels(_UNCHECKED if result.unusual is None else result.unusual.state).inc()

    def text(self) -> bytes:
        """Return all of them as Prometheus reads them."""
        return generate_latest(self._registry)


class Watch:
    """ASGI middleware that counts requests by route and status, and times them."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        """Stand before `app`."""
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and count it once its answer has begun."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, started = 500, time.perf_counter()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            # Paths are the client's to invent, and each would become a row.
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - started)
