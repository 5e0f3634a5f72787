"""CUDA graphs: what a function asks a GPU to do is recorded once and played back, without a launch for each kernel."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch

Result = TypeVar("Result")

_WARM_UPS = 3  # calls before a capture, in which libraries choose and allocate what they need


class Capture(Protocol):
    """Records what a function asks a device to do."""

    def __call__(self, run: Callable[[], Result]) -> Callable[[], Result]:
        """Return what does it again, with the present content of the same tensors, and returns the same tensors.

        `run` may be called several times before it is recorded.
        """


class CudaCapture:
    """Captures functions as CUDA graphs, which share their memory: they are replayed one at a time.

    Args:
        device: That the functions run on.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call] # torch's
        self._pool: Any = None

    def __call__(self, run: Callable[[], Result]) -> Callable[[], Result]:
        """As of Capture."""
        present = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(present)
        try:
            with torch.cuda.stream(self._stream):
                for _ in range(_WARM_UPS):
                    run()
        finally:
            present.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads of this process may upload images meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            result = run()
        self._pool = self._pool or graph.pool()

        def replay() -> Result:
            graph.replay()
            return result

        return replay


def capture_for(device: torch.device) -> Capture | None:
    """Return what records functions on a device; None: they run eagerly there."""
    return CudaCapture(device) if device.type == "cuda" else None


def why_not(error: RuntimeError, device: torch.device) -> str:
    """Say why a function could not be captured.

    Raises:
        torch.AcceleratorError: It has broken the device, which is lost to this process.
    """
    _check(device)
    return (str(error).strip() or type(error).__name__).partition("\n")[0]


def _check(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
