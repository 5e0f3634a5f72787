"""Batch norms of a data-parallel worker: their statistics are those of the whole batch, on CPUs and GPUs.

torch.nn.SyncBatchNorm does so on GPUs only, and timm's norms bring their activation with them. Sources: Ioffe and
Szegedy, Batch Normalization, ICML 2015; Chan, Golub and LeVeque, Updating Formulae and a Pairwise Algorithm for
Computing Sample Variances, 1979.
"""

from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from consilia.errors import PlanError
from consilia.train.faults import exchanging


class SharedBatchNorm(nn.BatchNorm2d):
    """A batch norm over the images of all workers, then what the original did after it.

    It holds the original's own parameters and buffers under their names.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor

    def __init__(self, original: _BatchNorm) -> None:
        super().__init__(original.num_features, original.eps, original.momentum)
        self.weight, self.bias = original.weight, original.bias
        self.running_mean, self.running_var = _given(original.running_mean), _given(original.running_var)
        self.num_batches_tracked = _given(original.num_batches_tracked)
        for name, child in original.named_children():  # timm's: drop and act
            self.add_module(name, child)
        self.train(original.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise (b, channels, height, width); the workers' b may differ."""
        x = self._normalise(x) if self.training else super().forward(x)
        for child in self.children():
            x = child(x)
        return x

    def _normalise(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            count, mean, variance = _whole_batch(x.detach())
            self.num_batches_tracked += 1
            momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * count / (count - 1), momentum)
        return cast(torch.Tensor, _Normalise.apply(x, self.weight, self.bias, mean, variance, count, self.eps))


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias, where mean and variance depend on all workers' x."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        mean: torch.Tensor,
        variance: torch.Tensor,
        count: torch.Tensor,
        eps: float,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt(), count)
        return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, mean, inverse_std, count = ctx.saved_tensors
        gradient = grads[0].float()
        standardised = (x.float() - _column(mean, x)) * _column(inverse_std, x)
        # Of this worker's images alone: `sum_gradients` adds those of the other workers later.
        for_bias = gradient.sum(dim=_all_but_channels(x))
        for_weight = (gradient * standardised).sum(dim=_all_but_channels(x))
        totals = torch.cat([for_bias, for_weight])
        with exchanging():
            dist.all_reduce(totals)
        shift, slope = (totals / count).chunk(2)
        centred = gradient - _column(shift, x) - standardised * _column(slope, x)
        return (centred * _column(weight * inverse_std, x)).to(x.dtype), for_weight, for_bias, None, None, None, None


def share_batch_norms(model: nn.Module) -> None:
    """Replace the model's batch norms by ones that see the images of all workers; parameters stay the same objects.

    Raises:
        PlanError: A norm of a kind that is not known to be a plain batch norm, perhaps with an activation.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, _BatchNorm) and not isinstance(module, SharedBatchNorm):
            _check_kind(module, name)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, SharedBatchNorm(module))


def _check_kind(module: _BatchNorm, name: str) -> None:
    children = {child for child, _ in module.named_children()}
    if not (module.affine and module.track_running_stats and children <= {"drop", "act"}):
        raise PlanError(
            f"Several workers can train a network only if its batch norms have weights and running statistics, "
            f"but {name} ({type(module).__name__}) is another kind. Set cluster.workers_per_trial: 1."
        )


def _whole_batch(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the number of values a channel (), their mean and their biased variance (channels,), of all workers."""
    variance, mean = torch.var_mean(x.float(), dim=_all_but_channels(x), correction=0)
    count = mean.new_full((1,), x.numel() // x.shape[1])
    own = torch.cat([count, mean, variance])
    everyone = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    with exchanging():
        dist.all_gather(everyone, own)
    counts, means, variances = torch.split(torch.stack(everyone), [1, len(mean), len(mean)], dim=1)
    total = counts.sum()
    share = counts / total
    mean = (share * means).sum(dim=0)
    return total, mean, (share * (variances + (means - mean).square())).sum(dim=0)


def _given(buffer: torch.Tensor | None) -> torch.Tensor:
    assert buffer is not None, "_check_kind has looked for running statistics"
    return buffer


def _all_but_channels(x: torch.Tensor) -> list[int]:
    return [0, *range(2, x.ndim)]


def _column(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return values.view(1, -1, *(1 for _ in range(like.ndim - 2)))
