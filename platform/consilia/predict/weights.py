"""From weights files to networks in memory."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from consilia.bundle.document import Member
from consilia.config.network import Preprocessing
from consilia.errors import BundleError, PlanError, UserError
from consilia.train.device import MEMORY_FORMAT
from consilia.train.networks.factory import build_model


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedNetwork:
    """One network in memory: float32, in inference mode, on the ensemble's device."""

    member: int  # from 0, as in the bundle
    fold: int  # from 0
    preprocessing: Preprocessing
    module: nn.Module


def load_networks(
    members: Sequence[Member], files: Mapping[str, Path], device: torch.device
) -> tuple[LoadedNetwork, ...]:
    """Load the networks of all members, those of a member one after the other.

    Args:
        members: Of the ensemble.
        files: Where each network's safetensors file lies, by its name in the members.
        device: That the networks compute on.

    Raises:
        BundleError: A file's tensors are not exactly those of its model.
    """
    return tuple(
        LoadedNetwork(member=number, fold=fold, preprocessing=network.preprocessing, module=module)
        for number, member in enumerate(members)
        for fold, (network, module) in enumerate(zip(member.networks, _load_member(member, files, device), strict=True))
    )


def choose_device(name: str) -> torch.device:
    """Return the torch device called `name`; "auto" is the best one present.

    Raises:
        UserError: torch does not know the device, or cannot reach it.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device must be one that torch can use here, but got {name!r}: {reason}") from error
    return device


def _load_member(member: Member, files: Mapping[str, Path], device: torch.device) -> list[nn.Module]:
    """Return the member's networks, one a fold, in inference mode on `device`.

    The files are compared with the model before it takes any memory, and it is built once: folds are copies.
    """
    try:
        with torch.device("meta"):
            expected = build_model(member.model).state_dict()
        states = [_read_state(expected, files[network.file]) for network in member.networks]
        with torch.random.fork_rng(devices=[]):  # building draws random weights; loading must not move the seed
            template = build_model(member.model).eval()
    except PlanError as error:
        first = files[member.networks[0].file]
        raise BundleError(f"{first}: the model of trial {member.trial} cannot be built: {error}") from error
    modules = []
    for state in states:
        module = copy.deepcopy(template)
        module.load_state_dict(state, strict=True)
        modules.append(module.to(device, memory_format=MEMORY_FORMAT))  # type: ignore[call-overload]
    return modules


def _read_state(expected: Mapping[str, torch.Tensor], file: Path) -> dict[str, torch.Tensor]:
    """Read a network's tensors, which must have exactly the names, shapes and types of `expected`."""
    try:
        state = load_file(file, device="cpu")
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{file}: the network cannot be read: {error}") from error
    if state.keys() != expected.keys():
        name = min(state.keys() ^ expected.keys())
        which = "lacks" if name in expected else "also holds"
        raise BundleError(f"{file} must hold exactly the model's tensors, but {which} {name!r}.")
    for name, tensor in expected.items():
        if (state[name].shape, state[name].dtype) != (tensor.shape, tensor.dtype):
            raise BundleError(
                f"{file}: {name!r} must be {tuple(tensor.shape)} {tensor.dtype}, but is "
                f"{tuple(state[name].shape)} {state[name].dtype}."
            )
    return state
