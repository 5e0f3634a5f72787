"""Other heat maps than consilia's: class activation maps of stages, and occlusion."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.ndimage import zoom

from consilia.predict.attribution import Pixels, blurred, log_odds
from consilia.predict.explain import Explanation
from consilia.predict.predictor import EnsemblePredictor
from consilia.train.input import network_input

Maps = npt.NDArray[np.float64]  # (n_images, size, size)


def rivals(predictor: EnsemblePredictor, found: Sequence[Explanation]) -> dict[str, Maps]:
    """Return other maps of the same images and classes."""
    pixels = np.stack([each.pixels for each in found])
    labels = torch.tensor([predictor.classes.index(each.label) for each in found])
    odds = log_odds(predictor.networks, predictor.document.calibrator)
    n_folds = 1 + max(each.fold for each in predictor.networks.loaded)
    stages = activation_maps(predictor, pixels, labels)

    def ask(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        with torch.inference_mode():
            return odds(*[torch.from_numpy(images)] * n_folds, labels).numpy()

    return {
        "last stage": stages[0],
        "two stages before it": (stages[1] + stages[2]) / 2,
        "occlusion": occluded(ask, pixels),
    }


def activation_maps(predictor: EnsemblePredictor, pixels: Pixels, labels: torch.Tensor) -> list[Maps]:
    """Return what activations times gradients say at each place of a stage, from the last one back, of all networks."""
    size, networks = pixels.shape[1], predictor.networks
    shown = torch.from_numpy(pixels)
    logits, stages = [], []
    for each in networks.loaded:
        module: Any = each.module
        inputs = network_input(shown, each.preprocessing).requires_grad_()
        last, inner = module.forward_intermediates(inputs)
        inner[-1] = last
        stages.append(inner[::-1][:3])
        logits.append(module.forward_head(last))
    z = torch.stack(logits).double().view(networks.n_members, -1, *logits[0].shape)
    q = torch.log(torch.einsum("m,mfnc->fnc", torch.tensor(networks.combination.weights).double(), z.softmax(dim=-1)))
    own = F.one_hot(labels, z.shape[-1]).bool()
    scores = q.mean(dim=0)
    odds = scores[own] - torch.logsumexp(scores.masked_fill(own, -torch.inf), dim=1)
    result = []
    for depth in range(3):
        features = [inner[depth] for inner in stages]
        gradients = torch.autograd.grad(odds.sum(), features, retain_graph=True)
        total = np.zeros(pixels.shape[:3])
        for one, gradient in zip(features, gradients, strict=True):
            cells = (one * gradient).sum(dim=1, keepdim=True).detach() * (one.shape[-1] / size) ** 2
            total += (
                F.interpolate(cells, size=(size, size), mode="bilinear", align_corners=False)[:, 0].double().numpy()
            )
        result.append(total)
    return result


def occluded(ask: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float64]], pixels: Pixels, n: int = 16) -> Maps:
    """Return how much the log odds fall when each of n x n soft patches is replaced by its blur."""
    size = pixels.shape[1]
    image, without = pixels.astype(np.float32), blurred(pixels)
    centres, places = (np.arange(n) + 0.5) * size / n, np.arange(size) + 0.5
    windows = np.exp(-((places - centres[:, None]) ** 2) / (2 * (size / n) ** 2)).astype(np.float32)
    whole = ask(image)
    falls = np.zeros((len(pixels), n, n))
    for row, column in np.ndindex(n, n):
        mask = np.outer(windows[row], windows[column])[..., None]
        falls[:, row, column] = whole - ask(image + mask * (without - image))
    enlarged: Maps = zoom(falls, (1, size / n, size / n), order=1, grid_mode=True, mode="nearest")
    return enlarged
