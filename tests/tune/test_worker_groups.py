"""A worker group on a real Ray: its workers train apart, die apart, and they alone have torch in memory."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
from played_trials import SHARE
from ray.util.state import list_actors
from search_records import task

from consilia.config.records import EpochReport, TaskTaken, TrialOutcome, TrialTask
from consilia.tune.broker import Job, Message
from consilia.tune.capacity import Capacity, Kind, Share
from consilia.tune.live import LiveSlots
from consilia.tune.nodes import LateKinds, living_nodes
from consilia.tune.worker import Program
from consilia.tune.worker_groups import WorkerGroups
from processes import wait_until_idle

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300), pytest.mark.usefixtures("ray_on_loopback")]

TWO = Capacity(n_slots=2, workers=1, share=SHARE, exclusive=None)
NO_TORCH = {"Broker", "TrainController", "SynchronizationActor"}


def train_until(
    marks: Path, task: TrialTask, report: Callable[[EpochReport], None], stopped: Callable[[], bool]
) -> TrialOutcome:
    """Note the process, and go on until the test says so."""
    with (marks / str(task.number)).open("a") as file:
        file.write(f"{os.getpid()}\n")
    while not (marks / "end").exists():
        assert not stopped(), "nobody has stopped this trial"
        time.sleep(0.05)
    return TrialOutcome(number=task.number, state="finished")


def pids(marks: Path, number: int) -> list[int]:
    """Return the processes that have begun this trial."""
    file = marks / str(number)
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def pids_by_class(names: set[str]) -> dict[int, str]:
    """Return the classes of living actors by their process; a title only names the present call."""
    ours = ray.get_runtime_context().gcs_address  # other Rays may run on this machine
    alive = list_actors(address=ours, filters=[("state", "=", "ALIVE")])
    return {actor.pid: actor.class_name for actor in alive if actor.class_name in names}


def wait_for(condition: Callable[[], bool], groups: WorkerGroups) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        groups.count()  # as Tune's loop does, which looks after the groups so
        time.sleep(0.05)


def wait_until_free(**expected: float) -> None:
    """Wait until the node says that so much is free, which it does some time after it is."""
    deadline = time.monotonic() + 60
    while True:
        (node,) = living_nodes().values()
        free = {name: node.free.get(name, 0) for name in expected}
        if free == expected:
            return
        assert time.monotonic() < deadline, f"{free} is free, not {expected}"
        time.sleep(0.1)


def messages_of(broker: Any, number: int, n: int) -> list[Message]:
    return [ray.get(broker.next_message.remote(number), timeout=60) for _ in range(n)]


def test_a_worker_that_dies_is_replaced_alone_and_only_workers_have_torch_in_memory(tmp_path: Path, ray_folder: Path):
    notes: list[str] = []
    with WorkerGroups(noted=notes.append) as groups:
        groups.settle(TWO, LiveSlots(TWO, living_nodes, limit=2, seen=living_nodes()))
        job = Job(program=ray.put(Program(partial(train_until, tmp_path))), n_folds=1)
        for number in (0, 1):
            ray.get(groups.broker.assign.remote(task(number), job))
        wait_for(lambda: bool(pids(tmp_path, 0) and pids(tmp_path, 1)), groups)
        ((struck,), (neighbour,)) = pids(tmp_path, 0), pids(tmp_path, 1)
        assert struck != neighbour

        helpers = pids_by_class(NO_TORCH)
        assert set(helpers.values()) == NO_TORCH
        with_torch = {pid for pid in (*helpers, struck) if "libtorch" in Path(f"/proc/{pid}/maps").read_text()}
        assert with_torch == {struck}

        os.kill(struck, signal.SIGKILL)
        wait_for(lambda: len(pids(tmp_path, 0)) == 2, groups)
        (tmp_path / "end").touch()
        finished = [TrialOutcome(number=number, state="finished") for number in (0, 1)]
        taken = [TaskTaken(number=0, attempt=1), TaskTaken(number=0, attempt=2)]
        assert messages_of(groups.broker, 0, 3) == [*taken, finished[0]]
        assert messages_of(groups.broker, 1, 2) == [TaskTaken(number=1, attempt=1), finished[1]]
        assert neighbour not in pids(tmp_path, 0)  # it was at work all the time
    assert pids(tmp_path, 1) == [neighbour]
    assert set(notes) <= {"1 of 2 workers started", "2 of 2 workers started"}  # nothing was lost
    assert wait_until_idle(ray_folder) == (set(), [], {})


@pytest.mark.slow("half a minute; test_live and test_nodes measure kinds of nodes without Ray")
def test_workers_leave_a_node_of_an_unknown_kind_and_come_back_once_it_is_measured(ray_folder: Path):
    nodes = living_nodes()
    elsewhere = Kind("H100", 8, 128, 10)
    capacity = Capacity(n_slots=1, workers=1, share=None, exclusive=None, measured={elsewhere: SHARE})
    late = LateKinds(SHARE, two_cpus, lambda node, answer: replace(SHARE, cpus=answer), noted=lambda text: None)
    with WorkerGroups() as groups:
        groups.settle(TWO, LiveSlots(TWO, living_nodes, limit=2, seen=nodes))
        (before,) = groups.first_workers().values()
        groups.settle(capacity, LiveSlots(capacity, living_nodes, limit=2, seen=nodes, measure=late))
        assert groups.count() == 0
        wait_for(lambda: groups.count() == 1, groups)
        (after,) = groups.first_workers().values()
        assert before != after
        assert groups.devices_per_slot() == 2
        wait_until_free(CPU=0)
    assert wait_until_idle(ray_folder) == (set(), [], {})


def two_cpus(worker: object) -> int:
    """Stand in for a measurement: a slot is to have two CPUs."""
    return 2


@pytest.mark.slow("starts a second Ray; test_capacity plans shares of GPUs without one")
@pytest.mark.parametrize("ray_on_loopback", [{"CPU": 2, "GPU": 1}], indirect=True, ids=["one GPU on paper"])
def test_workers_that_are_to_share_a_gpu_are_started_anew_once_that_is_known(tmp_path: Path, ray_folder: Path):
    whole, half = (Share(cpus=1, gpus=gpus, memory=10**9) for gpus in (1.0, 0.5))
    first, second = (
        Capacity(n_slots=n, workers=1, share=share, exclusive=None) for n, share in ((1, whole), (2, half))
    )
    nodes = living_nodes()
    with WorkerGroups() as groups:
        groups.settle(first, LiveSlots(first, living_nodes, limit=1, seen=nodes))
        (alone,) = groups.first_workers().values()
        groups.settle(second, LiveSlots(second, living_nodes, limit=2, seen=nodes))
        job = Job(program=ray.put(Program(partial(train_until, tmp_path))), n_folds=1)
        for number in (0, 1):
            ray.get(groups.broker.assign.remote(task(number), job))
        wait_for(lambda: bool(pids(tmp_path, 0) and pids(tmp_path, 1)), groups)
        assert groups.count() == 2
        with pytest.raises(ray.exceptions.RayActorError):
            ray.get(alone.get_metadata.remote(), timeout=60)
        wait_until_free(GPU=0, CPU=0)
        (tmp_path / "end").touch()
    assert wait_until_idle(ray_folder) == (set(), [], {})
    wait_until_free(GPU=1, CPU=2)
