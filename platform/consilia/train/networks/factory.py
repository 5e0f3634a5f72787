"""timm models by name: built, checked and grouped by depth. Source: timm 1.0's model factory."""

import difflib
import inspect
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import timm
import torch
from pydantic import Field
from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from timm.models import adapt_input_conv, group_parameters
from torch import nn

from consilia.config.frozen import Frozen
from consilia.config.space import Architecture
from consilia.config.weights import FROM_SCRATCH, WeightsSource
from consilia.errors import PlanError
from consilia.train.networks.weights import fit_weights, read_weights_file, require_weights, stored_normalisation

# The first four follow from the spec; the others choose or load weights, which is `weights`' business.
_RESERVED = (
    *("num_classes", "in_chans", "drop_rate", "drop_path_rate"),
    *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"),
    *("features_only", "scriptable", "exportable", "no_jit", "device", "dtype"),
)
_HEAD_STD = 0.01
_LARGEST_HINT = 256  # pixels; above it no smallest side is looked for


class ModelSpec(Frozen):
    """Everything that decides a network's parameters and their names, so that stored weights fit it."""

    architecture: Architecture
    n_classes: int = Field(ge=2)
    channels: int = Field(ge=1)
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    head_dropout: float = Field(default=0.0, ge=0, lt=1)


def build_model(spec: ModelSpec, *, weights: WeightsSource = FROM_SCRATCH) -> nn.Module:
    """Build the network: float (b, channels, height, width) to logits (b, n_classes).

    Args:
        spec: What to build.
        weights: Where it starts from: random numbers of torch's global generator; or pretrained weights, with a
            new head and the first layer adapted to `channels`.

    Raises:
        PlanError: timm does not know the model or one of its arguments, the model takes no drop path, or its
            pretrained weights cannot be had.
    """
    _check_name(spec.architecture.timm)
    _check_reserved(spec.architecture)
    if not weights.is_pretrained:
        return _create(spec, pretrained=False)
    # Without the weights first, so that what fails below is the weights and not the specification.
    with torch.device("meta"):
        _create(spec, pretrained=False)
    return _load(spec, weights)


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


def layer_groups(model: nn.Module) -> list[list[str]]:
    """Return the names of the model's parameters by depth: first layers first, the head alone last.

    Every parameter is in exactly one group.

    Args:
        model: A timm model, as `build_model` returns it.
    """
    matcher = model.group_matcher()  # type: ignore[operator] # a method of every timm model
    by_depth: dict[int, list[str]] = group_parameters(model, matcher)
    in_head = {id(parameter) for parameter in model.get_classifier().parameters()}  # type: ignore[operator] # as above
    head = [name for name, parameter in model.named_parameters() if id(parameter) in in_head]
    groups = [[name for name in by_depth[depth] if name not in head] for depth in sorted(by_depth)]
    last = groups.pop()
    if groups:
        groups[-1] += last  # what timm puts beside the head, a last norm say, belongs to the body
    else:
        groups = [last]
    return [group for group in groups if group] + [head]


def pooling_layer(model: nn.Module) -> nn.Module:
    """Return the layer that pools the last feature map, (b, features, height, width), over the image.

    timm builds it from one class in every convolutional network, so it is found without the network's name. Its
    input is the last thing in the network that has a place in the image.

    Args:
        model: A timm model, as `build_model` returns it.

    Raises:
        PlanError: It has none, like a vision transformer, or its maps have their features last.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, SelectAdaptivePool2d) and layer.pool_type]
    if not layers or getattr(model, "output_fmt", "NCHW") != "NCHW":
        raise PlanError(
            f"A network must pool feature maps (features, height, width) over the image, as ResNet, DenseNet and "
            f"EfficientNet do, to show where they lie, but timm's {type(model).__name__} does not."
        )
    return layers[-1]


def pretrained_normalisation(spec: ModelSpec, weights: WeightsSource) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation, a value a channel, that go with the pretrained weights.

    Those that the weights file notes, else those of timm's own weights. Pixels are in [0, 1]. With another number
    of channels than the weights had, each takes their average, as timm sums the first layer's weights over the
    colours.

    Raises:
        PlanError: There is no such file, or it is damaged.
    """
    noted = None
    if weights.kind != "hub":
        file = require_weights([spec.architecture.timm], weights)[spec.architecture.timm]
        noted = stored_normalisation(file)
    mean, std = noted or _timm_normalisation(spec.architecture.timm)
    return _adapt(mean, spec.channels), _adapt(std, spec.channels)


