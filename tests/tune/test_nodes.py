"""What planning sees of a real Ray, and what it asks of the workers that have started on its nodes."""

from typing import NoReturn

import pytest
import ray
from capacity_records import node

from consilia.errors import ClusterError, PlanError
from consilia.tune import nodes
from consilia.tune.capacity import Node
from consilia.tune.nodes import ask_workers, living_nodes

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
    def asked(*there: str) -> list[object]:
        return sorted(ask_workers(Groups(*there), CLUSTER, lambda worker: worker))

    assert asked("large", "small", "without") == ["large", "small", "without"]
    assert asked("small") == ["small"]
    assert len(asked("small", "another")) == 1


def test_an_error_that_a_worker_has_met_reaches_the_user(answering: pytest.MonkeyPatch):
    error = PlanError("densenet121 cannot take images of 8 px")
    with pytest.raises(PlanError, match="images of 8 px"):
        ask_workers(Groups("large", "small"), CLUSTER, lambda worker: error if worker == "small" else 1)


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
