"""The training step, the same for folds, refits, the memory probe and benchmarks: stored pixels in, other weights out.

On a GPU a small network's step takes longer to ask for than to compute, kernel by kernel. Steps of a batch size that
comes often are therefore captured once as a CUDA graph and replayed: whatever changes from step to step lies in buffers
on the device. Everything else runs the same function eagerly.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from consilia.config.network import Preprocessing
from consilia.train.capture import Capture, capture_for, why_not
from consilia.train.device import MEMORY_FORMAT, Precision, autocast, steady_convolutions
from consilia.train.distributed import ALONE, Group
from consilia.train.input import ChannelConstants, channel_constants
from consilia.train.losses import Loss, mix
from consilia.train.optimiser import WeightAverage
from consilia.train.warp import Warps, training_input

logger = logging.getLogger(__name__)

Settings = Sequence[float] | torch.Tensor
"""What the schedules say of one step: weight of the average's news, mixup's share of the partners, this worker's share
of the loss, then the learning rate of each of the optimiser's groups; as floats, or as a tensor on the device."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What a step is taken on, all of it on the device."""

    images: torch.Tensor  # uint8 (b, size, size, channels), as stored
    warps: Warps | None  # one an image; None: the evaluation view
    targets: torch.Tensor  # (b, n_classes), rows sum to 1
    settings: Settings

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All that differs between batches of one size."""
        assert isinstance(self.settings, torch.Tensor), "on a device that captures, settings lie there"
        warps = self.warps
        drawn = [] if warps is None else [warps.theta, warps.contrast, warps.brightness]
        return [self.images, *drawn, self.targets, self.settings]


class Step:
    """Changes a network's weights, its average and the optimiser's state, batch by batch.

    Args:
        model: In training mode; on the device.
        average: Of the model.
        optimiser: Of the model's parameters.
        loss: Of logits and targets.
        preprocessing: Of the network.
        precision: As of `device.autocast`.
        mixes: Whether images are mixed with their partners.
        group: The workers that train together; all of them take the step.
        often: Sizes of batches that are worth a capture; none where nothing can be captured.
        capture: Records a step; None: that of the model's device, where it has one.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        average: WeightAverage,
        optimiser: torch.optim.Optimizer,
        loss: Loss,
        preprocessing: Preprocessing,
        precision: Precision,
        mixes: bool,
        group: Group = ALONE,
        often: Collection[int] = (),
        capture: Capture | None = None,
    ) -> None:
        self._model, self._average, self._optimiser = model, average, optimiser
        self._precision = precision
        self._mixes = mixes
        self._group = group
        self._device = next(model.parameters()).device
        self._loss, self._preprocessing = loss, preprocessing
        # Its own, where a replayed step finds those of another fold.
        self._constants = ChannelConstants(*(each.clone() for each in channel_constants(preprocessing, self._device)))
        self._captured: dict[int, _Captured] = {}
        self._often = frozenset(often)
        self._capture = capture or capture_for(self._device)

    def __call__(self, batch: Batch, *, n_own: int) -> torch.Tensor:
        """Take a step; return this worker's part of the loss, detached, which the next step may overwrite.

        Args:
            batch: This worker's.
            n_own: Images of it that the worker trains on; after them come their partners for mixup, unless the images
                are the whole batch.
        """
        size = len(batch.images)
        if self._capture is None or self._group.size > 1 or size not in self._often:
            return self._run(batch, n_own)
        if size not in self._captured and not self._try_to_capture(batch, n_own):
            return self._run(batch, n_own)
        captured = self._captured[size]
        for buffer, given in zip(captured.buffers, batch.tensors, strict=True):
            buffer.copy_(given)
        return captured.replay()

    def begin_again(self, *, loss: Loss, preprocessing: Preprocessing, often: Collection[int]) -> None:
        """Train the same network, put back by the caller, on another fold; what has been captured stays.

        Args:
            loss: Of the same configuration.
            preprocessing: Differs in mean and standard deviation alone.
            often: Sizes of batches that are worth a capture there.
        """
        for mine, given in zip(self._constants, channel_constants(preprocessing, self._device), strict=True):
            mine.copy_(given)
        self._loss.become(loss)
        self._often = frozenset(often)

    @property
    def is_captured(self) -> bool:
        """Say whether steps of any size are replayed."""
        return bool(self._captured)

    def _run(self, batch: Batch, n_own: int) -> torch.Tensor:
        with steady_convolutions(self._device, rounds=self._precision == "auto"):
            return self._take(batch, n_own)

    def _take(self, batch: Batch, n_own: int) -> torch.Tensor:
        news, partners, share, *rates = batch.settings
        for group, rate in zip(self._optimiser.param_groups, rates, strict=True):
            group["lr"] = rate
        inputs = training_input(batch.images, batch.warps, self._preprocessing, self._constants)
        targets = batch.targets
        if self._mixes:
            inputs, targets = mix(inputs, targets, partners=partners, n_own=n_own)
        with autocast(self._device, self._precision):
            logits = self._model(inputs.contiguous(memory_format=MEMORY_FORMAT))
        # This worker's part of the whole batch's mean: the parts are summed.
        loss = self._loss(logits.float(), targets) * share
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call] # torch ships it untyped
        self._group.sum_gradients(self._model)
        self._optimiser.step()
        self._average.update(news)
        return loss.detach()

    def _try_to_capture(self, batch: Batch, n_own: int) -> bool:
        """Capture the step of a batch of this size, leaving no trace in weights or random streams; say whether it is.

        Where it cannot be captured, no other size will be tried.
        """
        assert self._capture is not None, "asked for by who has looked"
        buffers = [tensor.clone() for tensor in batch.tensors]
        images, *drawn, targets, settings = buffers
        static = Batch(images, Warps(*drawn) if drawn else None, targets, settings)
        before = _Snapshot(self._model, self._average, self._optimiser)
        try:
            with torch.random.fork_rng([self._device] if self._device.type == "cuda" else []):
                replay = self._capture(lambda: self._run(static, n_own))
        except RuntimeError as error:  # of a device whose memory does not suffice too: without a graph it may
            reason = why_not(error, self._device)
            logger.warning("training steps run eagerly: they cannot be captured as a CUDA graph (%s)", reason)
            self._capture = None
            return False
        finally:
            before.restore()
        self._captured[len(images)] = _Captured(buffers=buffers, replay=replay)
        return True


@dataclass(frozen=True, slots=True)
class _Captured:
    """A step of one size of batch, recorded."""

    buffers: list[torch.Tensor]  # that it reads, as of `Batch.tensors`
    replay: Callable[[], torch.Tensor]


class _Snapshot:
    """Everything that a step changes, as it was."""

    def __init__(self, model: nn.Module, average: WeightAverage, optimiser: torch.optim.Optimizer) -> None:
        self._optimiser = optimiser
        networks = [*model.state_dict().values(), *average.module.state_dict().values()]
        self._copies = [(tensor, tensor.clone()) for tensor in (*networks, *self._moments())]

    @torch.no_grad()
    def restore(self) -> None:
        """Put it back in place. What the optimiser has begun to keep since starts at 0, as it would have."""
        known = {id(tensor) for tensor, _ in self._copies}
        for tensor, copy in self._copies:
            tensor.copy_(copy)
        for tensor in self._moments():
            if id(tensor) not in known:
                tensor.zero_()
        self._optimiser.zero_grad(set_to_none=True)

    def _moments(self) -> list[torch.Tensor]:
        states = self._optimiser.state.values()
        return [value for state in states for value in state.values() if isinstance(value, torch.Tensor)]
