"""Requests that come within a few milliseconds are predicted together, in one thread: networks are not asked twice."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from starlette.exceptions import HTTPException

PAUSE = 0.004  # seconds that an idle predictor waits for more requests to join the first
MOST = 64  # images after which a batch takes no further request
_THREAD = "consilia-predict"

Result = TypeVar("Result")
Other = TypeVar("Other")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    paths: Sequence[Path]
    n_images: int
    answer: asyncio.Future[Any]  # of a list of results


class Batcher(Generic[Result]):
    """Predicts the files of many requests; used from one event loop, between `start` and `stop`."""

    def __init__(self, predict: Callable[[list[Path]], list[Result]], *, most_waiting: int) -> None:
        """Start nothing yet.

        Args:
            predict: Returns the results of files, in order; it is called in one thread.
            most_waiting: Images that may wait or be predicted at once; what comes on top is refused.
        """
        self._predict, self._most_waiting = predict, most_waiting
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=_THREAD)
        self._queue: asyncio.Queue[_Job] = asyncio.Queue()
        self._answers: set[asyncio.Future[Any]] = set()  # that somebody waits for
        self._task: asyncio.Task[None] | None = None
        self._is_stopping = False
        self.n_waiting = 0  # images of requests that have no answer yet

    def start(self) -> None:
        """Begin to predict, in a task of the running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        """Refuse what waits and what comes; a batch under way goes on in its thread, and nobody waits for it."""
        self._is_stopping = True
        for answer in self._answers:
            if not answer.done():
                answer.set_exception(_stopping())
        if self._task is not None:
            self._task.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def admit(self, n_images: int) -> None:
        """Refuse images that there is no room for.

        Raises:
            HTTPException: 503, with Retry-After.
        """
        if self._is_stopping:
            raise _stopping()
        if self.n_waiting + n_images > self._most_waiting:
            raise HTTPException(
                503,
                f"{self.n_waiting} images wait already, and at most {self._most_waiting} may. Send yours again later.",
                headers={"Retry-After": "1"},
            )

    async def predict(self, paths: Sequence[Path], n_images: int) -> list[Result]:
        """Return the results of a request's files, `n_images` of them, in order.

        Raises:
            HTTPException: 503: too many images wait, or the server stops.
        """
        with self._place(n_images) as answer:
            self._queue.put_nowait(_Job(paths, n_images, answer))
            results: list[Result] = await answer
            return results

    async def alone(self, work: Callable[[], Other]) -> Other:
        """Return what `work` returns in the same thread, between two batches; it counts as one image.

        Raises:
            HTTPException: As of `predict`; and whatever `work` raises.
        """
        with self._place(1) as refused:
            working = asyncio.get_running_loop().run_in_executor(self._thread, work)
            await asyncio.wait({working, refused}, return_when=asyncio.FIRST_COMPLETED)
            return await (refused if refused.done() else working)

    @contextmanager
    def _place(self, n_images: int) -> Iterator[asyncio.Future[Any]]:
        """Hold a place for images while their answer is awaited."""
        self.admit(n_images)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.n_waiting += n_images
        self._answers.add(answer)
        try:
            yield answer
        finally:
            self._answers.discard(answer)
            self.n_waiting -= n_images

    async def _run(self) -> None:
        while True:
            jobs = await self._collect()
            try:
                results = await self._predict_together(jobs)
            except Exception as error:
                _log.exception("%d requests failed together", len(jobs))
                for job in jobs:
                    if not job.answer.done():
                        job.answer.set_exception(error)
            else:
                _divide(results, jobs)

    async def _collect(self) -> list[_Job]:
        """Return the jobs of the next batch."""
        was_idle = self._queue.empty()
        jobs = [await self._queue.get()]
        if was_idle:  # otherwise they have waited for the batch before them
            await asyncio.sleep(PAUSE)
        while sum(job.n_images for job in jobs) < MOST and not self._queue.empty():
            jobs.append(self._queue.get_nowait())
        return jobs

    async def _predict_together(self, jobs: Sequence[_Job]) -> list[Result]:
        paths = [path for job in jobs for path in job.paths]
        results = await asyncio.get_running_loop().run_in_executor(self._thread, self._predict, paths)
        if len(results) != (expected := sum(job.n_images for job in jobs)):
            raise RuntimeError(f"the predictor must return {expected} results, but returned {len(results)}")
        return results


def wait_for_threads(seconds: float) -> bool:
    """Wait until no batcher that has stopped computes any more; say whether that is so in time."""
    deadline = time.monotonic() + seconds
    threads = [thread for thread in threading.enumerate() if thread.name.startswith(_THREAD)]
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)


def _divide(results: Sequence[Result], jobs: Sequence[_Job]) -> None:
    """Give each job its own results."""
    start = 0
    for job in jobs:
        if not job.answer.done():  # its client may have gone
            job.answer.set_result(results[start : start + job.n_images])
        start += job.n_images


def _stopping() -> HTTPException:
    return HTTPException(503, "The server is stopping.", headers={"Retry-After": "10"})
