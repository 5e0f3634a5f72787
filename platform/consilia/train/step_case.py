"""A training step whose memory is asked for, what it took, and what fits beside it."""

from typing import Literal

from pydantic import Field

from consilia.config.frozen import Frozen
from consilia.config.network import ModelSpec, Preprocessing
from consilia.config.space import Hyperparameters

_DEVICE_SHARE = 0.25  # of a GPU's free memory that the images may take: the rest is for the network


class StepCase(Frozen):
    """A training step whose memory is asked for."""

    hyperparameters: Hyperparameters
    spec: ModelSpec
    preprocessing: Preprocessing
    batch_size: int = Field(ge=2)  # images of one worker
    n_workers: int = Field(default=1, ge=1)  # that train together
    precision: Literal["auto", "float32"] = "auto"

    @property
    def title(self) -> str:
        """The step as messages call it."""
        side = self.preprocessing.image_size
        return f"one step of {self.hyperparameters.architecture} at {side} px and {self.batch_size} images"


class StepMemory(Frozen):
    """What a step took, bytes."""

    title: str  # of the StepCase
    device_bytes: int  # the most that torch reserved on the GPU; 0 on the CPU
    context_bytes: int  # what CUDA takes beside it, for its context and kernels
    device_total_bytes: int  # of the whole GPU; 0 on the CPU
    host_bytes: int  # the most main memory that the process has had since it started
    is_captured: bool = False  # the step is replayed as a CUDA graph, so that the GPU need not wait for the process
    by_mps: bool = False  # NVIDIA's MPS serves the process that measured it


def fits(n_bytes: int, free_bytes: int) -> bool:
    """Say whether images of `n_bytes` may lie on a device that has `free_bytes` left."""
    return n_bytes <= _DEVICE_SHARE * free_bytes
