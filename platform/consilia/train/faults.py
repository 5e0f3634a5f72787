"""Errors that end a training or interrupt it, and how to recognise them.

A full disk pauses the trial at its last checkpoint until somebody makes room. Exhausted memory, or a configuration that
cannot be trained, fails it. A worker that is gone takes its whole group with it.
"""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from consilia.config.records import TrialOutcome
from consilia.errors import RunError

_FULL = (errno.ENOSPC, errno.EDQUOT)
# Beside torch's own error a plain RuntimeError may mean it. These are the words of CPU allocators on Linux, macOS and
# Windows, and of cuBLAS and cuDNN when they get no workspace.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "Cannot allocate memory", "ALLOC_FAILED")


class TrainingError(RunError):
    """This configuration cannot be trained further; others may."""


class DiskFullError(RunError):
    """A file could not be written for want of room or quota; names it."""


class GroupLost(RunError):  # noqa: N818 # a state of the group, which its processes do not survive
    """The workers of a trial no longer act together; the processes of all of them must be replaced.

    Attributes:
        own_error: What this worker failed with; None where it waited for another one in vain.
        outcome: How the trial ends, where this worker's error ends it; None where fresh workers can continue it.
    """

    def __init__(self, message: str, *, own_error: Exception | None = None) -> None:
        super().__init__(message)
        self.own_error = own_error
        self.outcome: TrialOutcome | None = None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file that a full disk kept from being written; any other error passes.

    Raises:
        DiskFullError: No room is left on the disk, or none of the quota.
    """
    try:
        yield
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise DiskFullError(
            f"the disk is full: {path} could not be written; make room there, or raise the quota, and run the study "
            f"again: it goes on where it was"
        ) from error


@contextmanager
def exchanging() -> Iterator[None]:
    """Enclose an exchange of tensors, and tell a worker that is gone from an error of this worker's own.

    Raises:
        GroupLost: The backend could not reach another worker, or waited for it too long.
    """
    try:
        yield
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise GroupLost(f"another worker of this trial is gone or does not answer ({reason})") from error


def is_disk_full(error: BaseException | None) -> bool:
    """Say whether a full disk or a full quota caused an error, directly or through one that led to it.

    pyarrow and json raise an OSError; torch raises an error of its own, in whose context the OSError stands;
    safetensors puts the number into its text.
    """
    if error is None:
        return False
    if isinstance(error, DiskFullError) or (isinstance(error, OSError) and error.errno in _FULL):
        return True
    number = re.search(r"\(os error (\d+)\)", str(error))
    if number is not None and int(number[1]) in _FULL:
        return True
    return is_disk_full(error.__cause__ or error.__context__)


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether `error` means that main or device memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
