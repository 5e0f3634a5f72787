"""Between one slot and its workers: tasks go in, reports come out, and a stop is a future that resolves.

The mailbox is a Ray actor, so its calls stand in the dashboard's task table: `trial` and `fold` are long calls that a
worker makes under a readable name and holds while it trains. Nothing here needs Ray itself.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Literal

from consilia.records import EpochReport, TrialOutcome, TrialTask

StopCause = Literal["stopped", "closed", "ended"]


class TrialFailedError(Exception):
    """Ends a trial's row in the dashboard as FAILED, with the reason as its message."""


@dataclass(frozen=True, slots=True)
class WorkersLost:
    """The worker group ended for good; the slot must be restarted."""

    reason: str


_MAX_ATTEMPTS = 4  # a trial that takes its process down this often is at fault itself

Message = EpochReport | TrialOutcome | WorkersLost


@dataclass(slots=True)
class _Assignment:
    """One task on its way through the mailbox; `released` ends the worker's long calls."""

    task: TrialTask
    released: asyncio.Event = field(default_factory=asyncio.Event)
    cause: StopCause = "ended"
    failure: str = ""
    attempts: int = 0
    done: bool = False
    last_heard: tuple[int, int] = (-1, -1)  # (fold, epoch)
    finished_folds: set[int] = field(default_factory=set)


class Mailbox:
    """One task at a time, taken by whichever worker asks; a worker that asks again takes the same task up again."""

    def __init__(self) -> None:
        self._current: _Assignment | None = None
        self._changed = asyncio.Condition()
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._closed = False

    async def assign(self, task: TrialTask) -> None:
        """Stop the current task, if one is under way, and offer `task` to the workers."""
        async with self._changed:
            self._release("stopped")
            self._messages = asyncio.Queue()  # what the previous task still says is of no interest
            self._current = _Assignment(task)
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
        """Say that no worker will come back."""
        await self._messages.put(WorkersLost(reason))

    async def take(self) -> TrialTask | None:
        """Wait for a task that is not done; None when the slot closes."""
        async with self._changed:
            while True:
                await self._changed.wait_for(self._has_something_to_say)
                if self._closed or self._current is None:
                    return None
                self._current.attempts += 1
                if self._current.attempts <= _MAX_ATTEMPTS:
                    return self._current.task
                await self._end(_worn_out(self._current.task))

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
        """Pass an epoch on, once: a worker that resumes at a checkpoint repeats what it had said."""
        current = self._current
        if current is None or current.task.number != report.number:
            return
        async with self._changed:
            if (report.fold, report.epoch) > current.last_heard:
                current.last_heard = (report.fold, report.epoch)
                await self._messages.put(report)
            if report.fold_result is not None:
                current.finished_folds.add(report.fold)
            self._changed.notify_all()

    async def finish(self, outcome: TrialOutcome) -> None:
        """End the current task with its outcome."""
        current = self._current
        if current is None or current.task.number != outcome.number or current.done:
            return
        async with self._changed:
            await self._end(outcome)
            self._changed.notify_all()

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


def _worn_out(task: TrialTask) -> TrialOutcome:
    reason = f"its worker process died {_MAX_ATTEMPTS} times"
    return TrialOutcome(number=task.number, state="failed", reason=reason)
