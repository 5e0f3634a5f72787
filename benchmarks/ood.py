"""Which images that are no radiographs of the training are flagged, and how often usual ones are? Ways to tell them.

    OMP_NUM_THREADS=1 python benchmarks/ood.py [--quick] [--data phantoms,pneumonia,views] [--images 200,500,2000]
        [--networks test_resnet,test_efficientnet,none] [--repeats 3]

Real images are found in the folder that the environment variable CONSILIA_REAL_DATA names; without it, there are
phantoms alone. Each side trains a network in five folds on other images in each repeat, gives every image a p-value
among images that the network (or the fit) never saw, and flags those below 0.01. Files have the same shape and no
colour here, which the rules would tell otherwise. What ships needs no
network: `--networks none` measures it alone, in seconds.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from PIL import Image
from scipy.stats import binomtest
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.neighbors import NearestNeighbors
from torch import nn

from consilia.config.network import ModelSpec, Preprocessing
from consilia.config.space import Architecture
from consilia.data.phantom_image import CLASSES, SCANNERS, draw_anatomy, draw_image
from consilia.decision.ood.distance import find_nearest, rank_p_values
from consilia.decision.ood.inputs import breaks_rules, layouts, measure_inputs
from consilia.decision.ood.picture import describe
from consilia.decision.ood.verdict import FLAG_BELOW
from consilia.ensemble.ood_reference import fit_inputs, fit_pictures
from consilia.train.device import set_threads
from consilia.train.input import network_input
from consilia.train.networks.factory import build_model
from shared import foreign_images as foreign
from shared.figures import print_figures, print_table

FOLDS = 5
NO_NETWORK = "none"
Numbers = npt.NDArray[np.floating]
Views = dict[str, Numbers]  # of the same images, (n_images, n_features) each
Fit = Callable[[Views], Callable[[Views], Numbers]]  # to the images of the training; gives a distance of others


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Images of one kind."""

    pixels: foreign.Images
    labels: npt.NDArray[np.int64]
    patients: npt.NDArray[np.str_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A way to tell unusual images: the largest of some distances, each in units of its usual ones."""

    scores: tuple[str, ...]  # empty: what ships
    one_fold: bool = False  # ranked among images of the first fold alone
    rules: bool = False  # a broken rule flags, too


CANDIDATES = {
    "layout, network; one fold": Candidate(scores=("layout", "network"), one_fold=True),
    "same, rules": Candidate(scores=("layout", "network"), one_fold=True, rules=True),
    "layout, network": Candidate(scores=("layout", "network")),
    "all stages": Candidate(scores=("stages",)),
    "neighbours in the head": Candidate(scores=("neighbours",)),
    "ViM": Candidate(scores=("vim",)),
    "picture, Mahalanobis": Candidate(scores=("picture",)),
    "picture and stages": Candidate(scores=("nearest", "stages")),
    "shipped, no rules": Candidate(scores=()),
    "shipped": Candidate(scores=(), rules=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one repeat of 100 phantoms, 12 images of a kind")
    parser.add_argument("--data")
    parser.add_argument("--images")
    parser.add_argument("--networks")
    parser.add_argument("--repeats", type=int)
    arguments = parser.parse_args()
    set_threads(1)
    data = arguments.data or ("phantoms" if arguments.quick or real_data() is None else "phantoms,pneumonia,views")
    sizes = [int(each) for each in (arguments.images or ("100" if arguments.quick else "200,500,2000")).split(",")]
    networks = arguments.networks or ("test_resnet" if arguments.quick else "test_resnet,test_efficientnet")
    repeats, n_foreign = arguments.repeats or (1 if arguments.quick else 3), 12 if arguments.quick else 200
    found = {}
    for name, n, network in product(data.split(","), sizes, networks.split(",")):
        if name == "views" and n != sizes[0]:
            continue  # there are no more of them
        found[f"{name}, {n} images, {network}"] = measure(name, n, network, repeats=repeats, n_foreign=n_foreign)
    for title, kinds in found.items():
        names = list(kinds)
        rows = [[each, *(_cell(kinds[kind][each]) for kind in names)] for each in kinds["usual"]]
        for first in range(0, len(names), 7):
            print_table(
                f"{title}: flagged, %, and interval",
                ["", *names[first : first + 7]],
                [[row[0], *row[1 + first : 8 + first]] for row in rows],
            )
    header = ["", "usual images flagged, %", "least found", "of", "AUROC of those"]
    rows = [[f"{title}: {each}", *_least(kinds, each)] for title, kinds in found.items() for each in kinds["usual"]]
    print_figures("Far kinds, the one least found", header, rows, {"repeats": repeats, "cases": found})


def measure(name: str, n: int, network: str, *, repeats: int, n_foreign: int) -> dict[str, dict[str, dict[str, float]]]:
    """Return of each kind of image, by each candidate, the number of images, those flagged, and the AUROC."""
    counts: dict[str, dict[str, list[tuple[int, int, float]]]] = {}
    for seed in range(repeats):
        generator = np.random.default_rng([seed, n])
        training, usual = DATA[name](n, generator)
        size = training.pixels.shape[1]
        images = {"usual": usual.pixels, **far_kinds(name, size, n_foreign)}
        manipulated = usual.pixels[:n_foreign]
        images |= {kind: np.array(change(manipulated, generator)) for kind, change in foreign.MANIPULATIONS.items()}
        for candidate, results in judge(training, images, network, seed).items():
            for kind, result in results.items():
                counts.setdefault(kind, {}).setdefault(candidate, []).append(result)
        print(f"{name}, {n} images, {network}: repeat {seed + 1} of {repeats}", flush=True)
    return {
        kind: {
            candidate: {
                "n": sum(each[0] for each in results),
                "flagged": sum(each[1] for each in results),
                "auroc": float(np.mean([each[2] for each in results])),
            }
            for candidate, results in candidates.items()
        }
        for kind, candidates in counts.items()
    }


def judge(
    training: Data, images: dict[str, foreign.Images], network: str, seed: int
) -> dict[str, dict[str, tuple[int, int, float]]]:
    """Return by candidate and kind how many images there are, how many are flagged, and the AUROC against usual ones.

    Args:
        training: Images to train and fit on.
        images: By kind, "usual" among them.
        network: timm's name.
        seed: Of the training.
    """
    ends = np.cumsum([len(each) for each in images.values()])
    together = np.concatenate(list(images.values()))
    held_distances: list[Views] = []
    new_distances: list[Views] = []
    still, still_new = pixel_views(training.pixels), pixel_views(together)
    for train, held in folds(training) if network != NO_NETWORK else ():
        model = train_network(network, training, train, seed=seed)
        seen, seen_new = still | network_views(model, training.pixels), still_new | network_views(model, together)
        score = {name: fit(_rows(seen, train)) for name, fit in fits(model).items()}
        held_distances.append({name: each(_rows(seen, held)) for name, each in score.items()})
        new_distances.append({name: each(seen_new) for name, each in score.items()})
    shipped = fit_pictures(still["picture"], np.unique(training.patients, return_inverse=True)[1])
    inputs = fit_inputs(training.pixels[..., None], aspect=np.ones(len(training.pixels)))
    broken = breaks_rules(measure_inputs(together[..., None], inputs, aspect=np.ones(len(together))), inputs)
    found = {}
    for name, candidate in CANDIDATES.items():
        if candidate.scores and network == NO_NETWORK:
            continue
        if candidate.scores:
            far, p_values = rank(candidate, held_distances, new_distances)
        else:
            far = find_nearest(still_new["picture"], shipped).distances
            p_values = rank_p_values(far, shipped.distances)
        flagged = (p_values < FLAG_BELOW) | (broken & candidate.rules)
        parts = zip(images, np.split(far, ends[:-1]), np.split(flagged, ends[:-1]), strict=True)
        usual = far[: ends[0]]
        found[name] = {kind: (len(own), int(flags.sum()), _auroc(usual, own)) for kind, own, flags in parts}
    return found


def _rows(views: Views, rows: npt.NDArray[np.int64]) -> Views:
    return {name: view[rows] for name, view in views.items()}


def rank(candidate: Candidate, held: Sequence[Views], new: Sequence[Views]) -> tuple[Numbers, npt.NDArray[np.float64]]:
    """Return how far new images lie, and their p-values: in each fold, among its images, all counts together."""
    n_folds = 1 if candidate.one_fold else len(held)
    units = {
        name: np.quantile(np.concatenate([each[name] for each in held[:n_folds]]), 1 - FLAG_BELOW)
        for name in candidate.scores
    }
    if len(units) == 1:
        units = dict.fromkeys(units, 1.0)  # an order is all that a p-value takes

    def largest(distances: Views) -> Numbers:
        result: Numbers = np.max([distances[name] / units[name] for name in candidate.scores], axis=0)
        return result

    references = [np.sort(largest(each)) for each in held[:n_folds]]
    far = [largest(each) for each in new[:n_folds]]
    beyond = [len(own) - np.searchsorted(own, each) for each, own in zip(far, references, strict=True)]
    p_values = (1 + np.sum(beyond, axis=0)) / (1 + sum(map(len, references)))
    return np.mean(far, axis=0), p_values


def folds(data: Data) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Return the rows trained on and held out by each fold; a patient's images are in one."""
    splitter = GroupKFold(n_splits=FOLDS, shuffle=True, random_state=0)
    return list(splitter.split(data.pixels, groups=data.patients))


def train_network(architecture: str, data: Data, rows: npt.NDArray[np.int64], *, seed: int) -> nn.Module:
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


def _inputs(pixels: foreign.Images) -> torch.Tensor:
    size = pixels.shape[1]
    seen = Preprocessing(size=size, channels=1, image_size=size, mean=(0.5,), std=(0.25,))
    return network_input(torch.from_numpy(np.ascontiguousarray(pixels[..., None])), seen)


def network_views(model: Any, pixels: foreign.Images) -> Views:
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


def pixel_views(pixels: foreign.Images) -> Views:
    """Return what needs no network."""
    blocks = [describe(pixels[start : start + 256, ..., None]) for start in range(0, len(pixels), 256)]
    return {"picture": np.concatenate(blocks), "layout": layouts(pixels).reshape(len(pixels), -1).astype(np.float32)}


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


def real_data() -> Path | None:
    """Return the folder of real images, where there is one."""
    place = os.environ.get("CONSILIA_REAL_DATA")
    return Path(place) if place else None


@cache
def far_kinds(name: str, size: int, n: int) -> dict[str, foreign.Images]:
    """Return images of kinds that have nothing to do with the data set `name`."""
    generator = np.random.default_rng(7)
    drawn = (foreign.photographs, foreign.plots, foreign.pages, foreign.screenshots)
    kinds = {each.__name__: foreign.squares(_drawn(each, n), size) for each in drawn}
    kinds |= {"noise": foreign.noise(n, size, generator), "digits": foreign.squares(foreign.digits(n), size)}
    folder = real_data()
    if name != "phantoms":
        kinds["phantoms"] = _sized(draw_phantoms(n, generator).pixels, size)
    if folder is not None:
        if name != "pneumonia":
            kinds["children's chests"] = _sized(_pneumonia(folder).pixels[:n], size)
        if name != "views":
            kinds["adults' chests"] = _sized(_views(folder).pixels[:n], size)
        kinds["slices"] = foreign.squares(foreign.slices(folder / "dicom"), size)
    return kinds


@cache
def _drawn(draw: Callable[[int, np.random.Generator], list[Image.Image]], n: int) -> list[Image.Image]:
    return [each.convert("L") for each in draw(n, np.random.default_rng(3))]


def _sized(images: foreign.Images, size: int) -> foreign.Images:
    return foreign.squares([Image.fromarray(each) for each in images], size)


def draw_phantoms(n: int, generator: np.random.Generator) -> Data:
    """Return one image each of n phantom patients, of 64 pixels."""
    labels: npt.NDArray[np.int64] = generator.integers(0, len(CLASSES), n).astype(np.int64)
    scanners = list(SCANNERS.values())
    images = [
        draw_image(CLASSES[label], draw_anatomy(generator), scanners[number % 2], size=64, generator=generator)[0]
        for number, label in enumerate(labels)
    ]
    return Data(pixels=np.stack(images), labels=labels, patients=np.arange(n).astype(str))


def phantoms(n: int, generator: np.random.Generator) -> tuple[Data, Data]:
    """Return n images to train on, and 500 usual ones; 2 n where n is small."""
    return draw_phantoms(n, generator), draw_phantoms(min(500, 2 * n), generator)


def pneumonia(n: int, generator: np.random.Generator) -> tuple[Data, Data]:
    """Return n images to train on, and 1,000 usual ones: PneumoniaMNIST's training images have no patients."""
    rows = generator.permutation(4708)
    return _take(_pneumonia(_needed()), rows[:n]), _take(_pneumonia(_needed()), rows[n : n + 1000])


def views(n: int, generator: np.random.Generator) -> tuple[Data, Data]:
    """Return about four fifths of the adults' radiographs to train on, and the rest; whole patients."""
    data = _views(_needed())
    patients = generator.permutation(np.unique(data.patients))
    rest = np.isin(data.patients, patients[: len(patients) // 5])
    return _take(data, np.flatnonzero(~rest)), _take(data, generator.permutation(np.flatnonzero(rest)))


DATA = {"phantoms": phantoms, "pneumonia": pneumonia, "views": views}


def _needed() -> Path:
    folder = real_data()
    if folder is None:
        raise SystemExit("The environment variable CONSILIA_REAL_DATA must name a folder of real images, but is unset.")
    return folder


@cache
def _pneumonia(folder: Path) -> Data:
    with np.load(folder / "pneumoniamnist_28.npz") as archive:
        pixels, labels = archive["train_images"], archive["train_labels"][:, 0].astype(np.int64)
    rows = np.random.default_rng(0).permutation(len(pixels))
    return Data(pixels=pixels[rows], labels=labels[rows], patients=np.arange(len(pixels)).astype(str))


@cache
def _views(folder: Path) -> Data:
    table = pd.read_csv(folder / "cxr-views" / "metadata.csv", dtype=str)
    paths = [next((folder / "cxr-views").rglob(name)) for name in table["filename"]]
    pixels = foreign.squares([Image.open(path) for path in paths], 64)
    labels = table["view"].astype("category").cat.codes.to_numpy().astype(np.int64)
    return Data(pixels=pixels, labels=labels, patients=table["patientid"].to_numpy(np.str_))


def _take(data: Data, rows: npt.NDArray[np.int64]) -> Data:
    return Data(pixels=data.pixels[rows], labels=data.labels[rows], patients=data.patients[rows])


def _auroc(usual: Numbers, other: Numbers) -> float:
    distances = np.minimum(np.concatenate([usual, other]), np.finfo(np.float32).max)
    return float(roc_auc_score(np.repeat([0, 1], [len(usual), len(other)]), distances))


def _interval(found: dict[str, float]) -> tuple[float, float, float]:
    share = binomtest(int(found["flagged"]), int(found["n"]))
    interval = share.proportion_ci(method="wilson")
    return 100 * found["flagged"] / found["n"], 100 * interval.low, 100 * interval.high


def _cell(found: dict[str, float]) -> str:
    share, low, high = _interval(found)
    return f"{share:.1f} ({low:.1f} {high:.1f})"


def _least(kinds: dict[str, dict[str, dict[str, float]]], candidate: str) -> tuple[str, str, str, str]:
    far = [kind for kind in kinds if kind != "usual" and kind not in foreign.MANIPULATIONS]
    worst = min(far, key=lambda kind: _interval(kinds[kind][candidate])[0])
    found = kinds[worst][candidate]
    return _cell(kinds["usual"][candidate]), _cell(found), worst, f"{found['auroc']:.3f}"


if __name__ == "__main__":
    main()
