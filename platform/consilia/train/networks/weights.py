"""Pretrained weights in files: found by the model's name, read, fitted to a network, and nothing left to chance."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from consilia.config.study import WeightsSource
from consilia.errors import PlanError
from consilia.files import sha256_of_file

if TYPE_CHECKING:
    import torch

State = Mapping[str, "torch.Tensor"]
SUFFIX = ".safetensors"


def find_weights(name: str, source: WeightsSource) -> Path | None:
    """Return the file with a model's weights, or None where the folder has none.

    Args:
        name: Of the timm model as the search space has it, with its tag or without; the file must have the same
            name, since `resnet18.a1_in1k` and `resnet18.a2_in1k` are different weights.
        source: A folder or a file.
    """
    assert source.path is not None
    file = source.path if source.kind == "file" else source.path / f"{name}{SUFFIX}"
    return file if file.name == f"{name}{SUFFIX}" and file.is_file() else None


def missing_weights(names: Collection[str], source: WeightsSource) -> list[str]:
    """Return the models for which the folder or file has no weights, in order."""
    return [name for name in names if find_weights(name, source) is None]


def require_weights(names: Collection[str], source: WeightsSource) -> dict[str, Path]:
    """Return each model's file.

    Raises:
        PlanError: Some have none; names all of them and the ways out.
    """
    if missing := missing_weights(names, source):
        raise PlanError(
            f"Pretrained weights are asked for, but {source.path} has none of {', '.join(missing)}. A folder must hold "
            f"{missing[0]}{SUFFIX} and so on: fill it once where there is internet "
            f"(consilia weights fetch SPACE --to {source.path}), or train from scratch (training.weights: none)."
        )
    return {name: file for name in names if (file := find_weights(name, source)) is not None}


def read_weights_file(path: Path) -> tuple[dict[str, "torch.Tensor"], dict[str, str]]:
    """Return the tensors by name, and the file's own notes.

    Raises:
        PlanError: The file is not a safetensors file, or is damaged.
    """
    with _opening(path), safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118 # not a mapping


def stored_normalisation(path: Path) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return the mean and standard deviation that a file's notes name, a value a channel; None where they do not.

    Raises:
        PlanError: The file is damaged, or the notes cannot be understood.
    """
    with _opening(path), safe_open(path, framework="pt") as file:
        notes = dict(file.metadata() or {})
    if "mean" not in notes and "std" not in notes:
        return None
    try:
        mean, std = (tuple(float(value) for value in json.loads(notes[key])) for key in ("mean", "std"))
    except (KeyError, TypeError, ValueError) as error:
        raise PlanError(f"{path}: `mean` and `std` in its notes must be JSON lists, one number a channel.") from error
    in_range = all(0 <= value <= 1 for value in mean) and all(0 < value <= 1 for value in std)  # NaN is neither
    if not mean or len(mean) != len(std) or not in_range:
        raise PlanError(
            f"{path}: `mean` and `std` in its notes must have equally many values, of pixels in [0, 1] (std above 0), "
            f"but are {mean} and {std}."
        )
    return mean, std


def fit_weights(
    state: State,
    network: State,
    *,
    head: Collection[str],
    first_layers: Collection[str],
    adapt: Callable[["torch.Tensor"], "torch.Tensor"],
    origin: Path | str,
) -> dict[str, "torch.Tensor"]:
    """Return the weights that a network is to start from: the file's, except for the head.

    Args:
        state: The file's tensors.
        network: The network's own, for their names and shapes.
        head: Names of the classifier's tensors, which stay the network's.
        first_layers: Names of the tensors whose second axis is input channels.
        adapt: A first layer's weight to that for the network's channels.
        origin: The file, for errors.

    Raises:
        PlanError: A tensor of the body is missing, has another shape, holds NaN or infinity, or is unknown to the
            network.
    """
    counters = {name for name in network if name.endswith("num_batches_tracked")}  # older files lack them
    missing = sorted(network.keys() - state.keys() - set(head) - counters)
    unknown = sorted(state.keys() - network.keys() - set(head))
    if missing or unknown:
        listed = "; ".join(
            f"{what} {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}"
            for what, names in (("it lacks", missing), ("it alone has", unknown))
            if names
        )
        raise PlanError(f"{origin} does not hold the weights of this network: {listed}.")
    fitted = {name: tensor for name, tensor in state.items() if name not in head}
    for name in first_layers:
        if fitted[name].shape != network[name].shape:
            fitted[name] = _adapted(adapt, name, fitted[name], origin)
    for name, tensor in fitted.items():
        if tensor.shape != network[name].shape:
            raise PlanError(
                f"{origin}: {name} must have shape {tuple(network[name].shape)}, but has {tuple(tensor.shape)}."
            )
        if not tensor.isfinite().all():
            raise PlanError(f"{origin}: {name} must hold finite numbers, but some are NaN or infinite.")
    return {**network, **fitted}


def fingerprint(path: Path) -> str:
    """Return what a study notes of a weights file."""
    return f"sha256:{sha256_of_file(path)}"


def _adapted(
    adapt: Callable[["torch.Tensor"], "torch.Tensor"], name: str, weight: "torch.Tensor", origin: Path | str
) -> "torch.Tensor":
    try:
        return adapt(weight)
    except (NotImplementedError, AssertionError) as error:
        raise PlanError(
            f"{origin}: {name} cannot be adapted to these images' channels; convert the images to as many channels as "
            "the weights have (data.channels), or leave this architecture out."
        ) from error


@contextmanager
def _opening(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise PlanError(f"{path} cannot be read as safetensors: {error}. Fetch it again.") from error
