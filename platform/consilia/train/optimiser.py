"""How weights change: AdamW by depth, the learning rate over the steps, and the average of the weights.

Sources: docs/methods.md sections 2 and 3; Loshchilov and Hutter, SGDR, ICLR 2017 (the cosine); Polyak and Juditsky,
Acceleration of Stochastic Approximation by Averaging, 1992.
"""

import copy
import math
import statistics
from typing import Any

import torch
from torch import nn

from consilia.config.space import Hyperparameters
from consilia.train.networks.layers import layer_groups

_LEVELS = 3  # of the learning rate below the head: a fused step costs a kernel or two for each group


def make_optimiser(model: nn.Module, hyperparameters: Hyperparameters) -> torch.optim.AdamW:
    """Return AdamW over every parameter; each group carries its `scale` of the scheduled learning rate.

    Fused, which at these sizes is ten times faster than one tensor at a time, on the CPU too. On a GPU its steps can be
    captured, and learning rates may be tensors there.

    Args:
        model: Of `train.networks.factory`.
        hyperparameters: lr, head_lr_factor, smallest_layer_lr and weight_decay decide.
    """
    groups = parameter_groups(model, hyperparameters)
    is_cuda = next(model.parameters()).is_cuda
    optimiser = torch.optim.AdamW(groups, lr=hyperparameters.lr, fused=True, capturable=is_cuda)
    optimiser._warned_capturable_if_run_uncaptured = True  # not all steps are captured
    return optimiser


def restore_optimiser(optimiser: torch.optim.Optimizer, stored: dict[str, Any]) -> None:
    """Go on from the moments of a checkpoint, whose device may have been another; options stay this optimiser's."""
    optimiser.load_state_dict(stored | {"param_groups": optimiser.state_dict()["param_groups"]})


def forget_moments(optimiser: torch.optim.Optimizer) -> None:
    """Begin anew, in the same tensors: AdamW begins with zeros."""
    for state in optimiser.state.values():
        for value in state.values():
            value.zero_()


def parameter_groups(model: nn.Module, hyperparameters: Hyperparameters) -> list[dict[str, Any]]:
    """Group the parameters by learning-rate scale and weight decay: at most eight groups.

    The scale rises geometrically with depth, in three steps of equally many layers, from near `smallest_layer_lr` at
    the first layers to near 1 at the last, and is 1 at the head, which takes `head_lr_factor` on top. Parameters with
    one dimension (biases and norms) do not decay.
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
    scales = [hyperparameters.smallest_layer_lr**exponent for exponent in _exponents(last)]
    return list(zip([*scales, hyperparameters.head_lr_factor], groups, strict=True))


def _exponents(n_layers: int) -> list[float]:
    """Return the power of `smallest_layer_lr` for each layer below the head: n/n, ..., 1/n, averaged within levels."""
    exponents = [(n_layers - depth) / n_layers for depth in range(n_layers)]
    if n_layers <= _LEVELS:
        return exponents
    levels = [depth * _LEVELS // n_layers for depth in range(n_layers)]
    return [
        statistics.mean(each for each, its in zip(exponents, levels, strict=True) if its == level) for level in levels
    ]


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


def average_decay(step: int, *, steps_per_epoch: int) -> float:
    """Return the share that the average of the weights keeps at `step` 0, 1, ...

    It covers about one epoch, and at the beginning about the last ninth of the steps taken: with a fixed decay a short
    training would keep its random first weights in the average.
    """
    return min(1 - 1 / (steps_per_epoch + 1), (1 + step) / (10 + step))


class WeightAverage:
    """Exponential moving average of a network's parameters and buffers, BatchNorm's statistics included.

    Like torch.optim.swa_utils.AveragedModel with use_buffers, at a tenth of its cost for small networks: the pairs of
    tensors are found once, and a step is one fused operation.
    """

    def __init__(self, model: nn.Module) -> None:
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        pairs = list(zip(_tensors(self.module), _tensors(model), strict=True))
        floats = [(mine, theirs) for mine, theirs in pairs if mine.is_floating_point()]
        self._counts = [(mine, theirs) for mine, theirs in pairs if not mine.is_floating_point()]
        self._averages = [mine for mine, _ in floats]
        self._current = [theirs for _, theirs in floats]

    @torch.no_grad()
    def update(self, news: float | torch.Tensor) -> None:
        """Move by the share `news`, 1 - `average_decay`, towards the model's tensors as they are after a step.

        Args:
            news: As a number, or on the tensors' device.
        """
        if isinstance(news, torch.Tensor):  # there is no lerp of many tensors by one that is on the device
            ways = torch._foreach_sub(self._current, self._averages)
            torch._foreach_mul_(ways, news)
            torch._foreach_add_(self._averages, ways)
        else:
            torch._foreach_lerp_(self._averages, self._current, news)

    @torch.no_grad()
    def copy_counts(self) -> None:
        """Copy what is not averaged, the numbers of batches that BatchNorms have seen; nothing computes with them."""
        for mine, theirs in self._counts:
            mine.copy_(theirs)


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [tensor.detach() for tensor in (*module.parameters(), *module.buffers())]
