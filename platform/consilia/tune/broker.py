"""Between one slot and its workers: tasks go in, reports come out, and a stop is a future that resolves.

The broker is a Ray actor, so its calls stand in the dashboard's task table: `trial` and `fold` are long calls that a
worker makes under a readable name and holds while it trains. Nothing here needs Ray itself.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from consilia.config.records import EpochReport, TaskTaken, TrialOutcome, TrialTask

StopCause = Literal["stopped", "closed", "ended"]


class TrialFailedError(Exception):
    """Ends a trial's row in the dashboard as FAILED, with the reason as its message."""


@dataclass(frozen=True, slots=True)
class WorkersLost:
    """The slot can no longer be used; its trial must go on in another."""

    reason: str
    is_fault: bool = True  # False: the cluster had no room for workers


_MAX_ATTEMPTS = 4  # a trial that takes this many processes down within one epoch is at fault itself

Message = TaskTaken | EpochReport | TrialOutcome | WorkersLost


@dataclass(slots=True)
class _Assignment:
    """One task on its way through the broker; `released` ends the worker's long calls."""

    task: TrialTask
    released: asyncio.Event = field(default_factory=asyncio.Event)
    cause: StopCause = "ended"
    failure: str = ""
    attempts: int = 0
    fruitless: int = 0  # attempts since the last new epoch
    loss: str = ""  # why the last worker was lost, where that is known
    watched: bool = False  # a worker has it that was not given up
    done: bool = False
    last_heard: tuple[int, int] = (-1, -1)  # (fold, epoch)
    finished_folds: set[int] = field(default_factory=set)


class Broker:
    """Hands one task at a time to whichever worker asks; a worker that asks again gets the same task again.

    Args:
        clock: Returns seconds and never jumps.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._current: _Assignment | None = None
        self._changed = asyncio.Condition()
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._closed = False
        self._clock = clock
        self._last_sign = self._last_given_up = clock()
        self._workers: dict[int, Any] = {}  # handles by rank
        self._lost: WorkersLost | None = None  # once no worker will come back

    async def assign(self, task: TrialTask) -> None:
        """Stop the current task, if one is under way, and offer `task` to the workers."""
        async with self._changed:
            self._release("stopped")
            self._messages = asyncio.Queue()  # nobody needs what the previous task still says
            if self._lost is not None:
                await self._messages.put(self._lost)
            self._current = _Assignment(task)
            self._last_given_up = self._clock()
            self._changed.notify_all()

    async def close(self) -> None:
        """Tell the workers to return; the task under way keeps its checkpoint."""
        async with self._changed:
            self._closed = True
            self._release("closed")
            self._changed.notify_all()

    async def next_message(self) -> Message:
        """Wait for the next report, outcome or loss."""
        return await self._messages.get()

    async def lose_workers(self, reason: str) -> None:
        """Say that no worker will come back, to the present task and to every later one."""
        self._lost = WorkersLost(reason)
        await self._messages.put(self._lost)

    async def join(self, rank: int, worker: Any) -> None:
        """Record the handle of a worker process, so that one that hangs can be ended."""
        self._workers[rank] = worker

    async def workers(self) -> list[Any]:
        """Return the handles of the present worker processes."""
        return list(self._workers.values())

    async def take(self) -> TrialTask | None:
        """Wait for a task that is not done; None when the slot closes."""
        async with self._changed:
            while True:
                await self._changed.wait_for(self._has_something_to_say)
                current = self._current
                if self._closed or current is None:
                    return None
                current.attempts += 1
                current.fruitless += 1
                current.watched = True
                self._last_sign = self._clock()
                if current.fruitless <= _MAX_ATTEMPTS:
                    taken = TaskTaken(number=current.task.number, attempt=current.attempts, reason=current.loss)
                    await self._messages.put(taken)
                    return current.task
                await self._end(_worn_out(current))

    async def alive(self) -> None:
        """Record a sign of life from the worker."""
        self._hear_of_worker()

    async def untaken(self) -> tuple[float, bool]:
        """Return for how many seconds the current task has waited for a worker, and whether one has had it before.

        It is 0 while a worker has the task, or there is none.
        """
        current = self._current
        if current is None or current.done or current.watched:
            return 0.0, False
        return self._clock() - self._last_given_up, current.attempts > 0

    async def silent_seconds(self) -> float:
        """Return for how long a worker has shown no sign of life; 0 while none has the task."""
        current = self._current
        if current is None or current.done or not current.watched:
            return 0.0
        return self._clock() - self._last_sign

    async def blame(self, reason: str) -> None:
        """Give up the present worker and remember why; its successor will be watched again."""
        if self._current is not None:
            self._current.loss = reason
            self._current.watched = False
            self._last_given_up = self._clock()

    async def trial(self, number: int) -> StopCause:
        """Return when the worker must leave this trial, or when it has ended.

        Raises:
            TrialFailedError: The trial failed; the dashboard shows the row as FAILED with this reason.
        """
        return await self._hold(number, fold=None)

    async def fold(self, number: int, fold: int) -> StopCause:
        """Return when this fold has ended, or when the worker must leave its trial.

        Raises:
            TrialFailedError: The trial failed in this fold.
        """
        return await self._hold(number, fold=fold)

    async def report(self, report: EpochReport) -> None:
        """Pass an epoch on, once: a worker that resumes at a checkpoint repeats earlier reports."""
        self._hear_of_worker()
        current = self._current
        if current is None or current.task.number != report.number:
            return
        async with self._changed:
            if (report.fold, report.epoch) > current.last_heard:
                current.last_heard = (report.fold, report.epoch)
                current.fruitless = 0
                await self._messages.put(report)
            elif report.note:
                await self._messages.put(replace(report, is_repeat=True))
            if report.fold_result is not None:
                current.finished_folds.add(report.fold)
            self._changed.notify_all()

    async def finish(self, outcome: TrialOutcome) -> None:
        """End the current task with its outcome.

        A worker only says "stopped" where it was told to stop: here it means an earlier assignment of the same trial.
        """
        current = self._current
        if current is None or current.task.number != outcome.number or current.done or outcome.state == "stopped":
            return
        async with self._changed:
            await self._end(outcome)
            self._changed.notify_all()

    def _hear_of_worker(self) -> None:
        self._last_sign = self._clock()
        if self._current is not None:
            self._current.watched = True  # whoever was given up too early is there again

    async def _hold(self, number: int, *, fold: int | None) -> StopCause:
        current = self._current
        if current is None or current.task.number != number:
            return "stopped"
        if fold is None:
            await current.released.wait()
        else:
            async with self._changed:
                await self._changed.wait_for(lambda: current.done or fold in current.finished_folds)
        if current.failure:
            raise TrialFailedError(current.failure)
        return current.cause

    async def _end(self, outcome: TrialOutcome) -> None:
        assert self._current is not None, "only a current task ends"
        self._current.failure = outcome.reason if outcome.state == "failed" else ""
        self._release("ended")
        await self._messages.put(outcome)

    def _release(self, cause: StopCause) -> None:
        if self._current is not None and not self._current.done:
            self._current.done = True
            self._current.cause = cause
            self._current.released.set()

    def _has_something_to_say(self) -> bool:
        return self._closed or (self._current is not None and not self._current.done)


def _worn_out(assignment: _Assignment) -> TrialOutcome:
    reason = f"its worker process died {_MAX_ATTEMPTS} times without finishing an epoch"
    if assignment.loss:
        reason += f", the last time because {assignment.loss}"
    return TrialOutcome(number=assignment.task.number, state="failed", reason=reason)
