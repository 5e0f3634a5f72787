"""What each place of an image adds to the ensemble's calibrated log odds of a class.

The log odds of class c, through all networks, from logits z_mf (member m, fold f) as `decision.calibrators` pools them:

    q_f   = sum_m w_m softmax(z_mf)         linear pool over members
    p     = softmax(mean_f log(q_f) / T)    calibrated in each fold, logarithms averaged over folds
    odds  = log(p_c) - log(1 - p_c)

(The calibrator's normaliser in each fold is the same for every class, so the last softmax takes it away. The clip of
fold probabilities at 1e-5 is left out: beyond it the surest networks would count for nothing.)

They are compared with those of the same image blurred until no finding is left, x'. Integrated gradients divide the
difference among the pixels:

    M = (x - x') * integral over a from 0 to 1 of the gradient of odds at x' + a (x - x')

M adds up to odds(x) - odds(x') exactly, whatever the networks are made of, and lies on the pixels themselves. Maps of
inner layers lie on cells, and where a cell looks and how wide is a guess: strides shift it, padding and squeeze and
excitation widen it. Each fold's networks are given an image of their own, so M is the sum of one map a fold.

Source: docs/methods.md section 10; Sundararajan, Taly and Yan, Axiomatic Attribution for Deep Networks, ICML 2017
(integrated gradients, here captum's); Sturmfels, Lundberg and Lee, Distill 2020 (blurred baselines).
"""

from collections.abc import Callable
from typing import assert_never

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients
from scipy.ndimage import gaussian_filter
from torch.utils.checkpoint import checkpoint

from consilia.decision.calibrators import AnyCalibrator, Identity, Isotonic, Temperature, TemperatureBias
from consilia.predict.networks import FoldEnsembles, exact_convolutions
from consilia.train.input import network_input

BLUR = 1 / 5  # standard deviation of the blur that takes findings away, of the image's side
STEPS = (8, 16, 32, 64)  # of the integral, by Gauss and Legendre: more for an image whose sum is off
TOLERANCE = 0.1  # of the sum, in parts of what it should be, or nats if that is less than one

Pixels = npt.NDArray[np.uint8]  # (n_images, size, size, channels)
Maps = npt.NDArray[np.float64]  # (n_folds, n_images, size, size)


def contributions(
    networks: FoldEnsembles, calibrator: AnyCalibrator, pixels: Pixels, labels: npt.NDArray[np.int64]
) -> tuple[Maps, npt.NDArray[np.float64]]:
    """Return what every pixel adds to the log odds of a class through each fold's networks, of either sign, in nats.

    Args:
        networks: Of the ensemble.
        calibrator: Applied to each fold.
        pixels: Images (n_images, size, size, channels).
        labels: The class to explain of each image, (n_images,).

    Returns:
        The maps, and the gains, (n_images,): what each image's log odds exceed those of the same image blurred by, and
        what its maps add up to, within `TOLERANCE` unless the most steps do not reach it.
    """
    odds, classes = log_odds(networks, calibrator), torch.from_numpy(labels)
    images, without = (torch.from_numpy(each).float().to(networks.device) for each in (pixels, blurred(pixels)))
    n_folds = 1 + max(each.fold for each in networks.loaded)
    method = IntegratedGradients(odds)
    maps = np.zeros((n_folds, *pixels.shape[:3]))
    with exact_convolutions(networks.device):
        with torch.inference_mode():
            gains: npt.NDArray[np.float64] = (
                odds(*(images,) * n_folds, classes) - odds(*(without,) * n_folds, classes)
            ).numpy()
        rows = np.arange(len(pixels))
        for n_steps in STEPS:
            found: tuple[torch.Tensor, ...] = method.attribute(
                (images[rows],) * n_folds,
                baselines=(without[rows],) * n_folds,
                additional_forward_args=classes[rows],
                n_steps=n_steps,
                internal_batch_size=len(rows),
            )
            maps[:, rows] = [each.detach().sum(dim=3).cpu().double().numpy() for each in found]
            off = np.abs(maps[:, rows].sum(axis=(0, 2, 3)) - gains[rows])
            rows = rows[off > TOLERANCE * np.maximum(np.abs(gains[rows]), 1)]
            if not len(rows):
                break
    return maps, gains


def log_odds(networks: FoldEnsembles, calibrator: AnyCalibrator) -> Callable[..., torch.Tensor]:
    """Return the function of images, one of (n_images, size, size, channels) a fold, and labels that is explained.

    It returns the ensemble's log odds of the labels, float64 (n_images,), with a gradient. Only one network's inner
    values are in memory at a time: they are computed again on the way back.
    """
    log_weights = torch.log(torch.tensor(networks.combination.weights, dtype=torch.float64)).view(-1, 1, 1, 1)

    def function(*given: torch.Tensor) -> torch.Tensor:
        *images, labels = given
        z = torch.stack(
            [
                checkpoint(
                    each.module,
                    network_input(images[each.fold], each.preprocessing),
                    use_reentrant=False,
                    preserve_rng_state=False,  # nothing is random in inference
                )
                for each in networks.loaded
            ]
        )
        z = z.cpu().double().view(networks.n_members, len(images), *z.shape[1:])
        q = torch.logsumexp(F.log_softmax(z, dim=-1) + log_weights, dim=0)
        scores = _calibrated(q.mean(dim=0), calibrator)  # (n_images, n_classes)
        own = F.one_hot(labels, scores.shape[1]).bool()
        return scores[own] - torch.logsumexp(scores.masked_fill(own, -torch.inf), dim=1)

    return function


def blurred(pixels: Pixels) -> npt.NDArray[np.float32]:
    """Return images without findings, (n_images, size, size, channels): only how brightness changes across them."""
    result: npt.NDArray[np.float32] = gaussian_filter(
        pixels.astype(np.float32), BLUR * pixels.shape[1], mode="nearest", axes=(1, 2)
    )
    return result


def _calibrated(scores: torch.Tensor, calibrator: AnyCalibrator) -> torch.Tensor:
    """Return calibrated log probabilities (n_images, n_classes), up to a constant of each image."""
    match calibrator:
        case Temperature(temperature=temperature):
            return scores / temperature
        case TemperatureBias(temperature=temperature, biases=biases):
            return scores / temperature + torch.tensor(biases, dtype=scores.dtype)
        case Identity() | Isotonic():  # a map in steps has no slope to follow: what it ranks by is explained
            return scores
        case _:  # a new kind must be given its derivative here
            assert_never(calibrator)
