"""Do heat maps mark what the network learned to see? consilia's beside other ways, on lesions whose place is known.

Each network is trained on phantoms by a whole study, and the test images whose nodule it finds are explained. Beside
consilia's heat maps stand the usual class activation maps of the last stage, those of the two stages before it (all by
Draelos and Carin's products, arXiv:2011.08891), and occlusion by the same blur. Then weights are forgotten from the
head down to the stem (Adebayo et al., NeurIPS 2018), and the lesions of other images tell what chance would hit.

With --data, the same networks learn the views of cxr-views, and places are blurred in the order of each map (deletion:
the lower the mean log odds, the better) or uncovered in it (insertion: the higher, the better).

    OMP_NUM_THREADS=1 python benchmarks/heat_maps.py [--quick] [--sizes 64 112 224] [--data DIR] [--root DIR]
"""

import argparse
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import yaml

import consilia
from consilia import search
from consilia.data.phantoms import write_phantoms
from consilia.predict.attribution import blurred, log_odds
from consilia.predict.explain import Explanation, explain, smoothed
from consilia.predict.predictor import EnsemblePredictor
from consilia.study.plan import read_single_plan
from consilia.train.device import set_threads
from consilia.train.networks.layers import layer_groups
from shared.figures import print_figures, print_table
from shared.other_heat_maps import Maps, rivals

MOST_IMAGES = 48
LITE0 = "tf_efficientnet_lite0"
Points = npt.NDArray[np.float64]  # (n_images, 3): row, column and radius of the lesion, in pixels


@dataclass(frozen=True, slots=True)
class Network:
    """What is trained, and how."""

    architecture: dict[str, Any]
    lr: float
    epochs: int = 16


