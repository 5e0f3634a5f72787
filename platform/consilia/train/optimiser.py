"""How weights change: AdamW by depth, the learning rate over the steps, and the average of the weights.

Sources: docs/methods.md sections 2 and 3; Loshchilov and Hutter, SGDR, ICLR 2017 (the cosine); Polyak and Juditsky,
Acceleration of Stochastic Approximation by Averaging, 1992.
"""

import copy
import math
from typing import Any

import torch
from torch import nn

from consilia.config.space import Hyperparameters
from consilia.train.networks.layers import layer_groups


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


def lr_factor(step: int, *, n_steps: int, warmup: float) -> float:
    """Return what the learning rate is multiplied by at `step` 0 ... n_steps-1, in (0, 1].

    A linear warm-up, then a cosine to almost 0. The cosine spans the trial's full length, even if a pruner ends the
    trial earlier.

    Args:
        step: Optimiser steps taken before this one, over all epochs of the fold.
        n_steps: Steps of the whole fold.
        warmup: Share of the steps that the rise from 0 takes.
    """
    n_warmup = round(warmup * n_steps)
    if step < n_warmup:
        return (step + 1) / (n_warmup + 1)
    progress = (step - n_warmup) / max(1, n_steps - n_warmup)
    return 0.5 * (1 + math.cos(math.pi * progress))


class WeightAverage:
    """Exponential moving average of a network's parameters and buffers, BatchNorm's statistics included.

    It covers about one epoch, and at the beginning about the last ninth of the steps taken: with a fixed decay a short
    training would keep its random first weights in the average. Like torch.optim.swa_utils.AveragedModel with
    use_buffers, at a tenth of its cost for small networks: the pairs of tensors are found once, and a step is one fused
    operation.
    """

    def __init__(self, model: nn.Module, *, steps_per_epoch: int) -> None:
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self._largest_decay = 1 - 1 / (steps_per_epoch + 1)
        pairs = list(zip(_tensors(self.module), _tensors(model), strict=True))
        floats = [(mine, theirs) for mine, theirs in pairs if mine.is_floating_point()]
        self._counts = [(mine, theirs) for mine, theirs in pairs if not mine.is_floating_point()]
        self._averages = [mine for mine, _ in floats]
        self._current = [theirs for _, theirs in floats]

    def decay(self, step: int) -> float:
        """Return the share that the average keeps at `step` 0, 1, ..."""
        return min(self._largest_decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the model's tensors as they are after `step` 0, 1, ..."""
        torch._foreach_lerp_(self._averages, self._current, 1 - self.decay(step))
        for mine, theirs in self._counts:
            mine.copy_(theirs)


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [tensor.detach() for tensor in (*module.parameters(), *module.buffers())]
