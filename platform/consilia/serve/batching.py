"""Images that come within a few milliseconds are predicted together; files are read in other threads."""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from starlette.exceptions import HTTPException

PAUSE = 0.004  # seconds in which images may join the first of a batch
PATIENCE = 0.1  # of the last batch's time: how long images that are being read are waited for beyond the pause
MOST = 64  # images after which a batch takes no further request
PREDICTING, READING = "consilia-predict", "consilia-read"  # names of threads

Image = TypeVar("Image")
Result = TypeVar("Result")
Other = TypeVar("Other")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Job(Generic[Image]):
    images: Sequence[Image]
    answer: asyncio.Future[Any]  # of a list of results


class Batcher(Generic[Image, Result]):
    """Predicts the images of many requests; used from one event loop, between `start` and `stop`."""

    def __init__(
        self,
        predict: Callable[[list[Image]], list[Result]],
        *,
        claim: Callable[[bool], None],
        most_waiting: int,
        n_predictors: int,
        n_readers: int,
    ) -> None:
        """Start nothing yet.

        Args:
            predict: Returns the results of images, in order.
            claim: Called in a thread before it predicts, draws or first reads, and told whether it may have all of the
                machine: it reads, or nothing else waits. Otherwise it shares with the other threads that predict.
            most_waiting: Images that may have a place at once; what comes on top is refused.
            n_predictors: Threads that predict, each a batch of its own.
            n_readers: Threads of `read`.
        """
        self._predict, self._claim = predict, claim
        self._most_waiting, self._n_predictors = most_waiting, n_predictors
        self._predictors = ThreadPoolExecutor(n_predictors, thread_name_prefix=PREDICTING)
        self._readers = ThreadPoolExecutor(n_readers, thread_name_prefix=READING, initializer=claim, initargs=(True,))
        self._queue: asyncio.Queue[_Job[Image]] = asyncio.Queue()
        self._collecting = asyncio.Lock()
        self._answers: set[asyncio.Future[Any]] = set()  # that somebody waits for
        self._tasks: list[asyncio.Task[None]] = []
        self._is_stopping = False
        self._last_seconds = 0.0  # that the last batch took
        self.n_waiting = 0  # images that have a place

    def start(self) -> None:
        """Begin to predict, in tasks of the running event loop."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._run()) for _ in range(self._n_predictors)]

    def stop(self) -> None:
        """Refuse what waits and what comes; a batch under way goes on in its thread, and nobody waits for it."""
        self._is_stopping = True
        for answer in self._answers:
            if not answer.done():
                answer.set_exception(_stopping())
        for task in self._tasks:
            task.cancel()
        for pool in (self._predictors, self._readers):
            pool.shutdown(wait=False, cancel_futures=True)

    @contextmanager
    def place(self, n_images: int) -> Iterator[None]:
        """Hold places for images while they are read and predicted.

        Raises:
            HTTPException: 503, with Retry-After: there is no room, or the server stops.
        """
        if self._is_stopping:
            raise _stopping()
        if self.n_waiting + n_images > self._most_waiting:
            raise HTTPException(
                503,
                f"{self.n_waiting} images wait already, and at most {self._most_waiting} may. Send yours again later.",
                headers={"Retry-After": "1"},
            )
        self.n_waiting += n_images
        try:
            yield
        finally:
            self.n_waiting -= n_images

    async def read(self, work: Callable[[], Other]) -> Other:
        """Return what `work` returns in a thread that reads files, beside those that predict.

        Raises:
            HTTPException: 503: the server stops; and whatever `work` raises.
        """
        return await self._in_pool(self._readers, work)

    async def alone(self, work: Callable[[], Other]) -> Other:
        """Return what `work` returns in a thread that predicts, between two batches; raises as `read`."""
        return await self._in_pool(self._predictors, self._claiming(1, work))

    async def predict(self, images: Sequence[Image]) -> list[Result]:
        """Return the results of images, in order.

        Raises:
            HTTPException: 503: the server stops; and whatever the predictor raises at them.
        """
        with self._awaited() as answer:
            self._queue.put_nowait(_Job(images, answer))
            results: list[Result] = await answer
            return results

    def _claiming(self, n_images: int, work: Callable[[], Other]) -> Callable[[], Other]:
        """Return `work` on images, in a thread that claims its part of the machine first."""
        has_all = n_images >= self.n_waiting

        def claimed() -> Other:
            self._claim(has_all)
            return work()

        return claimed

    async def _in_pool(self, pool: ThreadPoolExecutor, work: Callable[[], Other]) -> Other:
        with self._awaited() as refused:
            working = asyncio.get_running_loop().run_in_executor(pool, work)
            await asyncio.wait({working, refused}, return_when=asyncio.FIRST_COMPLETED)
            return await (refused if refused.done() else working)

    @contextmanager
    def _awaited(self) -> Iterator[asyncio.Future[Any]]:
        """Yield a future that fails when the server stops."""
        if self._is_stopping:
            raise _stopping()
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._answers.add(answer)
        try:
            yield answer
        finally:
            self._answers.discard(answer)

    async def _run(self) -> None:
        while True:
            async with self._collecting:  # one has its share, and begins, before two have halves of it
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

    async def _collect(self) -> list[_Job[Image]]:
        """Return the jobs of the next batch.

        Clients that were answered together come again together, and networks take a third less time for each image of a
        batch of 32 than of 8: what has come and is still being read is worth a short wait. But a batch takes no more
        than its thread's share of what waits, so that the others have as much to do.
        """
        jobs = [await self._queue.get()]
        deadline = time.monotonic() + PATIENCE * self._last_seconds
        while True:
            await asyncio.sleep(PAUSE)
            share = min(MOST, math.ceil(self.n_waiting / self._n_predictors))
            while (n_images := sum(len(job.images) for job in jobs)) < share and not self._queue.empty():
                jobs.append(self._queue.get_nowait())
            if n_images >= share or time.monotonic() >= deadline:
                return jobs

    async def _predict_together(self, jobs: Sequence[_Job[Image]]) -> list[Result]:
        images, started = [image for job in jobs for image in job.images], time.monotonic()
        work = self._claiming(len(images), partial(self._predict, images))
        results = await asyncio.get_running_loop().run_in_executor(self._predictors, work)
        self._last_seconds = time.monotonic() - started
        if len(results) != len(images):
            raise RuntimeError(f"the predictor must return {len(images)} results, but returned {len(results)}")
        return results


def wait_for_threads(name: str, seconds: float) -> bool:
    """Wait for threads of batchers that have stopped, `PREDICTING` or `READING`; say whether they end in time."""
    deadline = time.monotonic() + seconds
    threads = [thread for thread in threading.enumerate() if thread.name.startswith(name)]
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)


def _divide(results: Sequence[Result], jobs: Sequence[_Job[Image]]) -> None:
    """Give each job its own results."""
    start = 0
    for job in jobs:
        if not job.answer.done():  # its client may have gone
            job.answer.set_result(results[start : start + len(job.images)])
        start += len(job.images)


def _stopping() -> HTTPException:
    return HTTPException(503, "The server is stopping.", headers={"Retry-After": "10"})
