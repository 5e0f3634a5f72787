"""What planning sees of a real Ray, and what it asks of the workers that have started on its nodes."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
import ray
from capacity_records import GB, node

from consilia.config.study import ClusterProfile
from consilia.errors import ClusterError, PlanError
from consilia.tune import nodes
from consilia.tune.capacity import Node, Share
from consilia.tune.nodes import LateKinds, ask_workers, living_nodes, wait_for_gpus
from processes import wait_until_idle

# A Ray that believes in a GPU.
SECOND_RAY = pytest.mark.slow("starts a second Ray; test_capacity plans for nodes with GPUs without one")
on_paper = pytest.mark.parametrize("ray_on_loopback", [{"CPU": 2, "GPU": 1}], indirect=True, ids=["one GPU on paper"])


@pytest.mark.ray
@SECOND_RAY
@on_paper
def test_living_nodes_say_what_they_have_and_what_is_free(ray_on_loopback: None):
    (found,) = living_nodes().values()
    assert (found.name, found.total["CPU"], found.free["GPU"]) == ("127.0.0.2", 2, 1)
    assert found.free["memory"] == found.total["memory"] > 0


class Groups:
    """Has one worker on each node, which is called as the node."""

    def __init__(self, *there: str) -> None:
        self.there = there

    def first_workers(self) -> dict[str, str]:
        return {each: each for each in self.there}


def with_gpu(kind: str) -> Node:
    found = node(gpus=1)
    return Node(name=found.name, free=found.free, total={**found.total, f"accelerator_type:{kind}": 1})


CLUSTER = {"large": with_gpu("H100"), "small": with_gpu("T4"), "another": with_gpu("T4"), "without": node()}


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Workers answer in this process, and Ray hands their answers over."""
    monkeypatch.setattr(nodes, "call_in_actor", lambda worker, question: question(worker))
    monkeypatch.setattr(ray, "get", lambda answers, *, timeout: answers)
    return monkeypatch


def test_a_worker_of_each_kind_of_node_is_asked(answering: pytest.MonkeyPatch):
    def asked(*there: str) -> dict[str, object]:
        answers = ask_workers(Groups(*there), CLUSTER, lambda worker: worker)
        return {str(kind): answer for kind, answer in answers.items()}

    assert asked("large", "small", "without") == {"1 H100": "large", "1 T4": "small", "8 CPU": "without"}
    assert asked("small") == {"1 T4": "small"}
    assert len(asked("small", "another")) == 1


def test_an_error_of_the_study_reaches_the_user(answering: pytest.MonkeyPatch):
    error = PlanError("densenet121 cannot take images of 8 px")
    with pytest.raises(PlanError, match="images of 8 px"):
        ask_workers(Groups("large", "small"), CLUSTER, lambda worker: error if worker == "small" else 1)


def test_an_error_of_one_kind_of_node_is_returned_and_raised_if_all_have_one(answering: pytest.MonkeyPatch):
    def fails(*kinds: str) -> Callable[[object], object]:
        return lambda worker: ClusterError(f"no step fits on {worker}") if worker in kinds else 1

    answers = ask_workers(Groups("large", "small"), CLUSTER, fails("small"))
    assert answers[CLUSTER["large"].kind] == 1
    assert isinstance(answers[CLUSTER["small"].kind], ClusterError)
    with pytest.raises(ClusterError, match="no step fits on large"):
        ask_workers(Groups("large", "small"), CLUSTER, fails("small", "large"))


class Wait:
    """A Ray on which a GPU comes after some seconds of a clock that sleep moves."""

    def __init__(self, patch: pytest.MonkeyPatch, *, seconds: float) -> None:
        self.now, self.asked, self.notes = 0.0, [], []
        patch.setattr(nodes, "ask_for", self._ask)
        patch.setattr(nodes, "is_placed_now", lambda group: self.now >= seconds)
        patch.setattr(nodes, "remove_placement_group", self.asked.remove)
        patch.setattr(nodes.time, "sleep", self._sleep)
        self._there = node(gpus=4, name="10.0.0.2")

    def __call__(self, **profile: object) -> None:
        found = ClusterProfile.model_validate(profile)
        wait_for_gpus(
            found, self.notes.append, nodes=lambda: {"head": node(), "gpu": self._there}, clock=lambda: self.now
        )

    def _ask(self, bundles: object) -> object:
        self.asked.append(bundles)
        return bundles

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now > 1e6:
            raise KeyboardInterrupt


def test_who_requires_a_gpu_waits_and_hears_so_now_and_then(monkeypatch: pytest.MonkeyPatch):
    wait = Wait(monkeypatch, seconds=700)
    wait(gpus="required", cpus_per_slot=4)
    assert (wait.now, wait.asked) == (pytest.approx(700, abs=1), [])
    assert len(wait.notes) == 3
    assert wait.notes[0] == (
        "waiting for a GPU, since cluster.gpus is required: Ray is asked for 1 GPU with 4 CPU, and GPUs are free on: "
        "10.0.0.1 0 of 0, 10.0.0.2 4 of 4"
    )


@pytest.mark.parametrize("gpus", ["auto", "none"])
def test_nobody_else_waits(monkeypatch: pytest.MonkeyPatch, gpus: str):
    wait = Wait(monkeypatch, seconds=700)
    wait(gpus=gpus)
    assert (wait.now, wait.notes) == (0, [])


