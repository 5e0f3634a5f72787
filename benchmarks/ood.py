"""Which images that are no radiographs of the training are flagged, and how often usual ones are? Ways to tell them.

    OMP_NUM_THREADS=1 python benchmarks/ood.py [--quick] [--data DIR] [--sets phantoms,pneumonia,views]
        [--images 200,500,2000] [--networks test_resnet,test_efficientnet,none] [--repeats 3]

Without --data, a folder of real images, there are phantoms alone. Each side trains a network in five folds on other
images in each repeat, gives every image a p-value among images that the network (or the fit) never saw, and flags those
below 0.01. Files have the same shape and no colour here, which the rules would tell otherwise. What ships needs no
network: `--networks none` measures it alone, in seconds.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold

from consilia.decision.ood.distance import find_nearest, rank_p_values
from consilia.decision.ood.inputs import breaks_rules, layouts, measure_inputs
from consilia.decision.ood.picture import describe
from consilia.decision.ood.verdict import FLAG_BELOW
from consilia.ensemble.ood_reference import fit_inputs, fit_pictures
from consilia.train.device import set_threads
from shared.figures import print_figures, print_table
from shared.foreign_images import MANIPULATIONS, Images
from shared.ood_rivals import Numbers, Views, fits, network_views, train_network
from shared.ood_sets import SETS, Pictures, far_kinds

FOLDS = 5
NO_NETWORK = "none"


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
    parser.add_argument("--data", type=Path, help="a folder with cxr-views, dicom and pneumoniamnist_28.npz")
    parser.add_argument("--sets")
    parser.add_argument("--images")
    parser.add_argument("--networks")
    parser.add_argument("--repeats", type=int)
    arguments = parser.parse_args()
    set_threads(1)
    sets = arguments.sets or ("phantoms" if arguments.quick or arguments.data is None else ",".join(SETS))
    sizes = [int(each) for each in (arguments.images or ("100" if arguments.quick else "200,500,2000")).split(",")]
    networks = arguments.networks or ("test_resnet" if arguments.quick else "test_resnet,test_efficientnet")
    repeats, n_foreign = arguments.repeats or (1 if arguments.quick else 3), 12 if arguments.quick else 200
    found = {}
    for name, n, network in product(sets.split(","), sizes, networks.split(",")):
        if name == "views" and n != sizes[0]:
            continue  # there are no more of them
        found[f"{name}, {n} images, {network}"] = measure(
            name, n, network, folder=arguments.data, repeats=repeats, n_foreign=n_foreign
        )
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


def measure(
    name: str, n: int, network: str, *, folder: Path | None, repeats: int, n_foreign: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Return of each kind of image, by each candidate, the number of images, those flagged, and the AUROC."""
    counts: dict[str, dict[str, list[tuple[int, int, float]]]] = {}
    for seed in range(repeats):
        generator = np.random.default_rng([seed, n])
        training, usual = SETS[name](n, generator, folder)
        size = training.pixels.shape[1]
        images = {"usual": usual.pixels, **far_kinds(name, size, n_foreign, folder)}
        manipulated = usual.pixels[:n_foreign]
        images |= {kind: np.array(change(manipulated, generator)) for kind, change in MANIPULATIONS.items()}
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
    training: Pictures, images: dict[str, Images], network: str, seed: int
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


def folds(data: Pictures) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Return the rows trained on and held out by each fold; a patient's images are in one."""
    splitter = GroupKFold(n_splits=FOLDS, shuffle=True, random_state=0)
    return list(splitter.split(data.pixels, groups=data.patients))


def pixel_views(pixels: Images) -> Views:
    """Return what needs no network."""
    blocks = [describe(pixels[start : start + 256, ..., None]) for start in range(0, len(pixels), 256)]
    return {"picture": np.concatenate(blocks), "layout": layouts(pixels).reshape(len(pixels), -1).astype(np.float32)}


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
    far = [kind for kind in kinds if kind != "usual" and kind not in MANIPULATIONS]
    worst = min(far, key=lambda kind: _interval(kinds[kind][candidate])[0])
    found = kinds[worst][candidate]
    return _cell(kinds["usual"][candidate]), _cell(found), worst, f"{found['auroc']:.3f}"


if __name__ == "__main__":
    main()
