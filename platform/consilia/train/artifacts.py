"""Weights of a finished fold, with what is needed to use them; written atomically, read with checks."""

from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from consilia.config.frozen import Frozen
from consilia.errors import StudyError
from consilia.files import write_atomically
from consilia.train.input import Preprocessing
from consilia.train.networks.factory import ModelSpec

StateDict = dict[str, torch.Tensor]

_METADATA_KEY = "consilia"


class _Member(Frozen):
    model: ModelSpec
    preprocessing: Preprocessing


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


_AGAIN = "Train the fold again by deleting its folder."


def _read_member(path: Path, *, with_weights: bool) -> tuple[_Member, StateDict]:
    try:
        with safe_open(path, framework="pt") as file:
            member = _Member.model_validate_json((file.metadata() or {})[_METADATA_KEY])
            names = file.keys() if with_weights else ()
            state = {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError, KeyError, ValidationError) as error:
        raise StudyError(f"{path} must hold weights that consilia wrote, but: {error}. {_AGAIN}") from error
    return member, state
