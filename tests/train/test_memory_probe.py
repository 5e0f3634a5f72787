"""A step's memory is measured as training would take it, by the worker that is to train."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from consilia.config.network import ModelSpec, Preprocessing
from consilia.config.space import Architecture, Hyperparameters
from consilia.config.study import ClusterProfile
from consilia.errors import ClusterError
from consilia.train.device import mps_serves
from consilia.train.faults import is_out_of_memory
from consilia.train.memory_probe import estimate_step, measure_step, most_demanding, network_bytes
from consilia.train.networks.factory import build_model
from consilia.train.step_case import StepCase, StepMemory
from consilia.tune.demand import worker_demand
from consilia.tune.measuring import largest_network, measure_steps

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="steps are measured on the GPU")

# Main memory's peak is that of a process: each of these has one of its own.
IN_PROCESS = """
import sys
from consilia.train.step_case import StepCase
from consilia.tune.demand import worker_demand
from consilia.tune.measuring import measure_steps
for step in measure_steps([StepCase.model_validate_json(line) for line in sys.stdin], device_name="cpu"):
    print(step.model_dump_json())
"""


def case(architecture: str = "test_resnet", *, side: int = 32, batch: int = 8, **changes: object) -> StepCase:
    return StepCase(
        hyperparameters=Hyperparameters(architecture=architecture, mixup=0.2),
        spec=ModelSpec(architecture=Architecture(timm=architecture), n_classes=3, channels=1),
        preprocessing=Preprocessing(size=32, channels=1, image_size=side, mean=(0.5,), std=(0.25,)),
        batch_size=batch,
        **changes,
    )


def measured_in_process(*cases: StepCase) -> list[StepMemory]:
    lines = "\n".join(each.model_dump_json() for each in cases)
    done = subprocess.run(
        [sys.executable, "-c", IN_PROCESS], input=lines, stdout=subprocess.PIPE, text=True, check=True
    )
    return [StepMemory.model_validate_json(line) for line in done.stdout.splitlines()]


def host_bytes(**arguments: object) -> int:
    (found,) = measured_in_process(case(**arguments))
    return found.host_bytes


@pytest.fixture(scope="module")
def small() -> int:
    return host_bytes()


@NO_GPU
@pytest.mark.slow("measures large steps; the last of several steps is found to need more than the first as well")
def test_more_images_need_more_memory_and_so_do_larger_ones(small: int):
    activations = estimate_step(case(batch=256, side=64))
    for larger in ({"batch": 256, "side": 64}, {"batch": 64, "side": 128}):
        assert host_bytes(**larger) - small > activations / 2  # some of them are never alive together


@NO_GPU
def test_a_larger_network_needs_more_memory_for_weights_gradients_moments_average_and_a_checkpoint(small: int):
    assert host_bytes(architecture="resnet18") - small > 0.9 * 9 * network_bytes(case("resnet18").spec)


@NO_GPU
def test_several_steps_are_measured_in_one_process_the_largest_last():
    found = measured_in_process(case(batch=128, side=64), case(), case(batch=96, side=64))
    assert [step.title for step in found] == [case(batch=batch, side=64).title for batch in (96, 128)]
    assert found[0].host_bytes <= found[1].host_bytes


@NO_GPU
def test_a_large_parent_does_not_make_its_child_seem_large(small: int):
    _ballast = np.ones(400 * 2**20, np.uint8)
    assert abs(host_bytes() - small) < 50 * 2**20


@NO_GPU
def test_a_measured_step_says_what_it_was():
    (found,) = measure_steps([case()], device_name="cpu")
    assert found.title == "one step of test_resnet at 32 px and 8 images"
    assert (found.device_bytes, found.device_total_bytes) == (0, 0)


def test_a_step_that_fails_is_refused_with_its_architecture_batch_and_image_size():
    wrong = case().model_copy(update={"spec": ModelSpec(**{**dict(case().spec), "channels": 3})})
    with pytest.raises(ClusterError, match=r"(?s)^One step of test_resnet at 32 px and 8 images fails on c.*channels"):
        measure_steps([wrong], device_name="cpu")


def test_of_several_steps_the_one_that_finds_no_memory_is_refused_with_what_to_lower():
    with pytest.raises(ClusterError) as refusal:
        measure_steps([case(), case(side=64, batch=2**34)], device_name="cpu")  # images of 16 TB
    assert str(refusal.value).startswith("One step of test_resnet at 64 px and 17179869184 images runs out of memory")
    assert "Lower training.batch_size or training.image_size" in str(refusal.value)


def test_the_estimate_puts_larger_steps_first():
    estimates = [estimate_step(case(**each)) for each in ({}, {"side": 64}, {"side": 64, "batch": 64})]
    assert estimates == sorted(estimates)
    assert estimate_step(case("resnet50")) > estimate_step(case("resnet18")) > estimate_step(case())


def test_the_most_demanding_steps_are_the_three_largest_that_come_near_the_largest():
    cases = [case(side=64, batch=batch) for batch in (200, 90, 110, 180, 120)]
    assert [each.batch_size for each in most_demanding(cases)] == [120, 180, 200]
    assert [each.batch_size for each in most_demanding(cases[:3])] == [110, 200]
    assert most_demanding([case(), case("resnet50")]) == (case("resnet50"),)


def test_a_network_takes_the_bytes_of_all_that_is_saved_of_it():
    state = build_model(case("resnet18").spec).state_dict()
    assert network_bytes(case("resnet18").spec) == sum(each.nbytes for each in state.values())
    assert largest_network([case(), case("resnet18")]) == network_bytes(case("resnet18").spec)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("shapes do not fit"), False),
        (ValueError("not enough memory"), False),
    ],
)
def test_errors_of_memory_are_told_from_others(error: Exception, expected: bool):
    assert is_out_of_memory(error) is expected


@pytest.mark.gpu
def test_on_a_gpu_the_peak_holds_activations_and_five_copies_of_the_weights():
    device = torch.device("cuda")
    first, more = (measure_step(case("resnet18", side=64, batch=batch), device) for batch in (8, 128))
    weights = sum(each.numel() for each in build_model(case("resnet18").spec).parameters())
    assert first.device_bytes > 0.95 * 5 * 4 * weights
    assert more.device_bytes > first.device_bytes
    assert 0 < more.context_bytes < more.device_total_bytes


@pytest.mark.gpu
def test_on_a_gpu_a_step_of_several_workers_holds_the_buckets_of_their_gradients():
    device = torch.device("cuda")
    alone, together = (measure_step(case("resnet18", n_workers=n), device) for n in (1, 2))
    weights = sum(each.numel() for each in build_model(case("resnet18").spec).parameters())
    assert together.device_bytes - alone.device_bytes > 0.5 * 4 * weights


@pytest.mark.gpu
def test_a_step_larger_than_the_gpu_is_refused_with_its_architecture_and_leaves_the_gpu_free():
    with pytest.raises(ClusterError, match="resnet50 at 2048 px and 4096 images runs out of memory"):
        measure_steps([case("resnet50", side=2048, batch=4096)], device_name="cuda")
    (found,) = measure_steps([case()], device_name="cuda")
    assert found.device_bytes < 2**30


@pytest.mark.gpu
def test_on_a_gpu_the_measured_step_is_captured_and_decides_how_many_trials_share_it():
    measured = measure_steps([case()], device_name="cuda")
    found = worker_demand(ClusterProfile(), [{"CPU": 16, "GPU": 1}], measured=measured, images_bytes=0)
    assert measured[0].is_captured
    expected = (0.0625, "CPUs, with MPS") if mps_serves() else (0.5, "turns of captured steps")
    assert (found.gpus, found.bound) == expected


@NO_GPU
def test_a_gpu_that_does_not_answer_is_an_error_and_never_measured_on_the_cpu():
    with pytest.raises(ClusterError, match=r"^One step of test_resnet at 32 px and 8 images fails on cuda"):
        measure_steps([case()], device_name="cuda")
