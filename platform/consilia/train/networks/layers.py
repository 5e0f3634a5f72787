"""What a built network shows of itself: its layers by depth, where it pools, and its features at two depths.

Source: docs/methods.md sections 3, 7 and 10.
"""

from typing import Any

import torch
from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from timm.models import group_parameters
from torch import nn

from consilia.errors import PlanError

MOST_FEATURES = 4096  # of an image: their covariance is kept, which takes 64 MB then


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


def logits_and_features(model: nn.Module, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the network says of images, and how it sees them, in one pass.

    Nothing is attached to the model, so that threads may share it.

    Args:
        model: A timm model in inference mode, as `build_model` returns it; one that `has_features`.
        inputs: float (b, channels, height, width).

    Returns:
        Logits (b, n_classes), bit for bit those of `model(inputs)`; and features (b, n_features) in float32: the mean
        over the image of each channel of the middle stage, then of the last.
    """
    network: Any = model  # both methods are timm's
    last, stages = network.forward_intermediates(inputs, indices=list(_depths(network)))
    pooled = [stage.float().mean(dim=(2, 3)) for stage in stages]
    return network.forward_head(last), torch.cat(pooled, dim=1)


def has_features(model: nn.Module) -> bool:
    """Say whether the network shows its stages, and not too many features, as all of the shipped spaces do."""
    if not hasattr(model, "forward_intermediates") or len(getattr(model, "feature_info", ())) < 2:
        return False
    return _count(model) <= MOST_FEATURES


def count_features(model: nn.Module) -> int:
    """Return how many features `logits_and_features` gives an image.

    Raises:
        PlanError: The network has none.
    """
    if not has_features(model):
        raise PlanError(
            f"Unusual images are found by at most {MOST_FEATURES:,} features of two stages of a network, and timm's "
            f"{type(model).__name__} does not show its stages, or has more. Let another member be the reference."
        )
    return _count(model)


def _count(network: Any) -> int:
    return sum(int(network.feature_info[depth]["num_chs"]) for depth in _depths(network))


def _depths(network: Any) -> tuple[int, int]:
    """Numbers of the middle and the last stage; of five, the middle one has an eighth of the image's side."""
    n_stages = len(network.feature_info)
    return (n_stages - 1) // 2, n_stages - 1
