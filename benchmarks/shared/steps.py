"""Training steps on images that are made up, as consilia's training takes them."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from consilia.config.augmentation import POLICIES
from consilia.config.network import ModelSpec, Preprocessing
from consilia.config.space import Architecture, Hyperparameters
from consilia.train.device import MEMORY_FORMAT
from consilia.train.losses import make_loss
from consilia.train.networks.factory import build_model
from consilia.train.optimiser import WeightAverage, make_optimiser
from consilia.train.step import Batch, Settings, Step
from consilia.train.warp import Warps, draw_warps

POLICY = POLICIES["xray"]
STRENGTH = 0.5  # of the augmentation
N_CLASSES, MEAN, STD = 2, 0.5, 0.25


@dataclass(frozen=True)
class Network:
    """What is trained."""

    architecture: str
    side: int  # of its input, pixels
    batch_size: int

    @property
    def preprocessing(self) -> Preprocessing:
        """Of images that are stored at the network's side."""
        return Preprocessing(size=self.side, channels=1, image_size=self.side, mean=(MEAN,), std=(STD,))


class Training:
    """A network with all that its steps change; each step is on the whole batch, and mixes no images."""

    def __init__(self, network: Network, device: torch.device, *, capture: bool, compiled: bool = False) -> None:
        torch.manual_seed(0)
        self.network, self.device = network, device
        options = Hyperparameters(architecture=network.architecture, lr=1e-4, smallest_layer_lr=0.3)
        spec = ModelSpec(architecture=Architecture(timm=network.architecture), n_classes=N_CLASSES, channels=1)
        self.model: nn.Module = build_model(spec).to(device)
        self.model.to(memory_format=MEMORY_FORMAT).train()
        self.average = WeightAverage(self.model)
        self.optimiser = make_optimiser(self.model, options)
        self._step = Step(
            model=torch.compile(self.model) if compiled else self.model,  # type: ignore[arg-type] # a module, too
            average=self.average,
            optimiser=self.optimiser,
            loss=make_loss(options, np.ones(N_CLASSES, np.int64), device),
            preprocessing=network.preprocessing,
            precision="auto",
            mixes=False,
            often=[network.batch_size] if capture else [],
        )
        self._targets = torch.eye(N_CLASSES, device=device)[torch.arange(network.batch_size, device=device) % N_CLASSES]
        numbers = [0.01, 0.0, 1.0, *(1e-4 * group["scale"] for group in self.optimiser.param_groups)]
        self._settings: Settings = numbers if device.type == "cpu" else torch.tensor(numbers, device=device)

    @property
    def is_captured(self) -> bool:
        """Whether steps are replayed from a CUDA graph; known after the first one."""
        return self._step.is_captured

    def step(self, images: torch.Tensor, warps: Warps | None) -> torch.Tensor:
        """Train on uint8 (b, side, side, 1) on the device; return the loss, which the next step may overwrite.

        It is always with warps, or always without.
        """
        return self._step(Batch(images, warps, self._targets, self._settings), n_own=len(images))

    def draw(self, n: int) -> tuple[torch.Tensor, Warps]:
        """Return n images of noise, and a warp for each, on the device."""
        rng, side = np.random.default_rng(0), self.network.side
        images = torch.from_numpy(rng.integers(0, 256, (n, side, side, 1), dtype=np.uint8)).to(self.device)
        return images, draw_warps(rng, n, policy=POLICY, strength=STRENGTH).to(self.device)


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