def download(name: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return a model's ImageNet weights from timm's hub or cache, and notes on them for a weights file.

    Raises:
        PlanError: timm does not know the model, has no weights for it, or cannot reach them.
    """
    _check_name(name)
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise PlanError(
            f"timm has no pretrained weights for {name!r}. Leave this architecture out, name a folder with weights of "
            "your own (training.weights: DIR), or set training.weights: none to train from scratch."
        )
    try:
        model: nn.Module = timm.create_model(name, pretrained=True)
    except Exception as error:  # network libraries below timm raise errors of many bases
        raise PlanError(
            f"Pretrained weights of timm's {name!r} could not be fetched: {_first_line(error)}. "
            f"Fill a folder once where there is internet (consilia weights fetch SPACE --to DIR) and name it in "
            f"CONSILIA_WEIGHTS, or set training.weights: none to train from scratch."
        ) from error
    notes = {
        "model": name,
        "source": str(config.hf_hub_id or config.url or ""),
        "licence": str(config.license or ""),
        "mean": json.dumps(list(config.mean)),
        "std": json.dumps(list(config.std)),
    }
    return dict(model.state_dict()), notes


def _timm_normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    config = timm.get_pretrained_cfg(name)
    if config is None:
        raise PlanError(f"Nobody says how the weights of {name} normalise images: note `mean` and `std` in their file.")
    return tuple(config.mean), tuple(config.std)


def _load(spec: ModelSpec, weights: WeightsSource) -> nn.Module:
    """Build the network with the weights of its file or of the hub; every tensor of its body must come from there.

    timm's own loader would leave tensors that the weights lack at random: `arguments` may ask for more layers.
    """
    name = spec.architecture.timm
    state, origin = _stored_state(name, weights)
    model = _create(spec, pretrained=False)
    classifier = {id(tensor) for tensor in model.get_classifier().state_dict(keep_vars=True).values()}  # type: ignore[operator] # a method of every timm model
    own = model.state_dict(keep_vars=True)
    first = model.default_cfg["first_conv"]  # type: ignore[index] # of every timm model: names without ".weight"
    source_channels: Any = model.default_cfg["input_size"][0]  # type: ignore[index] # as above
    fitted = fit_weights(
        state,
        own,
        head={key for key, tensor in own.items() if id(tensor) in classifier},
        first_layers=[f"{each}.weight" for each in ((first,) if isinstance(first, str) else first)],
        adapt=lambda weight: adapt_input_conv(spec.channels, weight, base_chans=source_channels),
        origin=origin,
    )
    model.load_state_dict(fitted)
    return _with_calm_head(model)


def _stored_state(name: str, weights: WeightsSource) -> tuple[dict[str, torch.Tensor], Path | str]:
    if weights.kind == "hub":
        return download(name)[0], f"timm's weights of {name}"
    file = require_weights([name], weights)[name]
    return read_weights_file(file)[0], file


def _with_calm_head(model: nn.Module) -> nn.Module:
    """Start a pretrained network's new head near equal probabilities.

    timm draws an EfficientNet's head by the number of its classes: with three of them, features that are already
    large become logits of ten and more, and a short fine-tuning ends before it has unlearned them.
    """
    for layer in model.get_classifier().modules():  # type: ignore[operator] # a method of every timm model
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=_HEAD_STD)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return model


def _create(spec: ModelSpec, *, pretrained: bool) -> nn.Module:
    arguments: dict[str, Any] = dict(spec.architecture.arguments)
    if spec.drop_path > 0:  # not passed at 0: DenseNets do not know it
        arguments["drop_path_rate"] = spec.drop_path
    try:
        model: nn.Module = timm.create_model(
            spec.architecture.timm,
            pretrained=pretrained,
            num_classes=spec.n_classes,
            in_chans=spec.channels,
            drop_rate=spec.head_dropout,
            **arguments,
        )
    except (TypeError, ValueError, AttributeError, AssertionError, KeyError, IndexError) as error:
        if pretrained:
            raise
        raise PlanError(_explain(spec, error)) from error
    return model


def _explain(spec: ModelSpec, error: Exception) -> str:
    name = spec.architecture.timm
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if unknown is None:
        arguments = dict(spec.architecture.arguments)
        return f"timm's {name} cannot be built with arguments {arguments}: {_first_line(error)}."
    if unknown[1] == "drop_path_rate":
        return (
            f"timm's {name} takes no drop path, but drop_path is {spec.drop_path}: leave it at 0 for this "
            f"architecture, in a search space by `when: {{architecture: [...]}}`."
        )
    with torch.device("meta"):
        known = inspect.signature(type(timm.create_model(name)).__init__).parameters
    names = [argument for argument in known if argument not in ("self", "cfg", *_RESERVED)]
    return f"timm's {name} takes no argument {unknown[1]!r}: {_suggest(unknown[1], names)}"


def _check_name(name: str) -> None:
    base, _, tag = name.partition(".")
    if re.fullmatch(r"\w+", base) is None or not timm.is_model(base):
        raise PlanError(f"timm must know the model, but got {name!r}: {_suggest(base, timm.list_models())}")
    if tag and name not in (tagged := timm.list_pretrained(f"{base}.*")):
        raise PlanError(f"timm has no weights called {name!r}: {_suggest(name, tagged)}")


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


def _adapt(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if len(values) == channels:
        return tuple(values)
    return (sum(values) / len(values),) * channels


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
