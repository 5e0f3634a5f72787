"""Everything that an ensemble computes as one torch module: squares of bytes in, calibrated probabilities out.

`predict` computes the same in torch and then NumPy; an exporter needs tensors from end to end. What follows the
networks is in float64 here too, so that nearly equal probabilities rank alike. Source: docs/methods.md section 5.
"""

from typing import assert_never

import torch
from torch import nn

from consilia.decision.calibrators import POOL_CLIP, AnyCalibrator, Identity, Isotonic, Temperature, TemperatureBias
from consilia.metrics.scores import SMALLEST_PROBABILITY
from consilia.predict.networks import FoldEnsembles
from consilia.train.input import channel_constants, normalised, sized_planes


class EnsembleGraph(nn.Module):
    """Images uint8 (b, size, size, channels) to calibrated float64 probabilities (b, n_classes)."""

    def __init__(self, networks: FoldEnsembles, calibrator: AnyCalibrator) -> None:
        """Take the ensemble's networks, which are shared and not copied, and its calibrator."""
        super().__init__()
        loaded = networks.loaded
        self._networks = nn.ModuleList(each.module for each in loaded)
        self._preprocessings = [each.preprocessing for each in loaded]
        self._constants = [channel_constants(each.preprocessing, networks.device) for each in loaded]
        self._shares = torch.from_numpy(networks.combination.shares)
        self._calibrator = calibrator

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the probabilities of images."""
        planes = {each.image_size: sized_planes(images, each) for each in self._preprocessings}
        inputs = [
            normalised(planes[each.image_size], each, constants)
            for each, constants in zip(self._preprocessings, self._constants, strict=True)
        ]
        logits = torch.stack([network(shown) for network, shown in zip(self._networks, inputs, strict=True)])
        n_members = len(self._shares)
        members = logits.double().softmax(dim=-1).reshape(n_members, len(logits) // n_members, *logits.shape[1:])
        folds = (members * self._shares.view(-1, 1, 1, 1)).sum(dim=0)  # (n_folds, b, n_classes)
        return pooled(calibrated(folds, self._calibrator))


def calibrated(probabilities: torch.Tensor, calibrator: AnyCalibrator) -> torch.Tensor:
    """Return what `decision.calibrators.calibrate` does, (..., n_classes)."""
    match calibrator:
        case Identity():
            return probabilities
        case Isotonic():
            second = _interpolated(probabilities[..., 1:], calibrator)
            return torch.cat([1 - second, second], dim=-1)
        case Temperature() | TemperatureBias():
            logs = probabilities.clamp(SMALLEST_PROBABILITY, 1.0).log() / calibrator.temperature
            if isinstance(calibrator, TemperatureBias):
                logs = logs + torch.tensor(calibrator.biases, dtype=torch.float64)
            return logs.softmax(dim=-1)
        case _:
            assert_never(calibrator)


def pooled(folds: torch.Tensor) -> torch.Tensor:
    """Return the normalised geometric mean of calibrated folds, (n_folds, b, n_classes), as `pool_folds` has it."""
    return folds[0] if len(folds) == 1 else folds.clamp(POOL_CLIP, 1.0).log().mean(dim=0).softmax(dim=-1)


def _interpolated(values: torch.Tensor, calibrator: Isotonic) -> torch.Tensor:
    """Return the piecewise linear map of (..., 1): a sum over its pieces, since ONNX knows no interpolation."""
    inputs, outputs = (torch.tensor(each, dtype=torch.float64) for each in (calibrator.inputs, calibrator.outputs))
    widths = inputs.diff()
    covered = ((values - inputs[:-1]) / widths).clamp(0.0, 1.0)  # of each piece, (..., n_pieces)
    return outputs[0] + (covered * outputs.diff()).sum(dim=-1, keepdim=True)
