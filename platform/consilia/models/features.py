"""Pooled features of two depths of a network, from the pass that gives its logits.

Source: docs/methods.md section 7.
"""

from typing import Any

import torch
from torch import nn

from consilia.errors import PlanError


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
    network: Any = model  # both methods are those of timm's models
    last, stages = network.forward_intermediates(inputs, indices=list(_depths(network)))
    pooled = [stage.float().mean(dim=(2, 3)) for stage in stages]
    return network.forward_head(last), torch.cat(pooled, dim=1)


def has_features(model: nn.Module) -> bool:
    """Say whether the network gives access to its stages, as every one of the shipped search spaces does."""
    return hasattr(model, "forward_intermediates") and len(getattr(model, "feature_info", ())) >= 2


def count_features(model: nn.Module) -> int:
    """Return how many features `logits_and_features` gives an image.

    Raises:
        PlanError: The network has none.
    """
    if not has_features(model):
        raise PlanError(
            f"Unusual images are found by the stages of a network, and timm's {type(model).__name__} does not show "
            "its own. Let a member of another architecture be the reference."
        )
    network: Any = model
    return sum(int(network.feature_info[depth]["num_chs"]) for depth in _depths(network))


def _depths(network: Any) -> tuple[int, int]:
    """Numbers of the middle and the last stage; of five, the middle one has an eighth of the image's side."""
    n_stages = len(network.feature_info)
    return (n_stages - 1) // 2, n_stages - 1
