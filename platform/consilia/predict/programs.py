"""How an ensemble's networks compute: one after the other, in float32 or bfloat16."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import nn

from consilia.train.device import MEMORY_FORMAT
from consilia.train.input import Preprocessing, normalised, sized_planes
from consilia.train.networks.factory import ModelSpec

Precision = Literal["float32", "bfloat16"]

NOTHING: Mapping[int, torch.Tensor] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedNetwork:
    """One network in memory: float32, in inference mode, on the ensemble's device."""

    member: int  # from 0, as in the bundle
    fold: int  # from 0
    spec: ModelSpec
    preprocessing: Preprocessing
    module: nn.Module


class ShownImages:
    """A batch as networks are shown it; what several of them share is computed once."""

    def __init__(self, images: torch.Tensor) -> None:
        """Take uint8 (n_images, size, size, channels), on the networks' device."""
        self._images = images
        self._planes: dict[int, torch.Tensor] = {}
        self._inputs: dict[Preprocessing, torch.Tensor] = {}

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._images)

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


Known = Mapping[int, torch.Tensor]
"""Logits that somebody has computed already, by the position of their network among the program's."""


Program = Callable[[ShownImages, Known], torch.Tensor]
"""Images, and what is known of them, to the logits of all networks, float32 (n_networks, n_images, n_classes)."""


class InTurn:
    """Networks one after the other. In bfloat16 as torch's autocast has it, with weights that are cast only once."""

    def __init__(self, networks: Sequence[LoadedNetwork], *, precision: Precision = "float32") -> None:
        self._preprocessings = [network.preprocessing for network in networks]
        modules = [network.module for network in networks]
        self._modules = [_with_cast_weights(module) for module in modules] if precision == "bfloat16" else modules
        self._is_bfloat16 = precision == "bfloat16"

    def __call__(self, shown: ShownImages, known: Known = NOTHING) -> torch.Tensor:
        """Return the logits of all networks as a `Program` does; those that are known are not computed."""
        with torch.autocast(shown.device.type, dtype=torch.bfloat16, enabled=self._is_bfloat16):
            pairs = enumerate(zip(self._modules, self._preprocessings, strict=True))
            logits = [
                known[position] if position in known else module(shown.inputs(preprocessing))
                for position, (module, preprocessing) in pairs
            ]
        return torch.stack([each.float() for each in logits])


def _with_cast_weights(module: nn.Module) -> nn.Module:
    """Return a copy whose convolutions and linear layers are in bfloat16, as autocast would cast them at every call."""
    result = copy.deepcopy(module)
    for layer in result.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.to(torch.bfloat16)
    return result
