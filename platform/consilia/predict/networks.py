"""The networks of an ensemble in memory: uint8 images to the probabilities of each fold ensemble."""

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from consilia.bundle.document import Member
from consilia.config.network import Preprocessing
from consilia.decision.combination import LinearPool, combine
from consilia.metrics.scores import softmax
from consilia.predict.replay import Replayed
from consilia.predict.weights import LoadedNetwork, load_networks
from consilia.train.capture import Capture, capture_for
from consilia.train.device import MEMORY_FORMAT, steady_convolutions
from consilia.train.input import channel_constants, normalised, sized_planes

Precision = Literal["float32", "bfloat16", "tfloat32"]
"""tfloat32: inputs and weights of convolutions are rounded to 10 bits of mantissa (TF32), on GPUs that can."""


class ShownImages:
    """A batch as networks are shown it; what several of them share is computed once."""

    def __init__(self, images: torch.Tensor) -> None:
        """Take uint8 (n_images, size, size, channels), on the networks' device."""
        self._images = images
        self._planes: dict[int, torch.Tensor] = {}
        self._inputs: dict[Preprocessing, torch.Tensor] = {}

    @property
    def device(self) -> torch.device:
        """Where the images lie."""
        return self._images.device

    def planes(self, preprocessing: Preprocessing) -> torch.Tensor:
        """Return the images at the network's size, before its normalisation; see `train.input.sized_planes`."""
        side = preprocessing.image_size  # a bundle's images have one stored size
        if side not in self._planes:
            self._planes[side] = sized_planes(self._images, preprocessing)
        return self._planes[side]

    def inputs(self, preprocessing: Preprocessing) -> torch.Tensor:
        """Return what the network takes, float32 (n_images, channels, image_size, image_size)."""
        if preprocessing not in self._inputs:
            inputs = normalised(self.planes(preprocessing), preprocessing)
            self._inputs[preprocessing] = inputs.contiguous(memory_format=MEMORY_FORMAT)
        return self._inputs[preprocessing]


class Program(Protocol):
    """What computes the logits of all networks."""

    @property
    def precision(self) -> Precision:
        """That the next batch is computed in."""

    def __call__(self, shown: ShownImages, /) -> torch.Tensor:
        """Return the logits of images, float32 (n_networks, n_images, n_classes)."""


class InTurn:
    """Networks one after the other. In bfloat16 as torch's autocast has it, with weights that are cast only once."""

    def __init__(self, networks: Sequence[LoadedNetwork], *, precision: Precision = "float32") -> None:
        self.precision: Precision = precision
        self._preprocessings = [network.preprocessing for network in networks]
        modules = [network.module for network in networks]
        self._modules = [_with_cast_weights(module) for module in modules] if precision == "bfloat16" else modules

    def __call__(self, shown: ShownImages) -> torch.Tensor:
        """Return the logits of all networks as a `Program` does."""
        is_bfloat16, rounds = self.precision == "bfloat16", self.precision == "tfloat32"
        autocast = torch.autocast(shown.device.type, dtype=torch.bfloat16, enabled=is_bfloat16)
        with autocast, steady_convolutions(shown.device, rounds=rounds):
            pairs = zip(self._modules, self._preprocessings, strict=True)
            logits = [module(shown.inputs(preprocessing)) for module, preprocessing in pairs]
        return torch.stack([each.float() for each in logits])


class FoldEnsembles:
    """For each fold, the members' networks of that fold combined. Source: docs/methods.md section 5."""

    def __init__(
        self,
        members: Sequence[Member],
        files: Mapping[str, Path],
        *,
        combination: LinearPool,
        device: torch.device,
    ) -> None:
        """Load every network.

        Args:
            members: Of the ensemble.
            files: Where each network's safetensors file lies, by its name in the members.
            combination: Of the members.
            device: That the networks compute on.

        Raises:
            BundleError: A file's tensors are not exactly those of its model.
        """
        self.device = device
        self.combination = combination
        self.loaded = load_networks(members, files, device)
        self._compute_by(InTurn(self.loaded), None)

    @property
    def precision(self) -> Precision:
        """That the next batch is computed in."""
        return self._program.precision

    @property
    def n_members(self) -> int:
        """Members that are asked."""
        return len(self.combination.weights)

    def running(self, program: Program, *, capture: Capture | None = None) -> "FoldEnsembles":
        """Return these networks, computing as `program` does; `loaded` stays as it is.

        Args:
            program: Computes the logits.
            capture: Records passes of the size of batch that keeps coming; None: the device's, where it has one.
        """
        result = copy.copy(self)
        result._compute_by(program, capture)
        return result

    def of_members(self, kept: Sequence[int], combination: LinearPool) -> "FoldEnsembles":
        """Return the networks of some members, combined so; they compute in float32."""
        result = copy.copy(self)
        result.combination = combination
        result.loaded = tuple(
            replace(network, member=kept.index(network.member)) for network in self.loaded if network.member in kept
        )
        result._compute_by(InTurn(result.loaded), None)
        return result

    def probabilities(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        """Return q_f(x), (n_folds, n_images, n_classes), of images (n_images, size, size, channels)."""
        return self.pool(softmax(self.logits(pixels)))

    def pool(self, members: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return q_f(x), (n_folds, n_images, n_classes), of what each member says, (n_members, n_folds, ...)."""
        return combine(members, self.combination)

    def logits(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return what each network says, (n_members, n_folds, n_images, n_classes)."""
        with torch.inference_mode(), exact_convolutions(self.device):
            logits = self._pass(self._upload(pixels)).cpu().numpy()
        return logits.reshape(self.n_members, -1, *logits.shape[1:])

    def _compute_by(self, program: Program, capture: Capture | None) -> None:
        self._program = program
        run = partial(_run, program)
        capture = capture or capture_for(self.device)
        self._pass = run if capture is None else Replayed(run, capture, partial(_constants, self.loaded))

    def _upload(self, pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device)


def _run(program: Program, images: torch.Tensor) -> torch.Tensor:
    return program(ShownImages(images))


def _constants(networks: Sequence[LoadedNetwork], images: torch.Tensor) -> object:
    """Return what passes of networks read beside images and weights."""
    return [channel_constants(network.preprocessing, images.device) for network in networks]


def exact_convolutions(device: torch.device) -> AbstractContextManager[None]:
    """Keep cuDNN from rounding to TF32 and from choosing algorithms by timing: equal input, equal output."""
    return steady_convolutions(device, rounds=False)


def _with_cast_weights(module: nn.Module) -> nn.Module:
    """Return a copy whose convolutions and linear layers are in bfloat16, as autocast would cast them at every call."""
    result = copy.deepcopy(module)
    for layer in result.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.to(torch.bfloat16)
    return result
