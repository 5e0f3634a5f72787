"""What planning sees of a real Ray, and how a step is measured on its GPUs."""

from pathlib import Path

import pytest
import ray
from capacity_records import cluster, node

from consilia.config.network import ModelSpec, Preprocessing
from consilia.config.space import Architecture, Hyperparameters
from consilia.config.study import ClusterProfile
from consilia.errors import ClusterError
from consilia.train.memory_probe import StepCase
from consilia.tune import nodes
from consilia.tune.nodes import living_nodes, measure_steps

CASE = StepCase(
    hyperparameters=Hyperparameters(architecture="test_resnet"),
    spec=ModelSpec(architecture=Architecture(timm="test_resnet"), n_classes=2, channels=1),
    preprocessing=Preprocessing(size=32, channels=1, image_size=32, mean=(0.5,), std=(0.25,)),
    batch_size=4,
)


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


@pytest.mark.ray
@SECOND_RAY
@on_paper
@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="here the GPU may be real")
def test_a_step_is_measured_on_the_nodes_gpu_and_its_failure_there_names_it(ray_on_loopback: None):
    with pytest.raises(ClusterError, match=r"^One step of test_resnet at 32 px and 4 images fails on cuda"):
        measure_steps([CASE], ClusterProfile(), living_nodes())
    (left,) = living_nodes().values()
    assert left.total["GPU"] == 1


def test_without_gpus_a_step_is_measured_on_this_machine():
    (found,) = measure_steps([CASE], ClusterProfile(), cluster(node()))
    assert found.title == CASE.title
    assert found.device_total_bytes == 0 < found.host_bytes


def test_nothing_is_measured_where_the_profile_has_the_numbers():
    assert measure_steps([CASE], ClusterProfile(gpus_per_slot=0.5, memory_per_slot=2), cluster(node(gpus=1))) == ()


def test_a_cluster_whose_gpus_are_all_in_use_is_refused_with_the_numbers():
    busy = cluster(node(gpus=2, busy_gpus=1.5), node(cpus=4, name="10.0.0.2"))
    with pytest.raises(ClusterError, match=r"(?s)10\.0\.0\.1 0\.5 of 2, 10\.0\.0\.2 0 of 0.*Wait until"):
        measure_steps([CASE], ClusterProfile(), busy)


def test_of_the_measurements_only_those_that_still_run_are_cancelled(monkeypatch: pytest.MonkeyPatch):
    """Ray ends the whole process when a task is cancelled by force whose result is just coming in."""
    cancelled = []

    def time_out(tasks: list[str], *, timeout: float) -> None:
        raise ray.exceptions.GetTimeoutError

    monkeypatch.setattr(ray, "get", time_out)
    monkeypatch.setattr(ray, "wait", lambda tasks, *, num_returns, timeout: (tasks[:1], tasks[1:num_returns]))
    monkeypatch.setattr(ray, "cancel", lambda task, *, force: cancelled.append((task, force)))
    with pytest.raises(ClusterError, match="taken by another job"):
        nodes._collect(["done", "running", "waiting"], 1)
    assert cancelled == [("running", True), ("waiting", True)]
