"""How an ensemble's networks compute: one after the other, or those of one kind as one program over stacked weights.

Source: torch.func (`stack_module_state`, `functional_call`, `vmap`), PyTorch's page on model ensembling.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, Protocol

import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from consilia.train.device import MEMORY_FORMAT
from consilia.train.input import Preprocessing, normalisation, normalised, sized_planes
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
    def shape(self) -> list[int]:
        """Of the images: (n_images, size, size, channels)."""
        return list(self._images.shape)

    def repeated(self, n_images: int) -> "ShownImages":
        """Return so many of these images, each again and again, of which nothing is computed yet."""
        places = torch.arange(n_images, device=self._images.device) % len(self)
        return ShownImages(self._images[places])

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


class Program(Protocol):
    """Some networks of an ensemble, ready to compute."""

    def __call__(self, shown: ShownImages, known: Known = NOTHING) -> list[torch.Tensor]:
        """Return the logits of each network, (n_images, n_classes); those that are known as they are."""
        ...


class InTurn:
    """Networks one after the other. In bfloat16 as torch's autocast has it, with weights that are cast only once."""

    def __init__(self, networks: Sequence[LoadedNetwork], *, precision: Precision = "float32") -> None:
        self._preprocessings = [network.preprocessing for network in networks]
        modules = [network.module for network in networks]
        self._modules = [_with_cast_weights(module) for module in modules] if precision == "bfloat16" else modules
        self._is_bfloat16 = precision == "bfloat16"

    def __call__(self, shown: ShownImages, known: Known = NOTHING) -> list[torch.Tensor]:
        """Return the logits of each network, (n_images, n_classes); those that are known are not computed."""
        with torch.autocast(shown.device.type, dtype=torch.bfloat16, enabled=self._is_bfloat16):
            pairs = enumerate(zip(self._modules, self._preprocessings, strict=True))
            return [
                known[position] if position in known else module(shown.inputs(preprocessing))
                for position, (module, preprocessing) in pairs
            ]


class Together:
    """Networks of one kind as one program: a layer of all of them is one call, over weights stacked along a new axis.

    Worth it where the device waits for calls rather than computes. In bfloat16 all of a network is in it, its norms
    too: under `vmap` torch's autocast does nothing.
    """

    def __init__(self, networks: Sequence[LoadedNetwork], *, precision: Precision = "float32") -> None:
        """Stack copies of the weights of networks of one `kind_of`."""
        self._dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        modules = [_contiguous_copy(network.module, self._dtype) for network in networks]
        self._parameters, self._buffers = stack_module_state(modules)
        self._skeleton = modules[0].to("meta")
        self._preprocessing = networks[0].preprocessing  # its image size is that of all
        like = next(iter(self._parameters.values()))
        constants = [normalisation(network.preprocessing, like) for network in networks]
        self._shifts = torch.stack([shift for shift, _ in constants])  # (n_networks, 1, channels, 1, 1)
        self._scales = torch.stack([scale for _, scale in constants])

    def __call__(self, shown: ShownImages, known: Known = NOTHING) -> list[torch.Tensor]:
        """Return the logits of each network, (n_images, n_classes); those that are known cost the same again."""
        planes = shown.planes(self._preprocessing).contiguous()  # channels last, pooling would fall back to a loop
        run = vmap(self._run_one, in_dims=(0, 0, 0, 0, None))
        stacked: torch.Tensor = run(self._parameters, self._buffers, self._shifts, self._scales, planes)
        return [known.get(position, logits) for position, logits in enumerate(stacked.unbind())]

    def _run_one(
        self,
        parameters: Mapping[str, torch.Tensor],
        buffers: Mapping[str, torch.Tensor],
        shift: torch.Tensor,
        scale: torch.Tensor,
        planes: torch.Tensor,
    ) -> torch.Tensor:
        inputs = torch.addcmul(shift, planes, scale).to(self._dtype)
        logits: torch.Tensor = functional_call(self._skeleton, ({**parameters}, {**buffers}), (inputs,))
        return logits


def kind_of(network: LoadedNetwork) -> str:
    """Return what networks must share to run as one program, as JSON; what acts in training only is not part of it."""
    spec = network.spec.model_copy(update={"drop_path": 0.0, "head_dropout": 0.0})
    return json.dumps([spec.model_dump(mode="json"), network.preprocessing.image_size], sort_keys=True)


def _with_cast_weights(module: nn.Module) -> nn.Module:
    """Return a copy whose convolutions and linear layers are in bfloat16, as autocast would cast them at every call."""
    result = copy.deepcopy(module)
    for layer in result.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.to(torch.bfloat16)
    return result


def _contiguous_copy(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    result: nn.Module = copy.deepcopy(module).to(dtype=dtype, memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return result.requires_grad_(requires_grad=False)
