"""The train function of a worker group: it runs on every Ray Train worker for the life of the group.

torch and timm are imported by the workers alone: who starts a group imports this module too.
"""

import contextlib
import gc
import logging
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import ray

from consilia.config.records import EpochReport, TrialOutcome, TrialTask
from consilia.errors import ConsiliaError, NodeFault
from consilia.tune.broker import StopCause, Taken, WorkerId

if TYPE_CHECKING:
    from consilia.train.distributed import Group

logger = logging.getLogger(__name__)

RunTrial = Callable[..., TrialOutcome]
"""Trains one trial: (task, *, report, stopped) -> outcome.

`stopped` is polled between batches, and returns why the worker must leave the trial, or None.

Where several workers train one trial together it is also given their `group`, and all of them call it.
"""

Prove = Callable[[Callable[[], object]], None]
"""Called before the first task, and after errors; raises NodeFault where no trial can run.

It is given what it is to call again and again, lest its worker be taken for hung.
"""


class Program(NamedTuple):
    """What workers do with the tasks of a job."""

    run: RunTrial
    prove: Prove | None = None


TASK_EVENTS_MILLISECONDS = 200  # how often a worker tells the dashboard of its rows; Ray's default is 1000

_ASK_SECONDS = 0.05  # between two looks whether the trial is to be left, which go through Ray
_SIGN_SECONDS = 5.0  # between two signs of life; far below any sensible cluster.hang_seconds

_WAIT_SECONDS = 7 * 24 * 3600.0  # workers that train together wait for a task; one that died is noticed at once

_BROKER_SECONDS = 0.5  # between two questions whether a broker that died has been started again

_REFUSALS = 2  # tasks that a worker gives back, since its node cannot train; then it takes no more
_RECOVERY_SECONDS = 5.0  # for a disk that was gone for a moment

_LEAK_BYTES = 64 * 2**20  # that a process may hold beyond what it held after its first trial


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupWork:
    """What every worker of a group is told when it starts."""

    broker: Any
    group: str
    n_threads: int  # a worker's share of the cores
    gpus: float = 0.0  # and of a GPU, or how many
    together: bool = False  # they train each trial together, and not each its own
    exclusive: bool = False  # each has its device alone


def serve(config: dict[str, GroupWork]) -> None:
    """Take a task, train it, take the next, until the group is closed."""
    try:
        _serve(config["work"])
    except ray.exceptions.ActorDiedError:
        # Ray Train would start one worker after the other for a search that is gone.
        logger.warning("the broker is gone: this worker ends")


def _serve(work: GroupWork) -> None:
    from consilia.train import cross_validation  # noqa: F401 # imports all that a trial needs, before one is there
    from consilia.train.device import limit_memory, set_threads
    from consilia.train.distributed import ALONE, TorchGroup

    set_threads(work.n_threads)
    limit_memory(work.gpus)
    memory = DeviceMemory(_held_bytes)
    group = TorchGroup(timeout_seconds=_WAIT_SECONDS) if work.together else ALONE
    tasks = _Tasks(work)
    n_refused = 0
    while n_refused < _REFUSALS and (taken := group.from_leader(tasks.take)) is not None:
        leads = group.rank == 0
        watch = _Watch(work.broker, taken) if leads else _Follower()
        try:
            tasks.prove(taken, group, watch)
            outcome = _run_together(taken, watch, group, work.broker) if group.size > 1 else _run(taken, watch)
        except NodeFault as fault:
            n_refused += 1
            if leads:
                tasks.refuse(taken, str(fault), is_last=n_refused == _REFUSALS)
            time.sleep(_RECOVERY_SECONDS)
            continue
        if leads:
            _finish(work.broker, outcome, taken.ticket)
        if memory.leaks():
            os._exit(1)  # the trial's outcome is stored; only the process is given up, and Ray Train starts a fresh one
    time.sleep(3 * TASK_EVENTS_MILLISECONDS / 1000)  # or the last trial would stand as RUNNING for ever


