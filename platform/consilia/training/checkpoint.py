"""The state of a fold after its last complete epoch; nothing is read from it that could run code."""

import logging
import zipfile
from pathlib import Path
from typing import Any

import torch

from consilia.files import write_atomically

_log = logging.getLogger(__name__)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` atomically.

    Args:
        path: Final name.
        state: Tensors, numbers, strings, and lists and dicts of them.
    """
    write_atomically(path, lambda temporary: torch.save(state, temporary))


def load_checkpoint(path: Path, *, fingerprint: str) -> dict[str, Any] | None:
    """Read a state back, or return None and say so where the fold must start again.

    Args:
        path: Name given to `save_checkpoint`.
        fingerprint: Of what is to be trained; a checkpoint of something else is not taken up.
    """
    if not path.exists():
        return None
    try:
        _check_sums(path)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        theirs = state["fingerprint"]
    except Exception as error:  # a damaged archive raises errors of many kinds, none of which may end the trial
        _log.warning("%s is damaged (%s): the fold starts again.", path, str(error).partition("\n")[0])
        return None
    if theirs != fingerprint:
        _log.warning("%s belongs to another configuration: the fold starts again.", path)
        return None
    return state


def _check_sums(path: Path) -> None:
    """Raise where a byte has changed: torch writes checksums, but does not look at them when it loads."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"{damaged} does not have its checksum")
