"""The train function of a slot: it runs on every Ray Train worker for the life of the slot."""

import gc
import logging
import os
import time
import traceback
from collections.abc import Callable
from typing import Any

import ray
import torch
from ray import train

from consilia.config.records import EpochReport, TrialOutcome, TrialTask
from consilia.errors import ConsiliaError
from consilia.train.device import set_threads
from consilia.train.distributed import ALONE, Group, TorchGroup
from consilia.train.faults import GroupLost

logger = logging.getLogger(__name__)

RunTrial = Callable[..., TrialOutcome]
"""Trains one trial: (task, *, report, stopped) -> outcome. `stopped` is polled between batches.

Where several workers train one trial together it is also given their `group`, and all of them call it.
"""

TASK_EVENTS_MILLISECONDS = 200  # how often a worker tells the dashboard of its rows; Ray's default is 1000

_SIGN_SECONDS = 5.0  # between two signs of life; far below any sensible cluster.hang_seconds

_WAIT_SECONDS = 7 * 24 * 3600.0  # workers of a slot without a task wait; one that died is noticed at once

_LEAK_BYTES = 64 * 2**20  # that a process may hold beyond what it held after its first trial


def serve(config: dict[str, Any]) -> None:
    """Take a task, train it, take the next, until the broker is closed.

    Args:
        config: `broker`, the actor; `run_trial`, a RunTrial; `n_threads`, this worker's share of the cores;
            `n_folds` and `noun`, for the names of folds and tasks in the dashboard.
    """
    try:
        _serve(config)
    except ray.exceptions.RayActorError:
        # Ray Train would start one worker after the other for a slot that is gone.
        logger.warning("the broker is gone: this worker ends")


def _serve(config: dict[str, Any]) -> None:
    broker, run_trial = config["broker"], config["run_trial"]
    set_threads(config["n_threads"])
    ray.get(broker.join.remote(train.get_context().get_world_rank(), ray.get_runtime_context().current_actor))
    memory = DeviceMemory(_held_bytes)
    group = TorchGroup(timeout_seconds=_WAIT_SECONDS) if train.get_context().get_world_size() > 1 else ALONE
    while (task := group.from_leader(lambda: ray.get(broker.take.remote()))) is not None:
        leads = group.rank == 0
        watch = _Watch(broker, task, n_folds=config["n_folds"], noun=config["noun"]) if leads else _Follower()
        if group.size > 1:
            outcome = _run_together(run_trial, task, watch, group, broker)
        else:
            outcome = _run(run_trial, task, watch)
        if leads:
            ray.get(broker.finish.remote(outcome))
        if memory.leaks():
            os._exit(1)  # the trial's outcome is stored; only the process is given up, and Ray Train starts a fresh one
    time.sleep(3 * TASK_EVENTS_MILLISECONDS / 1000)  # or the last trial would stand as RUNNING for ever


class _Watch:
    """A trial's rows in the dashboard, which are also how the worker learns that it must stop."""

    def __init__(self, broker: Any, task: TrialTask, *, n_folds: int, noun: str = "trial") -> None:
        self._broker = broker
        self._task = task
        self._n_folds = n_folds
        self._trial: Any = broker.trial.options(name=trial_name(task, noun=noun)).remote(task.number)
        self._folds: dict[int, Any] = {}
        self._last_sign = time.monotonic()
        self._open_fold(0)

    def report(self, report: EpochReport) -> None:
        """Send an epoch on; a finished fold ends its row and opens the next one's."""
        ray.get(self._broker.report.remote(report))
        if report.fold_result is not None:
            self._open_fold(report.fold + 1)

    def stopped(self) -> bool:
        """Say whether Tune has stopped the trial or the slot is closing; to ask is also a sign of life."""
        if time.monotonic() - self._last_sign > _SIGN_SECONDS:
            self._last_sign = time.monotonic()
            self._broker.alive.remote()  # nobody waits for the answer
        ready, _ = ray.wait([self._trial], timeout=0)
        return bool(ready)

    def _open_fold(self, fold: int) -> None:
        if fold < self._n_folds and fold not in self._folds:
            name = f"trial {self._task.number} fold {fold + 1}/{self._n_folds}"
            self._folds[fold] = self._broker.fold.options(name=name).remote(self._task.number, fold)


class _Follower:
    """Stands in for `_Watch` on a worker that trains together with others: the first worker tells them all."""

    def report(self, report: EpochReport) -> None:
        """Only the first worker reports."""

    def stopped(self) -> bool:
        """Only the first worker hears of a stop."""
        return False


def _run_together(
    run_trial: RunTrial, task: TrialTask, watch: _Watch | _Follower, group: Group, broker: Any
) -> TrialOutcome:
    """Train with the other workers; where one of them is lost, all processes are given up.

    An error that all of them meet alike fails the trial. Any other leaves them in different places, and they would wait
    for each other for ever: Ray Train replaces the whole group.
    """
    try:
        return run_trial(task, report=watch.report, stopped=watch.stopped, group=group)
    except GroupLost as lost:
        if lost.outcome is not None:  # the one that failed knows why, whichever it is
            ray.get(broker.finish.remote(lost.outcome))
        raise
    except ConsiliaError as error:
        return TrialOutcome(number=task.number, state="failed", reason=f"{type(error).__name__}: {error}")


def _run(run_trial: RunTrial, task: TrialTask, watch: _Watch | _Follower) -> TrialOutcome:
    """Turn an unforeseen error into a failed trial, unless it has broken the device for this process."""
    try:
        return run_trial(task, report=watch.report, stopped=watch.stopped)
    except (torch.AcceleratorError, ray.exceptions.RayActorError):
        raise  # Ray Train starts a fresh process, which takes the task up at its checkpoint; or the broker is gone
    except Exception as error:
        logger.exception("trial %d failed", task.number)
        message = str(error) if isinstance(error, ConsiliaError) else str(error).strip().partition("\n")[0]
        return TrialOutcome(
            number=task.number,
            state="failed",
            reason=f"{type(error).__name__}: {message}",
            traceback=traceback.format_exc(),
        )


def trial_name(task: TrialTask, *, noun: str = "trial") -> str:
    """Return the trial's name in the dashboard, such as 'trial 12 densenet121 lr=3e-04'."""
    return f"{noun} {task.number} {task.hyperparameters.architecture} lr={task.hyperparameters.lr:.0e}"


class DeviceMemory:
    """What of the device stays taken when a trial has ended.

    Libraries keep workspaces for good (cuBLAS 32 MiB for each thread on a Hopper GPU), all of which the first trial has
    asked for: what it leaves is not a leak; what later ones add to it is.
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
    if not torch.cuda.is_available():
        return 0
    gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.memory_allocated()
