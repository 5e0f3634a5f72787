"""Between the trials that Tune runs and the workers that train them: one broker for all of a search.

Tasks go in, reports come out, and a stop is a future that resolves. Files come to the driver's disk through it, since
it runs on the driver's node. The broker is a Ray actor, so its calls stand in the dashboard's task table: `trial` and
`fold` are long calls that a worker makes under a readable name and holds while it trains. Nothing here needs Ray.
"""

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from consilia.config.records import EpochReport, TaskTaken, TrialOutcome, TrialTask
from consilia.tune.driver_disk import LocalDisk

StopCause = Literal["stopped", "over", "closed", "ended"]
"""Why a worker leaves a trial.

stopped: it was withdrawn; over: and nobody will go on with it; closed: another worker will; ended: it came to its end.
"""


class TrialFailedError(Exception):
    """Ends a trial's row in the dashboard as FAILED, with the reason as its message."""


@dataclass(frozen=True, slots=True)
class BrokerLost:
    """The broker has died; what it knew of the trial went with it, and the trial is to be handed out again."""

    reason: str = "its broker is gone"


_MAX_LOSSES = 4  # a trial that takes this many processes down within one epoch is at fault itself

Message = TaskTaken | EpochReport | TrialOutcome | BrokerLost


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a worker needs beside the task; the same for all trials of a search, or for all its refits."""

    program: Any  # a Program; in the broker, where it would import torch, a reference to it in Ray's object store
    n_folds: int  # named in the dashboard; 0 of a refit, which has none
    noun: str = "trial"  # what a task is called there


class WorkerId(NamedTuple):
    """A place for a worker process; a process that dies is replaced by another in the same place."""

    group: str
    rank: int

    @property
    def node(self) -> str:
        """Name of the node that has the group; a group's name starts with it."""
        return self.group.partition("#")[0]


class Taken(NamedTuple):
    """What a worker is to do."""

    task: TrialTask
    job: Job
    ticket: str  # shown with all that the worker says of the task: another may have it by then


class Counts(NamedTuple):
    """Tasks that wait or are under way."""

    ordinary: int
    exclusive: int


@dataclass(eq=False, slots=True)
class _Assignment:
    """One task on its way through the broker; `released` ends the worker's long calls."""

    task: TrialTask
    job: Job
    key: str
    messages: "asyncio.Queue[Message]" = field(default_factory=asyncio.Queue)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    cause: StopCause = "ended"
    failure: str = ""
    attempts: int = 0
    losses: int = 0  # of workers since the last new epoch
    loss: str = ""  # why the last one was lost, where that is known
    ticket: str = ""  # of the worker that has it
    refused_by: set[str] = field(default_factory=set)  # nodes
    done: bool = False
    last_heard: tuple[int, int] = (-1, -1)  # (fold, epoch)
    last_sign: float = 0.0  # of its worker's life
    finished_folds: set[int] = field(default_factory=set)


@dataclass(eq=False, slots=True)
class _Worker:
    """A worker process that has asked for tasks."""

    handle: Any
    node: str
    exclusive: bool
    holds: _Assignment | None = None  # until it asks for the next task


