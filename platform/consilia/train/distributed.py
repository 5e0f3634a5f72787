"""What the workers of one data-parallel trial do together; a single worker takes the same steps alone.

All workers of a group take the same path: the same folds, the same batches, the same end. Whatever only one of them may
see (a stop, a file, an error) is therefore agreed on here before any of them acts on it. Inside an epoch there is no
time for that: an error of one worker there loses the group (`GroupLost`).
"""

import pickle
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Protocol, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from consilia.config.records import Logits
from consilia.errors import ConsiliaError
from consilia.train.batch_norm import share_batch_norms
from consilia.train.faults import GroupLost, exchanging

T = TypeVar("T")


class Group(Protocol):
    """The workers of one trial. Each must call the same methods in the same order, or the others wait for ever."""

    @property
    def rank(self) -> int:
        """Return the number of this worker, 0 ... size-1; worker 0 leads: it alone writes files and reports."""

    @property
    def size(self) -> int:
        """Return the number of workers."""

    def prepare(self, model: nn.Module) -> None:
        """Give the model worker 0's weights, and batch norms that see the whole batch; names stay as they are.

        Raises:
            PlanError: A kind of norm that workers cannot compute together.
        """

    def sum_gradients(self, model: nn.Module) -> None:
        """Replace each gradient by its sum over the workers."""

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum over the workers; `values` stays as it is."""

    def any(self, flag: bool) -> bool:
        """Say whether the flag is set on any worker."""

    def gather(self, logits: Logits) -> Logits:
        """Return the workers' logits, one after the other, (n of all, n_classes)."""

    def agree(self, make: Callable[[], T]) -> T:
        """Let each worker make its own; where one fails, all raise the first one's error.

        `make` must not exchange tensors: a worker that failed there would leave the others waiting.
        """

    def from_leader(self, make: Callable[[], T]) -> T:
        """Let worker 0 make it, and give it to all; where it fails, all raise its error."""

    def lockstep(self) -> AbstractContextManager[None]:
        """Enclose what exchanges tensors.

        Raises:
            GroupLost: A worker failed alone. consilia's own errors pass: all workers meet them alike.
        """


class Alone:
    """One worker: nothing to agree on."""

    rank = 0
    size = 1

    def prepare(self, model: nn.Module) -> None:
        """Leave the model as it is."""

    def sum_gradients(self, model: nn.Module) -> None:
        """Leave the gradients as they are."""

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values."""
        return values

    def any(self, flag: bool) -> bool:
        """Return the flag."""
        return flag

    def gather(self, logits: Logits) -> Logits:
        """Return the logits."""
        return logits

    def agree(self, make: Callable[[], T]) -> T:
        """Make it."""
        return make()

    def from_leader(self, make: Callable[[], T]) -> T:
        """Make it."""
        return make()

    def lockstep(self) -> AbstractContextManager[None]:
        """Let errors pass."""
        return nullcontext()


ALONE = Alone()


class TorchGroup:
    """The workers of the process group that is already initialised, as Ray Train's torch backend does.

    Tensors travel in that group, over NCCL on GPUs. What workers agree on travels over gloo, so that asking whether to
    stop does not wait for the GPU. Messages are pickled, between processes of one trial only.
    """

    def __init__(self, *, timeout_seconds: float = 1800.0) -> None:
        """Join the group; every worker does so once, at the same time.

        Args:
            timeout_seconds: How long workers wait for each other before they take the group as lost; longer than an
                epoch's validation takes.
        """
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        everyone = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_seconds))
        assert isinstance(everyone, dist.ProcessGroup), "all workers are members"
        self._talk = everyone

    def prepare(self, model: nn.Module) -> None:
        """Give the model worker 0's weights, and batch norms that see the whole batch."""
        share_batch_norms(model)
        for tensor in (*model.parameters(), *model.buffers()):
            values = tensor.detach().contiguous()
            with exchanging():
                dist.broadcast(values, src=0)
            tensor.detach().copy_(values)

    def sum_gradients(self, model: nn.Module) -> None:
        """Replace each gradient by its sum over the workers, all in one exchange."""
        gradients = [each.grad for each in model.parameters() if each.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        with exchanging():
            dist.all_reduce(flat)
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum over the workers."""
        total = values.clone()
        with exchanging():
            dist.all_reduce(total)
        return total

    def any(self, flag: bool) -> bool:
        """Say whether the flag is set on any worker."""
        flags = torch.tensor([int(flag)])
        with exchanging():
            dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self._talk)
        return bool(flags.item())

    def gather(self, logits: Logits) -> Logits:
        """Return the workers' logits, one after the other."""
        return np.concatenate(self._say(logits))

    def agree(self, make: Callable[[], T]) -> T:
        """Let each worker make its own; where one fails, all raise the first one's error."""
        made, error = _try(make)
        errors = [each for each in self._say(error) if each is not None]
        if errors:
            raise errors[0]
        return cast(T, made)

    def from_leader(self, make: Callable[[], T]) -> T:
        """Let worker 0 make it, and give it to all; where it fails, all raise its error."""
        message = [_try(make) if self.rank == 0 else None]
        with exchanging():
            dist.broadcast_object_list(message, src=0, group=self._talk)
        made, error = cast(tuple[T | None, Exception | None], message[0])
        if error is not None:
            raise error
        return cast(T, made)

    @contextmanager
    def lockstep(self) -> Iterator[None]:
        """Turn an error of one worker alone into the loss of the group."""
        try:
            yield
        except (ConsiliaError, torch.AcceleratorError):
            raise  # all workers meet the first alike; after the second this process is lost anyway
        except Exception as error:
            raise GroupLost(f"a worker of this trial failed alone: {error}", own_error=error) from error

    def _say(self, value: T) -> list[T]:
        """Return what each worker says, in order."""
        values: list[T | None] = [None] * self.size
        with exchanging():
            dist.all_gather_object(values, value, group=self._talk)
        return cast(list[T], values)


def _try(make: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """Return what was made, or an error that can be sent."""
    try:
        return make(), None
    except Exception as error:
        return None, _sendable(error)


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # such as an error whose arguments are not its text
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
