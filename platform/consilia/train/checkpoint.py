"""The state of a fold after its last complete epoch; nothing is read from it that could run code."""

import zipfile
from pathlib import Path
from typing import Any

import torch

from consilia.errors import StudyError
from consilia.files import write_atomically


class UnusableCheckpointError(StudyError):
    """A checkpoint is damaged or belongs to something else: the fold starts again."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` atomically.

    Args:
        path: Final name.
        state: Tensors, numbers, strings, and lists and dicts of them.
    """
    write_atomically(path, lambda temporary: write_state(state, temporary))


def write_state(state: dict[str, Any], path: Path) -> None:
    """Write `state` through a file of Python's, whose error says that the disk is full; torch's own does not."""
    with path.open("wb") as file:
        torch.save(state, file)


def load_checkpoint(path: Path, *, fingerprint: str) -> dict[str, Any] | None:
    """Read a state back, or return None where there is none.

    Args:
        path: Name given to `save_checkpoint`.
        fingerprint: Of what is to be trained; a checkpoint of something else is not taken up.

    Raises:
        UnusableCheckpointError: The file is damaged, or its fingerprint another one; names it.
    """
    if not path.exists():
        return None
    try:
        _check_sums(path)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        theirs = state["fingerprint"]
    except Exception as error:  # a damaged archive raises errors of many kinds, none of which may end the trial
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UnusableCheckpointError(f"{path} is damaged ({reason}): the fold starts again.") from error
    if theirs != fingerprint:
        raise UnusableCheckpointError(f"{path} belongs to another configuration: the fold starts again.")
    return state


def _check_sums(path: Path) -> None:
    """Raise where a byte has changed: torch writes checksums, but does not look at them when it loads."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"{damaged} does not have its checksum")
