"""AdamW with a learning rate that grows with depth. Source: docs/methods.md section 3."""

from typing import Any

import torch
from torch import nn

from consilia.config.hyperparameters import Hyperparameters
from consilia.train.networks.factory import layer_groups


def make_optimiser(model: nn.Module, hyperparameters: Hyperparameters) -> torch.optim.AdamW:
    """Return AdamW over every parameter; each group carries its `scale` of the scheduled learning rate.

    Fused, which at these sizes is ten times faster than one tensor at a time, on the CPU too.

    Args:
        model: Of `train.networks.factory`.
        hyperparameters: lr, head_lr_factor, smallest_layer_lr and weight_decay decide.
    """
    groups = parameter_groups(model, hyperparameters)
    return torch.optim.AdamW(groups, lr=hyperparameters.lr, fused=True)


def parameter_groups(model: nn.Module, hyperparameters: Hyperparameters) -> list[dict[str, Any]]:
    """Group the parameters by learning-rate scale and weight decay.

    The scale rises geometrically with depth from `smallest_layer_lr` at the first layers to 1 at the head,
    which takes `head_lr_factor` on top. Parameters with one dimension (biases and norms) do not decay.
    """
    parameters = dict(model.named_parameters())
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for scale, names in layer_scales(model, hyperparameters):
        for name in names:
            decay = hyperparameters.weight_decay if parameters[name].ndim > 1 else 0.0
            groups.setdefault((scale, decay), []).append(parameters[name])
    return [{"params": members, "weight_decay": decay, "scale": scale} for (scale, decay), members in groups.items()]


def layer_scales(model: nn.Module, hyperparameters: Hyperparameters) -> list[tuple[float, list[str]]]:
    """Return each layer group's learning-rate scale and parameter names, first layers first."""
    groups = layer_groups(model)
    last = len(groups) - 1
    scales = [hyperparameters.smallest_layer_lr ** ((last - depth) / max(1, last)) for depth in range(len(groups))]
    scales[last] *= hyperparameters.head_lr_factor
    return list(zip(scales, groups, strict=True))


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its scale of `lr`."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group["scale"]
