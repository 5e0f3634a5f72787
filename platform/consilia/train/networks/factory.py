"""timm models by name: checked and built. Source: timm 1.0's model factory."""

import difflib
import inspect
import re
from collections.abc import Iterable
from typing import Any

import timm
import torch
from torch import nn

from consilia.config.network import ModelSpec
from consilia.config.space import Architecture
from consilia.errors import PlanError

# The first four follow from the spec; the others choose or load weights, as `pretrained` does.
_RESERVED = (
    *("num_classes", "in_chans", "drop_rate", "drop_path_rate"),
    *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"),
    *("features_only", "scriptable", "exportable", "no_jit", "device", "dtype"),
)
_LARGEST_HINT = 256  # pixels; above it no smallest side is looked for


def build_model(spec: ModelSpec) -> nn.Module:
    """Build the network: float (b, channels, height, width) to logits (b, n_classes).

    Its weights are drawn from torch's global generator; `pretrained.build_pretrained` starts from others.

    Raises:
        PlanError: timm does not know the model or one of its arguments, or the model takes no drop path.
    """
    check_name(spec.architecture.timm)
    _check_reserved(spec.architecture)
    arguments: dict[str, Any] = dict(spec.architecture.arguments)
    if spec.drop_path > 0:  # not passed at 0: DenseNets do not know it
        arguments["drop_path_rate"] = spec.drop_path
    try:
        model: nn.Module = timm.create_model(
            spec.architecture.timm,
            pretrained=False,
            num_classes=spec.n_classes,
            in_chans=spec.channels,
            drop_rate=spec.head_dropout,
            **arguments,
        )
    except (TypeError, ValueError, AttributeError, AssertionError, KeyError, IndexError) as error:
        raise PlanError(_explain(spec, error)) from error
    return model


def check_architecture(architecture: Architecture) -> None:
    """Build the network without memory for its weights, so that a wrong name is found before any training.

    Raises:
        PlanError: timm does not know the model or one of its arguments; the nearest known one is named.
    """
    with torch.device("meta"):
        build_model(ModelSpec(architecture=architecture, n_classes=2, channels=1))


def check_image_size(spec: ModelSpec, size: int) -> None:
    """Pass an image of `size` x `size` pixels through the network's shapes; nothing is computed.

    Raises:
        PlanError: The network cannot take it, as timm's DenseNets under about 32 px; names the smallest
            side that it takes.
    """
    with torch.device("meta"):
        model = build_model(spec).eval()
    if _takes(model, spec.channels, size):
        return
    larger = range(size + 1, _LARGEST_HINT + 1)
    smallest = next((side for side in larger if _takes(model, spec.channels, side)), None)
    hint = f"its smallest is {smallest} px" if smallest else f"nor any up to {_LARGEST_HINT} px"
    raise PlanError(
        f"{spec.architecture.timm} cannot take images of {size} px: {hint}. "
        f"Set a larger training.image_size, or leave this architecture out."
    )


def check_name(name: str) -> None:
    """Check that timm knows a model by this name, and its weights by the tag after the dot.

    Raises:
        PlanError: It does not; names the nearest one.
    """
    base, _, tag = name.partition(".")
    if re.fullmatch(r"\w+", base) is None or not timm.is_model(base):
        raise PlanError(f"timm must know the model, but got {name!r}: {_suggest(base, timm.list_models())}")
    if tag and name not in (tagged := timm.list_pretrained(f"{base}.*")):
        raise PlanError(f"timm has no weights called {name!r}: {_suggest(name, tagged)}")


def first_line(error: Exception) -> str:
    """Return what an error of another library says, in one line."""
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")


def _explain(spec: ModelSpec, error: Exception) -> str:
    name = spec.architecture.timm
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if unknown is None:
        arguments = dict(spec.architecture.arguments)
        return f"timm's {name} cannot be built with arguments {arguments}: {first_line(error)}."
    if unknown[1] == "drop_path_rate":
        return (
            f"timm's {name} takes no drop path, but drop_path is {spec.drop_path}: leave it at 0 for this "
            f"architecture, in a search space by `when: {{architecture: [...]}}`."
        )
    with torch.device("meta"):
        known = inspect.signature(type(timm.create_model(name)).__init__).parameters
    names = [argument for argument in known if argument not in ("self", "cfg", *_RESERVED)]
    return f"timm's {name} takes no argument {unknown[1]!r}: {_suggest(unknown[1], names)}"


def _check_reserved(architecture: Architecture) -> None:
    for argument in architecture.arguments:
        if argument in _RESERVED:
            raise PlanError(
                f"arguments of {architecture.timm} must not set {argument!r}: consilia sets it itself, "
                f"or it would change where weights come from. Remove it."
            )


def _suggest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names[:8])}, ..."


def _takes(model: nn.Module, channels: int, size: int) -> bool:
    try:
        model(torch.empty(1, channels, size, size, device="meta"))
    except RuntimeError:
        return False
    return True
