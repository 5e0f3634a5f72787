"""Pooled features of two depths of a network, from the pass that gives its logits.

Source: docs/methods.md section 7.
"""

from typing import Any

import torch
from torch import nn

from consilia.errors import PlanError

MOST_FEATURES = 4096  # of an image: their covariance is kept, which takes 64 MB then


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
