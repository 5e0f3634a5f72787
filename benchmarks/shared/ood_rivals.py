"""Other ways to tell unusual images than the one that ships: networks' features, and distances in them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors
from torch import nn

from consilia.config.network import ModelSpec, Preprocessing
from consilia.config.space import Architecture
from consilia.decision.ood.distance import find_nearest
from consilia.ensemble.ood_reference import fit_pictures
from consilia.train.input import network_input
from consilia.train.networks.factory import build_model
from shared.foreign_images import Images
from shared.ood_sets import Pictures

Numbers = npt.NDArray[np.floating]
Views = dict[str, Numbers]  # of the same images, (n_images, n_features) each
Fit = Callable[[Views], Callable[[Views], Numbers]]  # to the images of the training; gives a distance of others


def train_network(architecture: str, data: Pictures, rows: npt.NDArray[np.int64], *, seed: int) -> nn.Module:
    """Return a network that was trained from scratch, on 2,500 images or for eight epochs; of few images, for one."""
    torch.manual_seed(seed)
    n_classes = int(data.labels.max()) + 1
    model = build_model(ModelSpec(architecture=Architecture(timm=architecture), n_classes=n_classes, channels=1))
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    inputs, targets = _inputs(data.pixels[rows]), torch.from_numpy(data.labels[rows])
    for _ in range(max(8, 2500 // len(rows)) if len(rows) > 100 else 1):
        for batch in torch.randperm(len(rows)).split(32):  # type: ignore[no-untyped-call] # torch's
            if len(batch) == 1:
                continue  # it has no spread to normalise by
            loss = nn.functional.cross_entropy(model(inputs[batch]), targets[batch])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call] # torch's
            optimiser.step()
    return model.eval()


def _inputs(pixels: Images) -> torch.Tensor:
    size = pixels.shape[1]
    seen = Preprocessing(size=size, channels=1, image_size=size, mean=(0.5,), std=(0.25,))
    return network_input(torch.from_numpy(np.ascontiguousarray(pixels[..., None])), seen)


def network_views(model: Any, pixels: Images) -> Views:
    """Return what the network sees of images: channel means of stages, what its head takes, and logits."""
    parts = []
    with torch.inference_mode():
        for inputs in _inputs(pixels).split(128):  # type: ignore[no-untyped-call] # torch's
            last, stages = model.forward_intermediates(inputs)
            means = [stage.mean(dim=(2, 3)) for stage in stages]
            head = model.forward_head(last, pre_logits=True)
            n = len(means)
            parts.append(
                (
                    torch.cat([means[(n - 1) // 2], means[-1]], dim=1),
                    torch.cat(means, dim=1),
                    head,
                    model.get_classifier()(head),
                )
            )
    names = ("network", "stages", "head", "logits")
    return {name: torch.cat(each).numpy() for name, each in zip(names, zip(*parts, strict=True), strict=True)}


def fits(model: Any) -> dict[str, Fit]:
    """Return every distance that candidates are made of."""
    return {
        **{name: partial(fit_mahalanobis, name=name) for name in ("network", "stages", "picture", "layout")},
        "nearest": fit_nearest,
        "neighbours": fit_neighbours,
        "vim": partial(fit_vim, head=model.get_classifier()),
    }


def fit_mahalanobis(own: Views, *, name: str) -> Callable[[Views], Numbers]:
    """Return the distance under the shrunk covariance. Lee et al., NeurIPS 2018; Ledoit and Wolf, 2004."""
    view = own[name].astype(np.float64)
    mean, spread = view.mean(axis=0), view.std(axis=0)
    scale = np.maximum(spread, 1e-3 * np.median(spread[spread > 0]))
    root = np.linalg.cholesky(LedoitWolf(assume_centered=True).fit((view - mean) / scale).precision_)

    def distance(new: Views) -> Numbers:
        result: Numbers = np.linalg.norm((new[name] - mean) / scale @ root, axis=1)
        return result

    return distance


def fit_nearest(own: Views) -> Callable[[Views], Numbers]:
    """Return the distance that ships, from the images of these folds alone."""
    reference = fit_pictures(own["picture"], np.arange(len(own["picture"])))
    return lambda new: find_nearest(new["picture"], reference).distances


def fit_neighbours(own: Views, *, k: int = 5) -> Callable[[Views], Numbers]:
    """Return the distance to the k-th neighbour of normalised features. Sun et al., ICML 2022."""

    def normalised(view: Numbers) -> Numbers:
        result: Numbers = view / (np.linalg.norm(view, axis=1, keepdims=True) + 1e-10)
        return result

    neighbours = NearestNeighbors(n_neighbors=k).fit(normalised(own["head"]))

    def distance(new: Views) -> Numbers:
        result: Numbers = neighbours.kneighbors(normalised(new["head"]))[0][:, -1]
        return result

    return distance


def fit_vim(own: Views, *, head: nn.Linear) -> Callable[[Views], Numbers]:
    """Return the virtual logit less the energy. Wang et al., ViM, CVPR 2022."""
    weight, bias = head.weight.detach().numpy(), head.bias.detach().numpy()
    origin = -np.linalg.pinv(weight) @ bias
    centred = own["head"].astype(np.float64) - origin
    _, vectors = np.linalg.eigh(centred.T @ centred)
    null = vectors[:, : max(1, centred.shape[1] // 2)]

    def residual(view: Numbers) -> Numbers:
        result: Numbers = np.linalg.norm((view - origin) @ null, axis=1)
        return result

    alpha = own["logits"].max(axis=1).mean() / residual(own["head"]).mean()
    return lambda new: alpha * residual(new["head"]) - np.logaddexp.reduce(new["logits"], axis=1)