class _Tasks:
    """Where a worker gets its tasks from."""

    def __init__(self, work: GroupWork) -> None:
        from ray import train

        self._work = work
        self._worker = WorkerId(work.group, train.get_context().get_world_rank())
        self._handle = ray.get_runtime_context().current_actor
        self._node = str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call] # Ray's
        self._programs: dict[Any, Program] = {}  # the present job's, by its reference
        self._proven: Program | None = None  # this node can run it

    def take(self) -> Taken | None:
        """Wait for a task, and return it with its job's program in place of the reference; None: the group is closed.

        A broker that has died is started again by Ray.
        """
        broker, place = self._work.broker, {"node": self._node, "exclusive": self._work.exclusive}
        while True:
            try:
                taken: Taken | None = ray.get(broker.take.remote(self._worker, self._handle, **place))
            except ray.exceptions.ActorUnavailableError:
                time.sleep(_BROKER_SECONDS)
                continue
            if taken is None:
                return None
            job = taken.job
            if job.program not in self._programs:
                self._programs = {job.program: ray.get(job.program)}
            return taken._replace(job=replace(job, program=self._programs[job.program]))

    def prove(self, taken: Taken, group: "Group", watch: "_Watch | _Follower") -> None:
        """Try once, before the first task of a job, whether this node can run it.

        Raises:
            NodeFault: It cannot; workers that train together all raise it.
        """
        program: Program = taken.job.program
        # Only the leader knows: the others are sent a copy of the program with each task.
        is_new = group.from_leader(lambda: program is not self._proven)
        if program.prove is not None and is_new:
            group.agree(partial(program.prove, watch.stopped))
        self._proven = program

    def refuse(self, taken: Taken, reason: str, *, is_last: bool) -> None:
        """Give a task back, since no trial could run here; the next one is preceded by another proof."""
        logger.error("this node cannot train: %s", reason)
        self._proven = None
        with contextlib.suppress(ray.exceptions.ActorUnavailableError):
            ray.get(self._work.broker.refuse.remote(self._worker, taken, reason, is_last=is_last))


def _finish(broker: Any, outcome: TrialOutcome, ticket: str) -> None:
    """Tell the broker how a trial ended; one that has been started again knows nothing of the trial."""
    try:
        ray.get(broker.finish.remote(outcome, ticket))
    except ray.exceptions.ActorUnavailableError:
        logger.warning("trial %d: the broker was lost; the trial is handed out again", outcome.number)


class _Watch:
    """A trial's rows in the dashboard, which are also how the worker learns that it must stop."""

    def __init__(self, broker: Any, taken: Taken) -> None:
        self._broker = broker
        self._task, job, self._ticket = taken
        self._n_folds = job.n_folds
        row = broker.trial.options(name=trial_name(self._task, noun=job.noun), enable_task_events=True)
        self._trial: Any = row.remote(self._task.number, self._ticket)
        self._folds: dict[int, Any] = {}
        self._last_sign = self._last_look = time.monotonic()
        self._open_fold(0)

    def report(self, report: EpochReport) -> None:
        """Send an epoch on; a finished fold ends its row and opens the next one's."""
        ray.get(self._broker.report.remote(report, self._ticket))
        if report.fold_result is not None:
            self._open_fold(report.fold + 1)

    def stopped(self) -> StopCause | None:
        """Return why the worker must leave the trial, or None; to ask is also a sign of life.

        It looks for the answer now and then, so that it may be asked at every batch.
        """
        now = time.monotonic()
        if now - self._last_look < _ASK_SECONDS:
            return None
        self._last_look = now
        if now - self._last_sign > _SIGN_SECONDS:
            self._last_sign = now
            self._broker.alive.remote(self._task.number, self._ticket)  # nobody waits for the answer
        ready, _ = ray.wait([self._trial], timeout=0)
        if not ready:
            return None
        try:
            cause: StopCause = ray.get(self._trial)
        except ray.exceptions.RayError:  # the broker is gone, or has failed the trial
            return "stopped"
        return cause

    def _open_fold(self, fold: int) -> None:
        if fold < self._n_folds and fold not in self._folds:
            name = f"trial {self._task.number} fold {fold + 1}/{self._n_folds}"
            row = self._broker.fold.options(name=name, enable_task_events=True)
            self._folds[fold] = row.remote(self._task.number, self._ticket, fold)


