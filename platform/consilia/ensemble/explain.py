"""Where in an image the networks found what speaks for a class: one heat map for the whole ensemble.

What is explained is the ensemble's calibrated log odds of the class c, written in the networks' logits z_mf
(member m, fold f), as `ensemble.calibration` pools them:

    q_f   = sum_m w_m softmax(z_mf)                       linear pool over members
    p     = softmax(mean_f log(q_f) / T)                  calibrated in each fold, logarithms averaged over folds
    odds  = log(p_c) - log(1 - p_c)

(The calibrator's normaliser in each fold is the same for every class, so the last softmax takes it away.) The log
odds have the gradient of log(p_c) divided by 1 - p_c: for one image that is the same map, and it does not vanish
where the ensemble is sure. The clip of fold probabilities at 1e-5 is left out of the derivative: beyond it the
surest networks would count for nothing.

By the chain rule a network's share is g_mf = d odds / d z_mf (n_classes), and with its last feature map A, before it
is pooled over the image, cell (i, j) contributes

    M_mf(i, j) = sum_k A_k(i, j) * d(g_mf . z_mf) / d A_k(i, j)

Behind average pooling and a linear head this is the class activation map, weighted by g_mf, and exact: its cells sum
to g_mf . (z_mf - bias). So every network's map is in the same unit, nats of the ensemble's log odds, and none is
rescaled by itself: one that says nothing would be blown up to one that decides. As networks have cells of different
sizes, a map is divided by the area of its cells and interpolated between their centres (`models.cells`) to the
stored image; then all are added. Last, what speaks against the class is cut off, and the rest divided by its maximum.

Source: docs/methods.md, "Looking inside"; Zhou et al., CVPR 2016 (class activation maps); Selvaraju et al., ICCV 2017
(Grad-CAM: the positive part); Draelos and Carin, arXiv:2011.08891 (HiResCAM: products by cell, which stay faithful
where pooling is not an average). Gradients and products are captum's LayerGradientXActivation.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from captum.attr import LayerGradientXActivation
from torch import nn

from consilia.ensemble.calibration import Identity, Temperature, pool_folds
from consilia.ensemble.images import Foreign, Images
from consilia.ensemble.networks import FoldEnsembles, exact_convolutions
from consilia.ensemble.predictor import EnsemblePredictor
from consilia.errors import ReaderError, UserError
from consilia.models.cells import cell_centres
from consilia.models.factory import pooling_layer
from consilia.scoring.metrics import softmax

BATCH_SIZE = 16  # a network keeps all its feature maps of a batch

CAUTION = (
    "A heat map shows in which cells of their last, coarse feature maps the networks found what raised this "
    "probability. It is not a localisation of a finding, no measurement of its size, and no evidence that the "
    "prediction is right: a wrong prediction has a heat map too. A cell sees far beyond its own borders. Colours "
    "compare places within one image, never two images: each map is scaled to its own maximum."
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Explanation:
    """One image, one class, and where the networks found what speaks for it."""

    label: str
    probability: float  # calibrated, of the label
    heat_map: npt.NDArray[np.float32]  # (size, size) in [0, 1]; all 0 where nothing speaks for the label
    pixels: npt.NDArray[np.uint8]  # (size, size, channels), the image as the ensemble reads it
    cell: float  # side of the coarsest network's cells, in pixels of the stored image

    @property
    def peak(self) -> tuple[int, int] | None:
        """Row and column of the maximum; None where nothing speaks for the label.

        Of several equal ones it is the nearest to the middle of the image: beyond the outermost centres of cells the
        map is constant, up to the border.
        """
        if not self.heat_map.any():
            return None
        places = np.argwhere(self.heat_map == self.heat_map.max())
        middle = (np.array(self.heat_map.shape) - 1) / 2
        row, column = places[np.square(places - middle).sum(axis=1).argmin()]
        return int(row), int(column)


def explain(
    predictor: EnsemblePredictor,
    images: Images,
    *,
    label: str | None = None,
    batch_size: int = BATCH_SIZE,
    foreign: Foreign = "refuse",
) -> Iterator[tuple[str, Explanation | ReaderError]]:
    """Yield each image's name and its heat map, or its error if it cannot be read.

    Args:
        predictor: The ensemble.
        images: As `EnsemblePredictor.predict` takes them.
        label: The class to explain; None takes each image's most probable one.
        batch_size: Images in memory at once.
        foreign: As of `EnsemblePredictor.predict`.

    Raises:
        UserError: There is no such class.
        PlanError: A network has no last feature map.
        ReaderError: `images` itself is of no type or shape that images have.
    """
    if label is not None and label not in predictor.classes:
        raise UserError(f"label must be one of {', '.join(predictor.classes)}, but is {label!r}.")
    chosen = None if label is None else predictor.classes.index(label)
    for batch in predictor.read(images, batch_size=batch_size, foreign=foreign):
        pixels = [image for _, image in batch if not isinstance(image, ReaderError)]
        found = iter(_explain(predictor, np.stack(pixels), chosen) if pixels else ())
        for name, image in batch:
            yield name, image if isinstance(image, ReaderError) else next(found)


def odds_gradient(
    logits: npt.NDArray[np.float32] | npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
    calibrator: Identity | Temperature,
    labels: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """Return g = d odds / d logits of this module's docstring, in float64.

    Args:
        logits: (n_members, n_folds, n_images, n_classes).
        weights: Of the members, (n_members,).
        calibrator: Applied to each fold.
        labels: The class to explain of each image, (n_images,).

    Returns:
        An array of the shape of `logits`; over the classes of a network it sums to 0.
    """
    z = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    log_weights = torch.log(torch.tensor(weights, dtype=torch.float64)).view(-1, 1, 1, 1)
    log_q = torch.logsumexp(F.log_softmax(z, dim=-1) + log_weights, dim=0)
    temperature = calibrator.temperature if isinstance(calibrator, Temperature) else 1.0
    scores = log_q.mean(dim=0) / temperature  # (n_images, n_classes)
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
        share = torch.from_numpy(gradient[network.member, network.fold]).to(network.inputs)
        with exact_convolutions(networks.device):
            cells = cell_contributions(network.module, network.inputs, share)
        centres = cell_centres(network.spec, network.inputs.shape[-1])
        enlarge = _interpolation(centres, size)
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
    result: npt.NDArray[np.float64] = products.detach().sum(dim=1).double().cpu().numpy()
    return result


def _explain(predictor: EnsemblePredictor, pixels: npt.NDArray[np.uint8], chosen: int | None) -> list[Explanation]:
    networks, calibrator = predictor.networks, predictor.document.calibrator
    logits = networks.logits(pixels)
    probabilities = pool_folds(calibrator, np.tensordot(networks.member_weights, softmax(logits), axes=1))
    labels = probabilities.argmax(axis=1) if chosen is None else np.full(len(pixels), chosen)
    gradient = odds_gradient(logits, networks.member_weights, calibrator, labels)
    evidence, cell = contributions(networks, pixels, gradient)
    return [
        Explanation(
            label=predictor.classes[label],
            probability=float(row[label]),
            heat_map=_scaled(of_image),
            pixels=image,
            cell=cell,
        )
        for label, row, of_image, image in zip(labels, probabilities, evidence, pixels, strict=True)
    ]


def _interpolation(centres: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.float64]:
    """Return the matrix (size, n_cells) that interpolates linearly between the cells' centres, constant beyond them."""
    axis = (np.arange(size) + 0.5) / size
    return np.stack([np.interp(axis, centres, of_cell) for of_cell in np.eye(len(centres))], axis=1)


def _scaled(evidence: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    positive = np.clip(evidence, 0, None)
    highest = positive.max()
    return (positive / highest if highest > 0 else positive).astype(np.float32)
