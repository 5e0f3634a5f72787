"""What a worker needs of GPU and main memory: as the profile says, or as it was measured."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from consilia.config.study import ClusterProfile
from consilia.errors import ClusterError
from consilia.train.step_case import StepMemory, fits

_HEADROOM = 1.2  # over the peak of a step: torch's allocator fragments, and batches differ by an image
_TURNS = 2  # trials on a GPU that captures their steps: one computes while the other scores, writes or begins
_CLIENTS = 48  # of MPS on a GPU of compute capability 7 and above; man nvidia-cuda-mps-control
_HOST_HEADROOM = 1.1  # over the peak of a process: reports, checkpoints and predictions come and go

HELPER_BYTES = 400_000_000
"""What runs beside a worker: its trial's relay, and its part of the broker and of what Ray Train keeps once a node
(shared pages divided among the processes that share them). Each worker carries it, wherever they start.

Source: benchmarks/startup.py, Ray 2.60, two slots on a node with two CPU cores: 295 MiB a slot.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Of one worker."""

    gpus: float
    memory: int  # bytes of host memory; 0: nothing is known of it
    most: StepMemory | None = None  # the measured step that decided it
    bound: str = ""  # what keeps more trials from sharing a GPU, where that was computed


def needs_measuring(profile: ClusterProfile) -> bool:
    """Say whether the profile leaves something to be measured."""
    return "auto" in (profile.gpus_of_worker, profile.memory_per_slot)


def worker_demand(
    profile: ClusterProfile,
    totals: Iterable[Mapping[str, float]],
    *,
    measured: Sequence[StepMemory],
    images_bytes: int,
) -> Demand:
    """Turn the profile and the measured steps into a worker's need.

    Args:
        profile: Numbers in it stand; `auto` follows the measured steps.
        totals: Resources of each node, all of them, free or not.
        measured: The most demanding steps, on every kind of GPU; not empty where the profile leaves something open.
        images_bytes: Of the image store, which a slot keeps on its GPU where it fits.

    Raises:
        ClusterError: The profile puts more trials on a GPU than fit, or a step was measured without a GPU.
    """
    if needs_measuring(profile) and not measured:
        raise ValueError("the profile says auto, so a step must have been measured")
    gpus, bound = profile.gpus_of_worker, ""
    if gpus == "auto":
        gpus, bound = _automatic_gpus(profile, list(totals), measured, images_bytes)
    else:
        _check_share(gpus, measured, images_bytes)
    memory = profile.memory_per_slot
    if memory == "auto":
        n_bytes = round(_HOST_HEADROOM * max(each.host_bytes for each in measured)) + HELPER_BYTES
    else:
        n_bytes = round(memory * 1e9)
    return Demand(gpus=gpus, memory=n_bytes, most=max(measured, key=_size, default=None), bound=bound)


def trials_per_gpu(step: StepMemory, *, images_bytes: int) -> int:
    """Return how many trials with this step share a GPU, at least 1: alone it has been seen to fit.

    Args:
        step: Measured on a GPU.
        images_bytes: Of the store; each slot holds its own copy where `train.batches` puts it on the device.
    """
    free = step.device_total_bytes - step.context_bytes
    images = images_bytes if fits(images_bytes, free) else 0
    return max(1, int(step.device_total_bytes // (step.device_bytes * _HEADROOM + step.context_bytes + images)))


def _automatic_gpus(
    profile: ClusterProfile, totals: list[Mapping[str, float]], measured: Sequence[StepMemory], images_bytes: int
) -> tuple[float, str]:
    """Return a worker's share of a GPU, and what keeps it from being smaller."""
    with_gpus = [node for node in totals if node.get("GPU", 0) >= 1]
    if not with_gpus:
        return 0.0, ""
    if any(step.device_total_bytes == 0 for step in measured):
        raise ClusterError("The cluster has GPUs, but a step was measured without one: set cluster.gpus_per_slot.")
    if profile.workers_per_trial > 1:
        return 1.0, ""  # NCCL takes no two workers of a trial on one GPU
    by_cpus = max(int(node.get("CPU", 0) / (node["GPU"] * profile.cpus_per_slot) + 1e-9) for node in with_gpus)
    by_memory = min(trials_per_gpu(step, images_bytes=images_bytes) for step in measured)
    bounds = {"CPUs": by_cpus, "memory": by_memory}
    if any(step.by_mps for step in measured):
        bounds = {f"{name}, with MPS": n for name, n in (bounds | {"clients": _CLIENTS}).items()}
    elif all(step.is_captured for step in measured):
        # Processes take turns on a GPU. One whose steps are captured leaves it idle between them for moments only.
        bounds["turns of captured steps"] = _TURNS
    bound = min(bounds, key=lambda name: bounds[name])
    n = max(1, bounds[bound])
    return (10_000 // n) / 10_000, bound  # Ray counts in ten-thousandths; rounded up, n shares would exceed the GPU


def _check_share(gpus: float, measured: Sequence[StepMemory], images_bytes: int) -> None:
    """Refuse a share of a GPU with which the measured steps would run out of memory."""
    if not 0 < gpus < 1:
        return
    together = int(1 / gpus + 1e-6)
    for step in measured:
        if step.device_total_bytes and together > (fit := trials_per_gpu(step, images_bytes=images_bytes)):
            raise ClusterError(
                f"cluster.gpus_per_slot is {gpus:g}, so that {together} trials share a GPU, but {fit} fit: "
                f"{step.title} peaks at {step.device_bytes / 1e9:.1f} GB of {step.device_total_bytes / 1e9:.1f} GB. "
                f"Set it to {math.ceil(1e4 / fit) / 1e4:g} or more, or to auto."
            )


def _size(step: StepMemory) -> tuple[float, int]:
    """Order steps by the part of their GPU that they take, then by main memory."""
    part = step.device_bytes / step.device_total_bytes if step.device_total_bytes else 0.0
    return part, step.host_bytes