def test_an_interrupted_wait_leaves_nothing_asked_for(monkeypatch: pytest.MonkeyPatch):
    wait = Wait(monkeypatch, seconds=1e9)
    with pytest.raises(KeyboardInterrupt):
        wait(gpus="required", workers_per_trial=2)
    assert wait.asked == []
    assert "Ray is asked for 2 times 1 GPU" in wait.notes[0]


FIRST = Share(cpus=1, gpus=1, memory=0)


class Measurements:
    """Tasks that a test ends, on nodes that have joined; and a clock that it moves."""

    def __init__(self, patch: pytest.MonkeyPatch, *, share: Callable[[Node, object], Share]) -> None:
        self.started: list[str] = []  # nodes
        self.answer: object = None  # of all tasks; None: under way
        self.notes: list[str] = []
        self.now = 0.0
        patch.setattr(ray, "wait", lambda tasks, timeout: (tasks if self.answer else [], []))
        patch.setattr(ray, "get", self._get)
        self.late = LateKinds(
            FIRST,
            lambda worker: 1,
            share,
            noted=self.notes.append,
            start=lambda question, share, key: self.started.append(key),
            clock=lambda: self.now,
        )

    def _get(self, task: object) -> object:
        if isinstance(self.answer, ray.exceptions.RayError):
            raise self.answer
        return self.answer


def halves(node: Node, answer: object) -> Share:
    if answer == "too large":
        raise ClusterError("two trials share a GPU, but one fits.\nSet it to 1.")
    return replace(FIRST, gpus=0.5)


def test_a_kind_that_joins_is_measured_once_and_then_known_on_all_its_nodes(monkeypatch: pytest.MonkeyPatch):
    there = Measurements(monkeypatch, share=halves)
    small, another = CLUSTER["small"], CLUSTER["another"]
    assert [there.late("small", small), there.late("another", another), there.late("small", small)] == [None] * 3
    there.answer = 1
    assert [there.late("another", another), there.late("small", small)] == [replace(FIRST, gpus=0.5)] * 2
    assert there.started == ["small"]
    assert there.notes == ["node 10.0.0.1 has 1 T4: a training step is measured there before its slots count"]


def test_nodes_without_what_a_measurement_takes_are_not_asked(monkeypatch: pytest.MonkeyPatch):
    there = Measurements(monkeypatch, share=halves)
    assert there.late("without", CLUSTER["without"]) is None
    assert (there.started, there.notes) == ([], [])


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(ClusterError("it runs out of memory.\nLower it."), "memory."), ("too large", "two trials share a GPU")],
)
def test_a_kind_that_cannot_train_is_left_out(monkeypatch: pytest.MonkeyPatch, answer: object, reason: str):
    there = Measurements(monkeypatch, share=halves)
    there.late("small", CLUSTER["small"])
    there.answer = answer
    assert [there.late(key, CLUSTER[key]) for key in ("small", "another")] == [None, None]
    assert there.started == ["small"]
    assert "nodes with 1 T4, such as 10.0.0.1, are left out" in there.notes[-1]
    assert reason in there.notes[-1]


def test_a_measurement_that_is_lost_is_repeated_but_not_for_ever(monkeypatch: pytest.MonkeyPatch):
    there = Measurements(monkeypatch, share=halves)
    there.late("small", CLUSTER["small"])
    there.now += 3600  # its node is lost, and Ray waits for it
    assert there.late("another", CLUSTER["another"]) is None
    assert there.started == ["small", "another"]
    there.answer = ray.exceptions.WorkerCrashedError()
    assert [there.late("small", CLUSTER["small"]) for _ in range(9)] == [None] * 9
    assert len(there.started) == 5
    assert "5 tasks that measured a training step there were lost" in there.notes[-1]


@pytest.mark.ray
def test_a_step_is_measured_on_the_node_with_the_devices_that_are_asked_for(ray_on_loopback: None, ray_folder: Path):
    (key,), (found,) = living_nodes(), living_nodes().values()
    share = Share(cpus=2, gpus=0, memory=GB)
    late = LateKinds(share, _where, lambda node, answer: answer, noted=lambda text: None)
    deadline = time.monotonic() + 120
    while (answer := late(key, found)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert answer == (key, {"CPU": 2, "memory": GB - 2**20}, None)
    assert wait_until_idle(ray_folder) == (set(), [], {})


def _where(worker: object) -> tuple[str, dict[str, float], object]:
    context = ray.get_runtime_context()
    return context.get_node_id(), context.get_assigned_resources(), worker


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (ray.exceptions.GetTimeoutError(), "(?s)took longer than .* s.*cluster.memory_per_slot to numbers"),
        (ray.exceptions.ActorDiedError(), "(?s)memory may have run out.*Lower training.batch_size"),
    ],
)
def test_a_worker_that_does_not_answer_is_reported_with_what_to_change(
    answering: pytest.MonkeyPatch, failure: Exception, message: str
):
    def fail(answers: object, *, timeout: float) -> NoReturn:
        raise failure

    answering.setattr(ray, "get", fail)
    with pytest.raises(ClusterError, match=message):
        ask_workers(Groups("large"), CLUSTER, lambda worker: worker)
