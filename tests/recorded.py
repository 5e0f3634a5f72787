"""A CUDA graph's stand-in on a CPU: operators are recorded once, and replayed on the memory they were recorded on."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Recorded:
    """Records as `train.capture.CudaCapture` does: a replay runs no Python, and sees what the tensors hold by then.

    A tensor that a step has looked at and that was replaced since by another is therefore missed, as on a GPU.
    """

    def __init__(self) -> None:
        self.n_recorded = self.n_replays = 0

    def __call__(self, run: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        run()
        with (tape := _Tape()):
            loss = run()
        self.n_recorded += 1

        def replay() -> torch.Tensor:
            self.n_replays += 1
            tape.play()
            return loss

        return replay


class _Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[torch.Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "a graph cannot wait for its device"
        kwargs = kwargs or {}
        given = {_memory(each) for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)}
        made = func(*args, **kwargs)
        new = [each for each in tree_leaves(made) if isinstance(each, torch.Tensor) and _memory(each) not in given]
        self._calls.append((func, args, kwargs, new))
        return made

    def play(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, new in self._calls:
                given = {_memory(each) for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)}
                made = func(*args, **kwargs)
                again = [each for each in tree_leaves(made) if isinstance(each, torch.Tensor)]
                again = [each for each in again if _memory(each) not in given]
                for old, value in zip(new, again, strict=True):
                    old.copy_(value)


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
