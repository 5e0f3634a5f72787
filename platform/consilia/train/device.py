"""Where training runs: device, threads and precision."""

import errno
import os
import socket
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal

import torch

from consilia.config.study import ClusterProfile
from consilia.errors import ClusterError

Precision = Literal["auto", "float32"]

MEMORY_FORMAT = torch.channels_last
"""Of models and batches: measured faster than contiguous, on GPUs and, by 10-50 %, on CPUs."""


def resolve_device(name: str) -> torch.device:
    """Return the device called `name`; "auto" is the first GPU if there is one, else the CPU."""
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_of(profile: ClusterProfile) -> str:
    """Return what `resolve_device` is to be called with for training in this process.

    Raises:
        ClusterError: The profile requires a GPU, and torch finds none.
    """
    if profile.gpus == "required" and not torch.cuda.is_available():
        raise ClusterError("cluster.gpus is required, but torch finds no GPU here. Set it to auto to train on the CPU.")
    return "cpu" if profile.gpus == "none" else "auto"


def set_threads(n: int) -> None:
    """Let torch compute with `n` threads in this thread, and in those that have not used it yet.

    For the owner of the process.
    """
    torch.set_num_threads(n)


def limit_memory(gpus: float) -> None:
    """Let this process take no more of a GPU's memory than its share of the GPU, so that it starves no neighbour.

    Args:
        gpus: The share; from 1 on, and at 0, there is no neighbour.
    """
    if 0 < gpus < 1 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(gpus)


def steady_convolutions(device: torch.device, *, rounds: bool) -> AbstractContextManager[None]:
    """Keep cuDNN from algorithms that add up in any order, and from choosing some by timing; say whether it may round.

    Args:
        device: That computes.
        rounds: Whether convolutions in float32 may be computed in TF32.
    """
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=rounds)


def mps_serves() -> bool:
    """Say whether NVIDIA's MPS serves what starts here: kernels of several processes then run at the same time.

    Its daemon listens on a socket, which it leaves behind when it ends. One that lives refuses a socket of another
    type, and never hears of it.
    """
    control = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY") or "/tmp/nvidia-mps", "control")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        return probe.connect_ex(str(control)) in (0, errno.EPROTOTYPE)


def computes_in_bf16(device: torch.device, precision: Precision) -> bool:
    """Say whether networks compute in bfloat16: for "auto", on a GPU that has it."""
    return precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return bf16 autocast for "auto" on a GPU that computes in bf16, else one that does nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=computes_in_bf16(device, precision))
