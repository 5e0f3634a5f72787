"""What each place of an image contributes to the ensemble's calibrated probability of a class.

What is explained is the ensemble's calibrated log odds of the class c, written in the networks' logits z_mf
(member m, fold f), as `decision.calibrators` pools them:

    q_f   = sum_m w_m softmax(z_mf)         linear pool over members
    p     = softmax(mean_f log(q_f) / T)    calibrated in each fold, logarithms averaged over folds
    odds  = log(p_c) - log(1 - p_c)

(The calibrator's normaliser in each fold is the same for every class, so the last softmax takes it away.) The log
odds have the gradient of log(p_c) divided by 1 - p_c: for one image that is the same map, and it does not vanish
where the ensemble is sure. The clip of fold probabilities at 1e-5 is left out of the
derivative: beyond them the surest networks would count for nothing.

By the chain rule a network's share is g_mf = d odds / d z_mf (n_classes), and with its last feature map A, before it
is pooled over the image, cell (i, j) contributes

    M_mf(i, j) = sum_k A_k(i, j) * d(g_mf . z_mf) / d A_k(i, j)

Behind average pooling and a linear head this is the class activation map, weighted by g_mf, and exact: its cells sum
to g_mf . (z_mf - bias). So every network's map is in the same unit, nats of the ensemble's log odds, and none is
rescaled by itself: a map that says nothing would look like one that decides. As networks have cells of different
sizes, a map is divided by the area of its cells and drawn smoothly around their centres (`train.networks.cells`) in the
stored image; then all are added.

Source: docs/methods.md section 10; Zhou et al., CVPR 2016 (class activation maps); Selvaraju et al., ICCV 2017
(Grad-CAM); Draelos and Carin, arXiv:2011.08891 (HiResCAM: products by cell, which stay faithful
where pooling is not an average). Gradients and products are captum's LayerGradientXActivation.
"""

from typing import assert_never

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from captum.attr import LayerGradientXActivation
from scipy.interpolate import BSpline
from torch import nn

from consilia.decision.calibrators import AnyCalibrator, Identity, Isotonic, Temperature, TemperatureBias
from consilia.decision.combination import LinearPool
from consilia.predict.networks import FoldEnsembles, exact_convolutions
from consilia.train.networks.cells import cell_centres
from consilia.train.networks.layers import pooling_layer

_SPLINE = BSpline.basis_element([-1.5, -0.5, 0.5, 1.5], extrapolate=False)


def odds_gradient(
    logits: npt.NDArray[np.float32] | npt.NDArray[np.float64],
    combination: LinearPool,
    calibrator: AnyCalibrator,
    labels: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """Return g = d odds / d logits of this module's docstring, in float64.

    Args:
        logits: (n_members, n_folds, n_images, n_classes).
        combination: Of the members.
        calibrator: Applied to each fold.
        labels: The class to explain of each image, (n_images,).

    Returns:
        An array of the shape of `logits`; over the classes of a network it sums to 0.
    """
    z = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    scores = _calibrated(_combined(z, combination).mean(dim=0), calibrator)  # (n_images, n_classes)
    own = F.one_hot(torch.from_numpy(labels), scores.shape[1]).bool()
    others = torch.logsumexp(scores.masked_fill(own, -torch.inf), dim=1)
    odds = scores[own] - others
    (gradient,) = torch.autograd.grad(odds.sum(), z)
    result: npt.NDArray[np.float64] = gradient.numpy()
    return result


def contributions(
    networks: FoldEnsembles, pixels: npt.NDArray[np.uint8], gradient: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], float]:
    """Return what every pixel contributes to the log odds, of either sign, and the coarsest cell's side in pixels.

    Args:
        networks: Of the ensemble.
        pixels: Images (n_images, size, size, channels).
        gradient: Of `odds_gradient`, (n_members, n_folds, n_images, n_classes).

    Returns:
        (n_images, size, size) in nats, and the side.
    """
    size = pixels.shape[1]
    total = np.zeros(pixels.shape[:3])
    coarsest = 0.0
    for network in networks.each(pixels):
        share = torch.from_numpy(gradient[network.member, network.fold]).float().to(networks.device)
        with exact_convolutions(networks.device):
            cells = cell_contributions(network.module, network.inputs, share)
        centres = cell_centres(network.spec, network.inputs.shape[-1])
        enlarge = _drawing(centres, size)
        total += enlarge @ (cells * (len(centres) / size) ** 2) @ enlarge.T
        coarsest = max(coarsest, size / len(centres))
    return total, coarsest


def cell_contributions(module: nn.Module, inputs: torch.Tensor, share: torch.Tensor) -> npt.NDArray[np.float64]:
    """Return what each cell of a network's last feature map contributes, (n_images, n_cells, n_cells), in nats.

    Args:
        module: The network.
        inputs: What it is shown, (n_images, channels, height, width).
        share: Its part of `odds_gradient`, (n_images, n_classes), of the type of `inputs`.
    """

    def weighted(images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = module(images)
        return (logits * share).sum(dim=1)

    method = LayerGradientXActivation(weighted, pooling_layer(module))
    products: torch.Tensor = method.attribute(inputs, attribute_to_layer_input=True)
    result: npt.NDArray[np.float64] = products.detach().sum(dim=1).cpu().double().numpy()
    return result


def _combined(z: torch.Tensor, combination: LinearPool) -> torch.Tensor:
    """Return log q_f, (n_folds, n_images, n_classes), of the members' logits."""
    log_weights = torch.log(torch.tensor(combination.weights, dtype=torch.float64)).view(-1, 1, 1, 1)
    return torch.logsumexp(F.log_softmax(z, dim=-1) + log_weights, dim=0)


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


def _drawing(centres: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.float64]:
    """Return the matrix (size, n_cells) that draws cells smoothly around their centres, constant beyond the outermost.

    Each cell is drawn as a quadratic B-spline in units of cells. Rows are not negative and sum to 1. The maximum lies
    where a parabola through a cell and its neighbours has its own: straight lines would put it on some cell's centre
    always, up to half a cell from what is seen by two cells alike.
    """
    n_cells = len(centres)
    places = np.interp((np.arange(size) + 0.5) / size, centres, np.arange(n_cells))
    drawn = np.nan_to_num(_SPLINE(places[:, None] - np.arange(-1, n_cells + 1)))
    drawn[:, 1] += drawn[:, 0]  # beyond the border the outermost cell stands again
    drawn[:, -2] += drawn[:, -1]
    inside: npt.NDArray[np.float64] = drawn[:, 1:-1]
    return inside