class _Follower:
    """Stands in for `_Watch` on a worker that trains together with others: the first worker tells them all."""

    def report(self, report: EpochReport) -> None:
        """Only the first worker reports."""

    def stopped(self) -> StopCause | None:
        """Only the first worker hears of a stop."""
        return None


def _run_together(taken: Taken, watch: _Watch | _Follower, group: "Group", broker: Any) -> TrialOutcome:
    """Train with the other workers; where one of them is lost, all processes are given up.

    An error that all of them meet alike fails the trial. Any other leaves them in different places, and they would wait
    for each other for ever: Ray Train replaces the whole group.
    """
    from consilia.train.faults import GroupLost

    try:
        run: RunTrial = taken.job.program.run
        return run(taken.task, report=watch.report, stopped=watch.stopped, group=group)
    except GroupLost as lost:
        if lost.outcome is not None:  # the one that failed knows why, whichever it is
            _finish(broker, lost.outcome, taken.ticket)
        raise
    except NodeFault:
        raise
    except ConsiliaError as error:
        return TrialOutcome(number=taken.task.number, state="failed", reason=f"{type(error).__name__}: {error}")


def _run(taken: Taken, watch: _Watch | _Follower) -> TrialOutcome:
    """Turn an unforeseen error into a failed trial, unless it is the node's, or has broken the device for this process.

    Raises:
        NodeFault: No trial can run here any more.
    """
    import torch

    task, program = taken.task, taken.job.program
    try:
        outcome: TrialOutcome = program.run(task, report=watch.report, stopped=watch.stopped)
    except NodeFault:
        raise
    except torch.AcceleratorError:
        raise  # Ray Train starts a fresh process; a worker takes the task up at its checkpoint
    except ray.exceptions.ActorUnavailableError:  # the broker has died: the trial is handed out again
        return TrialOutcome(number=task.number, state="stopped", reason="the broker was lost")
    except ray.exceptions.RayActorError:
        raise  # the broker is gone for good
    except Exception as error:
        if program.prove is not None:
            program.prove(watch.stopped)
        logger.exception("trial %d failed", task.number)
        message = str(error) if isinstance(error, ConsiliaError) else str(error).strip().partition("\n")[0]
        return TrialOutcome(
            number=task.number,
            state="failed",
            reason=f"{type(error).__name__}: {message}",
            traceback=traceback.format_exc(),
        )
    return outcome


def trial_name(task: TrialTask, *, noun: str = "trial") -> str:
    """Return the trial's name in the dashboard, such as 'trial 12 densenet121 lr=3e-04'."""
    return f"{noun} {task.number} {task.hyperparameters.architecture} lr={task.hyperparameters.lr:.0e}"


class DeviceMemory:
    """What of the device stays taken when a trial has ended.

    The images stay, and so may what libraries work in, all of which the first trial has asked for. What it leaves is
    not a leak; what later ones add to it is.
    """

    def __init__(self, held: Callable[[], int]) -> None:
        """Take how to learn, between trials, how many bytes are taken."""
        self._held = held
        self._level: int | None = None  # after the first trial

    def leaks(self) -> bool:
        """Say whether clearly more is taken now than after the first trial; to be asked after each."""
        held = self._held()
        if self._level is None:
            self._level = held
        return held - self._level > _LEAK_BYTES


def _held_bytes() -> int:
    """Give back what a trial has freed; return what it has not."""
    import torch

    if not torch.cuda.is_available():
        return 0
    gc.collect()
    # 32 MiB on a Hopper GPU for each stream and thread, and every trial captures its steps on a stream of its own.
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    return torch.cuda.memory_allocated()
