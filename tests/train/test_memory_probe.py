"""A step's memory is measured as training would take it, in a process of its own."""

import os
import signal
import stat
from pathlib import Path

import numpy as np
import pytest
import torch

from consilia.config.network import ModelSpec, Preprocessing
from consilia.config.space import Architecture, Hyperparameters
from consilia.errors import ClusterError
from consilia.train.faults import is_out_of_memory
from consilia.train.memory_probe import StepCase, StepMemory, estimate_step, measure_step
from consilia.train.memory_probe_process import measure_in_process
from consilia.train.networks.factory import build_model

ONE_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def case(architecture: str = "test_resnet", *, side: int = 32, batch: int = 8, **changes: object) -> StepCase:
    return StepCase(
        hyperparameters=Hyperparameters(architecture=architecture, mixup=0.2),
        spec=ModelSpec(architecture=Architecture(timm=architecture), n_classes=3, channels=1),
        preprocessing=Preprocessing(size=32, channels=1, image_size=side, mean=(0.5,), std=(0.25,)),
        batch_size=batch,
        **changes,
    )


def measured(**arguments: object) -> StepMemory:
    (found,) = measure_in_process([case(**arguments)], device="cpu", n_threads=1)
    return found


@pytest.fixture(scope="module")
def small() -> StepMemory:
    return measured()


@pytest.mark.slow("measures large steps; the last of several steps is found to need more than the first as well")
def test_more_images_need_more_memory_and_so_do_larger_ones(small: StepMemory):
    more, larger = measured(batch=256, side=64), measured(batch=64, side=128)
    activations = estimate_step(case(batch=256, side=64))
    assert more.host_bytes - small.host_bytes > activations / 2  # some of them are never alive together
    assert larger.host_bytes - small.host_bytes > activations / 2


def test_a_larger_network_needs_more_memory_for_weights_gradients_moments_and_average(small: StepMemory):
    weights = sum(each.numel() for each in build_model(case("resnet18").spec).parameters())
    assert measured(architecture="resnet18").host_bytes - small.host_bytes > 0.9 * 5 * 4 * weights


def test_a_measured_step_says_what_it_was(small: StepMemory):
    assert small.title == "one step of test_resnet at 32 px and 8 images"
    assert (small.device_bytes, small.device_total_bytes) == (0, 0)


def test_the_estimate_puts_larger_steps_first():
    estimates = [estimate_step(case(**each)) for each in ({}, {"side": 64}, {"side": 64, "batch": 64})]
    assert estimates == sorted(estimates)
    assert estimate_step(case("resnet50")) > estimate_step(case("resnet18")) > estimate_step(case())


def test_a_step_that_fails_is_refused_with_its_architecture_batch_and_image_size():
    with pytest.raises(ClusterError, match=r"(?s)^One step of test_resnet at 32 px and 8 images fails on no_device"):
        measure_in_process([case()], device="no_device", n_threads=1)


def test_of_several_steps_the_one_that_finds_no_memory_is_refused_with_what_to_lower():
    with pytest.raises(ClusterError) as refusal:
        measure_in_process([case(), case(side=64, batch=2**34)], device="cpu", n_threads=1)  # images of 16 TB
    assert str(refusal.value).startswith("One step of test_resnet at 64 px and 17179869184 images runs out of memory")
    assert "Lower training.batch_size or training.image_size" in str(refusal.value)


def test_several_steps_are_measured_in_one_process_which_a_large_parent_does_not_make_seem_large(small: StepMemory):
    _ballast = np.ones(200 * 2**20, np.uint8)
    first, second = measure_in_process([case(), case(batch=256, side=64)], device="cpu", n_threads=1)
    assert (first.title, second.title) == (small.title, case(batch=256, side=64).title)
    assert abs(first.host_bytes - small.host_bytes) < 50 * 2**20
    assert second.host_bytes > first.host_bytes


def test_a_process_that_the_system_ends_is_taken_to_have_run_out_of_memory(tmp_path: Path):
    with pytest.raises(ClusterError, match=r"runs out of memory.*the system ended the process"):
        measure_in_process([case()], device="cpu", n_threads=1, python=script(tmp_path, f"kill -{signal.SIGKILL} $$"))


def test_a_step_that_takes_too_long_is_refused_with_the_keys_that_spare_it(tmp_path: Path):
    slow = script(tmp_path, "exec sleep 60")
    with pytest.raises(ClusterError, match=r"(?s)test_resnet at 32 px.*longer than 0.2 s.*cluster.memory_per_slot"):
        measure_in_process([case()], device="cpu", n_threads=1, seconds=0.2, python=slow)


def test_a_process_that_gives_no_figures_is_refused(tmp_path: Path):
    with pytest.raises(ClusterError, match="gave no figures"):
        measure_in_process([case()], device="cpu", n_threads=1, python=script(tmp_path, "echo nothing"))


def script(folder: Path, line: str) -> str:
    """Stands in place of Python."""
    file = folder / "python"
    file.write_text(f"#!/bin/sh\n{line}\n", encoding="ascii")
    os.chmod(file, file.stat().st_mode | stat.S_IXUSR)
    return str(file)


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


@ONE_GPU
def test_on_a_gpu_the_peak_holds_activations_and_five_copies_of_the_weights():
    device = torch.device("cuda")
    first, more = (measure_step(case("resnet18", side=64, batch=batch), device) for batch in (8, 128))
    weights = sum(each.numel() for each in build_model(case("resnet18").spec).parameters())
    assert first.device_bytes > 0.95 * 5 * 4 * weights
    assert more.device_bytes > first.device_bytes
    assert 0 < more.context_bytes < more.device_total_bytes


@ONE_GPU
def test_on_a_gpu_a_step_of_several_workers_holds_the_buckets_of_their_gradients():
    device = torch.device("cuda")
    alone, together = (measure_step(case("resnet18", n_workers=n), device) for n in (1, 2))
    weights = sum(each.numel() for each in build_model(case("resnet18").spec).parameters())
    assert together.device_bytes - alone.device_bytes > 0.5 * 4 * weights


@ONE_GPU
def test_a_step_larger_than_the_gpu_is_refused_with_its_architecture():
    with pytest.raises(ClusterError, match="resnet50 at 2048 px and 4096 images runs out of memory"):
        measure_in_process([case("resnet50", side=2048, batch=4096)], device="cuda", n_threads=1)
