"""Networks as files: the state of a fold while it is trained, and its weights once it is finished.

Nothing is read from either that could run code.
"""

import zipfile
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from consilia.config.frozen import Frozen
from consilia.config.network import ModelSpec, Preprocessing
from consilia.errors import StudyError
from consilia.files import write_atomically

StateDict = dict[str, torch.Tensor]

_METADATA_KEY = "consilia"
_AGAIN = "Train the fold again by deleting its folder."


class UnusableCheckpointError(StudyError):
    """A checkpoint is damaged or belongs to something else: the fold starts again."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write the state of a fold after a complete epoch atomically.

    Args:
        path: Final name.
        state: Tensors, numbers, strings, and lists and dicts of them.
    """
    write_atomically(path, lambda temporary: write_state(state, temporary))


def write_state(state: dict[str, Any], path: Path) -> None:
    """Write `state` through a file of Python's, whose error tells that the disk is full; torch's own does not."""
    with path.open("wb") as file:
        torch.save(state, file)


def load_checkpoint(path: Path, *, fingerprint: str) -> dict[str, Any] | None:
    """Read a state back, or return None where there is none.

    Args:
        path: Name given to `save_checkpoint`.
        fingerprint: Of what is to be trained; a checkpoint of something else is refused.

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


def write_weights(path: Path, state: StateDict, *, model: ModelSpec, preprocessing: Preprocessing) -> None:
    """Write weights with what is needed to use them, as safetensors."""
    metadata = {_METADATA_KEY: _Member(model=model, preprocessing=preprocessing).model_dump_json()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))


def read_network_metadata(path: Path) -> tuple[ModelSpec, Preprocessing]:
    """Read what is needed to use the weights at `path`, without reading them.

    Raises:
        StudyError: The file is missing, damaged or not one of consilia's; names it.
    """
    member, _ = _read_member(path, with_weights=False)
    return member.model, member.preprocessing


def read_weights(path: Path) -> tuple[ModelSpec, Preprocessing, StateDict]:
    """Read what `write_weights` wrote; tensors are on the CPU.

    Raises:
        StudyError: The file is missing, damaged or not one of consilia's; names it.
    """
    member, state = _read_member(path, with_weights=True)
    return member.model, member.preprocessing, state


class _Member(Frozen):
    model: ModelSpec
    preprocessing: Preprocessing


def _read_member(path: Path, *, with_weights: bool) -> tuple[_Member, StateDict]:
    try:
        with safe_open(path, framework="pt") as file:
            member = _Member.model_validate_json((file.metadata() or {})[_METADATA_KEY])
            names = file.keys() if with_weights else ()
            state = {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError, KeyError, ValidationError) as error:
        raise StudyError(f"{path} must hold weights that consilia wrote, but: {error}. {_AGAIN}") from error
    return member, state


def _check_sums(path: Path) -> None:
    """Raise where a byte has changed: torch writes checksums, but does not look at them when it loads."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"{damaged} does not have its checksum")