class Broker:
    """Hands each task to one worker at a time; a task whose worker is lost goes to another.

    Args:
        clock: Returns seconds and never jumps.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._disk = LocalDisk()
        self._assignments: dict[int, _Assignment] = {}
        self._waiting: deque[_Assignment] = deque()
        self._workers: dict[WorkerId, _Worker] = {}
        self._closed: set[str] = set()  # groups
        self._refusals: dict[WorkerId, str] = {}  # why a worker takes no more tasks
        self._changed = asyncio.Condition()

    async def assign(self, task: TrialTask, job: Job, key: str = "") -> None:
        """Offer a task to the workers; an earlier assignment of the same trial is withdrawn.

        Args:
            task: Of the trial.
            job: What it has in common with others.
            key: Of this assignment, to withdraw it and no later one of the same trial.
        """
        async with self._changed:
            self._withdraw(task.number)
            self._assignments[task.number] = assignment = _Assignment(task, job, key)
            self._waiting.append(assignment)
            self._changed.notify_all()

    async def withdraw(self, number: int, key: str = "", *, is_over: bool = False) -> None:
        """Let the worker that trains this trial leave it, at its checkpoint; a trial that has ended is forgotten.

        Args:
            number: Of the trial.
            key: Of the assignment.
            is_over: Nobody will go on with it: no checkpoint of it is needed.
        """
        async with self._changed:
            assignment = self._assignments.get(number)
            if assignment is not None and assignment.key == key:
                self._withdraw(number, "over" if is_over else "stopped")

    async def next_message(self, number: int) -> Message:
        """Wait for what is next to be known of this trial."""
        assignment = self._assignments.get(number)
        return BrokerLost() if assignment is None else await assignment.messages.get()

    async def disk(self, method: str, *arguments: Any, **named: Any) -> Any:
        """Read or write on this node's disk, as of `driver_disk.Disk`; return an error of the disk."""
        try:
            return await asyncio.to_thread(getattr(self._disk, method), *arguments, **named)
        except OSError as error:
            return error

    async def busy(self) -> int:
        """Return how many workers have a task in hand, be it one that they were told to leave."""
        return sum(worker.holds is not None for worker in self._workers.values())

    async def close(self, groups: Collection[str]) -> None:
        """Tell the workers of these groups to return; tasks under way keep their checkpoints and go to other groups."""
        async with self._changed:
            self._closed.update(groups)
            for each, worker in self._workers.items():
                if each.group in groups and worker.holds is not None and not worker.holds.done:
                    worker.holds.attempts -= 1  # no worker is lost
                    self._queue_again(worker.holds)  # nobody gets it before this worker has let go of it
            self._changed.notify_all()

    async def counts(self) -> Counts:
        """Return how many tasks wait or are under way."""
        open_ = [each.task.exclusive for each in self._assignments.values() if not each.done]
        return Counts(ordinary=open_.count(False), exclusive=open_.count(True))

    async def workers(self, groups: Collection[str]) -> dict[WorkerId, Any]:
        """Return the handles of the worker processes of these groups that have asked for a task."""
        return {each: worker.handle for each, worker in self._workers.items() if each.group in groups}

    async def hung(self, seconds: float) -> list[Any]:
        """Return the handles of workers that have a task and have shown no sign of life for so long.

        They are to be ended; the reason is noted with their tasks.
        """
        now = self._clock()
        handles = []
        for worker in self._workers.values():
            gap = now - worker.holds.last_sign if worker.holds is not None else 0.0
            if worker.holds is not None and gap > seconds:
                worker.holds.loss = f"it showed no sign of life for {gap:.0f} s"
                worker.holds.last_sign = now
                handles.append(worker.handle)
        return handles

    async def refuse(self, worker: WorkerId, taken: Taken, reason: str, *, is_last: bool) -> None:
        """Give a task to another worker, since this one's node cannot train: that counts against no trial.

        A task that workers of two nodes refuse is at fault itself.

        Args:
            worker: Who refuses.
            taken: What it was given.
            reason: Why, for people.
            is_last: The worker asks for no more tasks.
        """
        number = taken.task.number
        async with self._changed:
            if is_last:
                self._refusals[worker] = reason
            assignment = self._held(number, taken.ticket)
            forgotten = self._workers.pop(worker, None)
            if assignment is None:
                return
            assignment.refused_by.add(worker.node if forgotten is None else forgotten.node)
            if len(assignment.refused_by) > 1:
                reason = f"it fails on two nodes, {' and '.join(sorted(assignment.refused_by))}: {reason}"
                self._end(assignment, TrialOutcome(number=number, state="failed", reason=reason))
            else:
                assignment.attempts -= 1
                self._queue_again(assignment)
            self._changed.notify_all()

    async def refusals(self) -> dict[WorkerId, str]:
        """Return which workers take no more tasks, and why."""
        return dict(self._refusals)

    async def lose_worker(self, worker: WorkerId, reason: str = "") -> None:
        """Note that a worker process is dead: it counts against the trial that it had."""
        async with self._changed:
            self._give_up(worker, reason)
            self._changed.notify_all()

    async def lose_group(self, group: str) -> None:
        """Note that no worker of this group is left, which counts against no trial."""
        async with self._changed:
            for worker in [worker for worker in self._workers if worker.group == group]:
                self._give_up(worker, counts=False)
            self._changed.notify_all()

    async def take(self, worker: WorkerId, handle: Any, *, node: str = "", exclusive: bool = False) -> Taken | None:
        """Wait for a task; None when the worker's group is to end.

        Args:
            worker: Who asks. A worker that asks has let go of the task it had.
            handle: Of its actor.
            node: Where it runs; left out, the one that its group is named after.
            exclusive: Whether it shares its device with no other, as exclusive tasks want it.
        """
        async with self._changed:
            self._give_up(worker)  # had it not ended the task that it had, its process was lost
            self._workers[worker] = me = _Worker(handle, node or worker.node, exclusive)
            self._changed.notify_all()  # the task that it had may wait for it to let go
            await self._changed.wait_for(lambda: self._is_over(worker, me) or self._next_task(me) is not None)
            if self._is_over(worker, me):
                if self._workers.get(worker) is me:
                    del self._workers[worker]
                return None
            assignment = self._next_task(me)
            assert assignment is not None, "just seen, with the lock held"
            self._waiting.remove(assignment)
            me.holds = assignment
            assignment.attempts += 1
            assignment.last_sign = self._clock()
            number, reason = assignment.task.number, assignment.loss
            assignment.loss, assignment.ticket = "", uuid.uuid4().hex
            await assignment.messages.put(TaskTaken(number=number, attempt=assignment.attempts, reason=reason))
            return Taken(assignment.task, assignment.job, assignment.ticket)

    async def alive(self, number: int, ticket: str) -> None:
        """Record a sign of life from the worker that trains this trial."""
        assignment = self._held(number, ticket)
        if assignment is not None:
            assignment.last_sign = self._clock()

    async def trial(self, number: int, ticket: str) -> StopCause:
        """Return when the worker must leave this trial, or when it has ended.

        Raises:
            TrialFailedError: The trial failed; the dashboard shows the row as FAILED with this reason.
        """
        return await self._hold(number, ticket, fold=None)

    async def fold(self, number: int, ticket: str, fold: int) -> StopCause:
        """Return when this fold has ended, or when the worker must leave its trial.

        Raises:
            TrialFailedError: The trial failed in this fold.
        """
        return await self._hold(number, ticket, fold=fold)

    async def report(self, report: EpochReport, ticket: str) -> None:
        """Pass an epoch on, once: a worker that resumes at a checkpoint repeats earlier reports."""
        assignment = self._held(report.number, ticket)
        if assignment is None:
            return
        assignment.last_sign = self._clock()
        async with self._changed:
            if (report.fold, report.epoch) > assignment.last_heard:
                assignment.last_heard = (report.fold, report.epoch)
                assignment.losses = 0
                await assignment.messages.put(report)
            elif report.note:
                await assignment.messages.put(replace(report, is_repeat=True))
            if report.fold_result is not None:
                assignment.finished_folds.add(report.fold)
            self._changed.notify_all()

    async def finish(self, outcome: TrialOutcome, ticket: str) -> None:
        """End a task with its outcome; one that its worker left unasked goes to another."""
        assignment = self._held(outcome.number, ticket)
        if assignment is None:
            return
        async with self._changed:
            if outcome.state == "stopped":  # the worker took the broker for dead
                self._queue_again(assignment)
            else:
                self._end(assignment, outcome)
            self._changed.notify_all()

    async def _hold(self, number: int, ticket: str, *, fold: int | None) -> StopCause:
        assignment = self._held(number, ticket)
        if assignment is None:
            return "stopped"
        if fold is None:
            await assignment.released.wait()
        else:
            async with self._changed:
                await self._changed.wait_for(lambda: assignment.done or fold in assignment.finished_folds)
        if assignment.failure:
            raise TrialFailedError(assignment.failure)
        return assignment.cause

    def _held(self, number: int, ticket: str) -> _Assignment | None:
        """Return the assignment that this ticket is for, None once another worker may have it, or it has ended."""
        assignment = self._assignments.get(number)
        return assignment if assignment is not None and not assignment.done and assignment.ticket == ticket else None

    def _next_task(self, me: _Worker) -> _Assignment | None:
        """Return the first task for this worker.

        That is none that a worker told to leave still has in hand, and none that this node has refused while there are
        others.
        """
        held = {each.holds.task.number for each in self._workers.values() if each.holds is not None}
        has_others = any(each.node != me.node for each in self._workers.values())
        for assignment in self._waiting:
            refused = has_others and me.node in assignment.refused_by
            if assignment.task.exclusive == me.exclusive and assignment.task.number not in held and not refused:
                return assignment
        return None

    def _is_over(self, worker: WorkerId, me: _Worker) -> bool:
        """Say whether this worker is to end, or is known to be dead and its call left behind."""
        return worker.group in self._closed or self._workers.get(worker) is not me

    def _give_up(self, worker: WorkerId, reason: str = "", *, counts: bool = True) -> None:
        """Forget a worker, and queue what it had, unless that has cost too many workers already."""
        forgotten = self._workers.pop(worker, None)
        assignment = forgotten.holds if forgotten is not None else None
        if assignment is None or assignment.done:
            return
        assignment.loss = assignment.loss or reason
        assignment.losses += counts
        if assignment.losses == _MAX_LOSSES:
            self._end(assignment, _worn_out(assignment))
            return
        self._queue_again(assignment)

    def _queue_again(self, assignment: _Assignment) -> None:
        """Put a task first in the queue for another worker; whoever has it is told to leave."""
        again = replace(assignment, released=asyncio.Event(), ticket="")
        self._release(assignment, "closed")
        self._assignments[assignment.task.number] = again
        self._waiting.appendleft(again)

    def _withdraw(self, number: int, cause: StopCause = "stopped") -> None:
        assignment = self._assignments.pop(number, None)
        if assignment is not None:
            self._release(assignment, cause)
            assignment.messages.put_nowait(BrokerLost("it was withdrawn"))  # whoever still waits for a message
            self._changed.notify_all()

    def _end(self, assignment: _Assignment, outcome: TrialOutcome) -> None:
        assignment.failure = outcome.reason if outcome.state == "failed" else ""
        self._release(assignment, "ended")
        assignment.messages.put_nowait(outcome)

    def _release(self, assignment: _Assignment, cause: StopCause) -> None:
        if assignment in self._waiting:
            self._waiting.remove(assignment)
        if not assignment.done:
            assignment.done = True
            assignment.cause = cause
            assignment.last_sign = self._clock()  # its worker has to let go of it from now on
            assignment.released.set()


def _worn_out(assignment: _Assignment) -> TrialOutcome:
    reason = f"its worker process died {_MAX_LOSSES} times without finishing an epoch"
    if assignment.loss:
        reason += f", the last time because {assignment.loss}"
    return TrialOutcome(number=assignment.task.number, state="failed", reason=reason)
