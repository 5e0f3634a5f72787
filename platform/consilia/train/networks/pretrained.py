"""Networks that start from pretrained weights: those of a file, or of timm's hub.

The first layer is adapted to other channels as timm does, `timm.models.adapt_input_conv`.
"""

import json
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import adapt_input_conv
from torch import nn

from consilia.config.network import ModelSpec
from consilia.config.study import WeightsSource
from consilia.errors import PlanError
from consilia.train.networks.factory import build_model, check_name, first_line
from consilia.train.networks.weights import fit_weights, read_weights_file, require_weights, stored_normalisation

_HEAD_STD = 0.01


def build_pretrained(spec: ModelSpec, weights: WeightsSource) -> nn.Module:
    """Build the network of `factory.build_model` with pretrained weights and a new head.

    Every tensor of its body comes from the weights. timm's own loader would leave those at random that the weights
    lack: `arguments` may ask for more layers.

    Args:
        spec: What to build; the first layer is adapted to its `channels`.
        weights: A source that is pretrained. The head is drawn from torch's global generator.

    Raises:
        PlanError: timm cannot build the network, or the weights are missing, damaged or of another network.
    """
    with torch.device("meta"):
        build_model(spec)  # what fails from here on is the weights and not the specification
    state, origin = _stored_state(spec.architecture.timm, weights)
    model = build_model(spec)
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


def pretrained_normalisation(spec: ModelSpec, weights: WeightsSource) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation, a value a channel, that go with the pretrained weights.

    The weights file notes them, or else they are those of timm's own weights. Pixels are in [0, 1]. With another number
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
    check_name(name)
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
            f"Pretrained weights of timm's {name!r} could not be fetched: {first_line(error)}. "
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
        raise PlanError(
            f"The weights of {name} must say how images are normalised, but neither their file nor timm does. Note "
            "`mean` and `std` in the file."
        )
    return tuple(config.mean), tuple(config.std)


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


def _adapt(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if len(values) == channels:
        return tuple(values)
    return (sum(values) / len(values),) * channels