NETWORKS = {
    "narrow ResNet-18": Network({"timm": "resnet18", "arguments": {"channels": [16, 32, 64, 128]}}, 2e-3),
    "tiny DenseNet": Network(
        {"timm": "densenet121", "arguments": {"growth_rate": 12, "block_config": [3, 3, 3]}}, 1e-2
    ),
    "tiny ResNet": Network({"timm": "test_resnet"}, 1e-2),
    "tiny EfficientNet": Network({"timm": "test_efficientnet"}, 1e-2),
    "EfficientNet-Lite0": Network({"timm": LITE0}, 1e-3, epochs=12),  # with pretrained weights
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the first network, on few patients for few epochs")
    parser.add_argument("--networks", nargs="+", choices=tuple(NETWORKS), help="default: those that --data allows")
    parser.add_argument("--sizes", nargs="+", type=int, default=[64], help="of the images, in pixels")
    parser.add_argument("--patients", type=int, help="phantoms")
    parser.add_argument("--data", type=Path, help="a folder with cxr-views and weights of EfficientNet-Lite0")
    parser.add_argument("--root", type=Path, help="keeps the studies; those that are there are not trained again")
    arguments = parser.parse_args()
    set_threads(1)
    patients = arguments.patients or (120 if arguments.quick else 240)
    names = arguments.networks or list(NETWORKS)[: 1 if arguments.quick else 5 if arguments.data else 4]
    rows, real = [], []
    with nullcontext(arguments.root) if arguments.root else tempfile.TemporaryDirectory() as folder:
        for size in arguments.sizes:
            phantoms = Path(folder) / f"phantoms-{size}-{patients}"
            if not phantoms.exists():
                write_phantoms(phantoms, patients=patients, size=size)
            for name in names:
                case = Case(Path(folder), NETWORKS[name], size, arguments.data, quick=arguments.quick)
                rows.append({"network": name, "size": size, **on_phantoms(case, phantoms)})
                if arguments.data:
                    real.append({"network": name, "size": size, **on_views(case, arguments.data / "cxr-views")})
    show_phantoms(rows, patients)
    if real:
        show_views(real)
    print_figures("", (), [], {"n_patients": patients, "phantoms": rows, "views": real})


@dataclass(frozen=True, slots=True)
class Case:
    """One network at one size."""

    folder: Path
    network: Network
    size: int
    data: Path | None
    quick: bool

    def train(self, card: str, path: Path, **more: Any) -> Path:
        """Return the bundle of a study of this configuration alone."""
        root = self.folder / f"{card}-{self.network.architecture['timm']}-{self.size}"
        root.mkdir(exist_ok=True)
        space = {"family": "heat", "architectures": {"net": self.network.architecture}, "start_with": ["net"]}
        training: dict[str, Any] = {
            "epochs": 8 if self.quick else self.network.epochs,
            "batch_size": 32,
            "image_size": self.size,
        }
        if self.network.architecture["timm"] == LITE0 and self.data:
            training["weights"] = f"{(self.data / 'weights').absolute()}/"
        study = {
            "name": "heat",
            "data": {"card": card, "path": str(path), "size": self.size, **more},
            "folds": {"k": 2},
            "spaces": [{**space, "parameters": {}}],
            "training": training,
            "ensemble": "best_single",
        }
        (root / "heat.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
        settings = [f"lr={self.network.lr}", "mixup=0", "augmentation=0.3"]
        plan = read_single_plan(root / "heat.yaml", settings=settings)
        return search(plan, studies=root / "studies", stores=self.folder / "stores").result().bundle


def on_phantoms(case: Case, phantoms: Path) -> dict[str, Any]:
    """Return where the heat maps of found nodules have their peaks, and what becomes of them without the weights."""
    # Phantoms of two patients may look alike: they are drawn apart, and images are explained, not scored.
    predictor = consilia.load(case.train("phantoms", phantoms, on_leak="keep"), device="cpu")
    table = pd.read_csv(phantoms / "metadata.csv").query("split == 'test'").reset_index(drop=True)
    called = np.array([each.label for each in predictor.predict([phantoms / path for path in table["path"]])])
    seen = table[(table["label"] == "nodule") & (called == "nodule")].iloc[:MOST_IMAGES]
    if seen.empty:
        raise SystemExit("No nodule of a test image was found: train longer.")
    points = seen[["lesion_y", "lesion_x", "lesion_radius"]].to_numpy() * case.size
    found = explanations(predictor, [phantoms / path for path in seen["path"]], "nodule")
    maps = {"consilia": np.stack([each.heat_map for each in found]).astype(float), **rivals(predictor, found)}
    drawn = np.array([each.says_nothing_because is None for each in found])
    others = [np.delete(np.arange(len(points)), row) for row in range(len(points))]
    by_chance = [
        hits(np.stack([row] * len(rest)), points[rest]).mean()
        for row, rest in zip(maps["consilia"], others, strict=True)
    ]
    return {
        "accuracy": float((called == table["label"].to_numpy()).mean()),
        "n": len(seen),
        "drawn": float(drawn.mean()),
        "gain": float(np.median([each.gain for each in found])),
        "agreement": float(np.median([each.agreement for each in found])),
        "by chance": float(np.mean(by_chance)),
        "peak in the lesion": {name: float(hits(each, points).mean()) for name, each in maps.items()},
        "mass in the lesion": {name: float(mass(each, points).mean()) for name, each in maps.items()},
        "forgotten": forgotten(predictor, found),
    }


def explanations(predictor: EnsemblePredictor, paths: Sequence[Path], label: str | None = None) -> list[Explanation]:
    """Return the heat map of each image."""
    found = [each for _, each in explain(predictor, list(paths), label=label)]
    return [each for each in found if isinstance(each, Explanation)]


def hits(maps: Maps, points: Points) -> npt.NDArray[np.bool_]:
    """Say of each map whether its peak lies in the lesion."""
    peaks = np.stack(np.unravel_index(maps.reshape(len(maps), -1).argmax(axis=1), maps.shape[1:]), axis=1) + 0.5
    inside: npt.NDArray[np.bool_] = np.hypot(*(peaks - points[:, :2]).T) <= points[:, 2]
    return inside


def mass(maps: Maps, points: Points) -> npt.NDArray[np.float64]:
    """Return which share of what speaks for the class lies in the lesion."""
    rows, columns = np.mgrid[: maps.shape[1], : maps.shape[2]] + 0.5
    y, x, radius = (each[:, None, None] for each in points.T)
    positive = np.clip(maps, 0, None)
    within = (positive * (np.hypot(rows - y, columns - x) <= radius)).sum(axis=(1, 2))
    result: npt.NDArray[np.float64] = within / np.maximum(positive.sum(axis=(1, 2)), 1e-12)
    return result


def forgotten(predictor: EnsemblePredictor, found: Sequence[Explanation]) -> dict[str, float]:
    """Return how alike maps are to those of networks that forget, from the head down; changes the networks.

    The mean correlation over images, and at the end the share of images whose map is still drawn.
    """
    pixels = np.stack([each.pixels for each in found])
    images = pixels[..., 0] if pixels.shape[3] == 1 else pixels
    groups = [layer_groups(each.module) for each in predictor.networks.loaded]
    result = {}
    for name, share in (("head", 0.0), ("half", 0.5), ("all", 1.0)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for network, depths in zip(predictor.networks.loaded, groups, strict=True):
                first = min(len(depths) - 1, round((1 - share) * len(depths)))
                forget(network.module, {name for group in depths[first:] for name in group})
        after = [each for _, each in explain(predictor, images, label=found[0].label) if isinstance(each, Explanation)]
        pairs = zip(found, after, strict=True)
        result[name] = float(np.mean([alike(one.heat_map, other.heat_map) for one, other in pairs]))
    result["still drawn"] = float(np.mean([each.says_nothing_because is None for each in after]))
    return result


def forget(module: torch.nn.Module, parameters: set[str]) -> None:
    """Give the layers that hold these parameters fresh weights."""
    for name, layer in module.named_modules():
        own = {f"{name}.{each}" for each, _ in layer.named_parameters(recurse=False)}
        if own & parameters and hasattr(layer, "reset_parameters"):
            layer.reset_parameters()


def alike(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1]) if one.std() and other.std() else 0.0


def on_views(case: Case, folder: Path) -> dict[str, Any]:
    """Return how the log odds of the predicted view fall and rise as places are blurred or uncovered by each map."""
    predictor = consilia.load(case.train("cxr_views", folder), device="cpu")
    paths = sorted((folder / "images").glob("*.png"))
    found = explanations(predictor, paths[:: 1 + len(paths) // MOST_IMAGES])
    pixels = np.stack([each.pixels for each in found])
    labels = torch.tensor([predictor.classes.index(each.label) for each in found])
    odds = log_odds(predictor.networks, predictor.document.calibrator)
    n_folds = 1 + max(each.fold for each in predictor.networks.loaded)
    maps = {"consilia": np.stack([each.heat_map for each in found]).astype(float), **rivals(predictor, found)}
    noise = np.random.default_rng(0).normal(size=maps["consilia"].shape)
    maps["chance"] = np.stack([smoothed(each) for each in noise])
    image, without = pixels.astype(np.float32), blurred(pixels)

    def mean_odds(images: npt.NDArray[np.float32]) -> float:
        with torch.inference_mode():
            return float(odds(*[torch.from_numpy(images)] * n_folds, labels).mean())

    shares = np.linspace(0.05, 0.95, 10)
    result: dict[str, Any] = {
        "n": len(found),
        "drawn": float(np.mean([each.says_nothing_because is None for each in found])),
        "agreement": float(np.median([each.agreement for each in found])),
        "deletion": {},
        "insertion": {},
    }
    for name, each in maps.items():
        limits = np.quantile(each, 1 - shares, axis=(1, 2))[..., None, None, None]
        first = [each[..., None] >= limit for limit in limits]
        result["deletion"][name] = float(np.mean([mean_odds(np.where(where, without, image)) for where in first]))
        result["insertion"][name] = float(np.mean([mean_odds(np.where(where, image, without)) for where in first]))
    return result


def show_phantoms(rows: list[dict[str, Any]], patients: int) -> None:
    ways = list(rows[0]["peak in the lesion"])
    table = [
        [row["network"], str(row["size"]), f"{row['accuracy']:.2f}", str(row["n"])]
        + [f"{row['peak in the lesion'][way]:.2f}, {row['mass in the lesion'][way]:.2f}" for way in ways]
        + [f"{row['by chance']:.2f}", f"{row['drawn']:.2f}", f"{row['gain']:.2f}", f"{row['agreement']:.2f}"]
        + [", ".join(f"{row['forgotten'][each]:.2f}" for each in ("head", "half", "all"))]
        + [f"{row['forgotten']['still drawn']:.2f}"]
        for row in rows
    ]
    header = ["network", "px", "test accuracy", "nodules", *ways, "by chance", "drawn", "gain, nats", "folds agree"]
    header += ["likeness once head, half, all forgot", "still drawn"]
    print_table(f"Peak, and mass, in the lesion ({patients} patients)", header, table)


def show_views(rows: list[dict[str, Any]]) -> None:
    ways = list(rows[0]["deletion"])
    table = [
        [row["network"], str(row["size"]), str(row["n"]), f"{row['drawn']:.2f}", f"{row['agreement']:.2f}"]
        + [f"{row['deletion'][way]:.2f}, {row['insertion'][way]:.2f}" for way in ways]
        for row in rows
    ]
    header = ["network", "px", "images", "drawn", "folds agree", *ways]
    print_table("Mean log odds of the view under deletion, and insertion", header, table)


if __name__ == "__main__":
    main()
