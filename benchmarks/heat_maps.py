"""Do heat maps mark what the network learned to see? Planted lesions against the peaks of the maps.

Each network is trained on phantoms by a whole study, and the test images whose nodule it finds are explained. Compared
are cells drawn where they look and cells drawn by a ruler; the trained network and one with fresh weights; and the
lesion of the image with those of all other images, which tell what chance would hit.

    OMP_NUM_THREADS=1 python benchmarks/heat_maps.py [--quick] [--networks 5] [--patients 240] [--epochs 16]
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import yaml

import consilia
from consilia import search
from consilia.config.network import ModelSpec
from consilia.data.phantoms import write_phantoms
from consilia.predict import attribution as evidence
from consilia.predict.explain import Explanation, explain
from consilia.predict.predictor import EnsemblePredictor
from consilia.study.plan import read_single_plan
from consilia.train.device import set_threads
from consilia.train.networks.cells import cell_centres
from shared.figures import print_figures

SIZE = 64  # pixels
NETWORKS: dict[str, dict[str, Any]] = {  # and the side that the network sees, where it is not the stored one
    "test_resnet, dilated": {"timm": "test_resnet", "arguments": {"output_stride": 8}},
    "test_resnet, dilated, at 128 px": {"timm": "test_resnet", "arguments": {"output_stride": 8}, "image_size": 128},
    "test_resnet": {"timm": "test_resnet"},
    "test_efficientnet": {"timm": "test_efficientnet"},
    "tiny DenseNet": {"timm": "densenet121", "arguments": {"growth_rate": 12, "block_config": [3, 3, 3]}},
    "narrow ResNet-18 at 128 px": {"timm": "resnet18", "arguments": {"channels": [16, 32, 64, 128]}, "image_size": 128},
}

TITLES = (
    *("in the lesion", "within half a cell", "by a ruler: in it", "within half", "by chance", "fresh weights"),
    "likeness",
)

Points = npt.NDArray[np.float64]  # (n_images, 3): row, column and radius of the lesion, in pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the first network, on 120 patients for 8 epochs")
    parser.add_argument("--networks", type=int)
    parser.add_argument("--patients", type=int)
    parser.add_argument("--epochs", type=int)
    arguments = parser.parse_args()
    set_threads(1)
    n_networks = arguments.networks or (1 if arguments.quick else len(NETWORKS))
    patients = arguments.patients or (120 if arguments.quick else 240)
    epochs = arguments.epochs or (8 if arguments.quick else 16)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        phantoms = write_phantoms(root / "phantoms", patients=patients, size=SIZE)
        rows = [
            {"network": name, **measure(root / str(number), phantoms, NETWORKS[name], epochs=epochs)}
            for number, name in enumerate(list(NETWORKS)[:n_networks])
        ]
    header = ["network", "test accuracy", "images", "cell, px", *TITLES]
    print_figures(
        f"Peaks of heat maps, {patients} patients, {epochs} epochs",
        header,
        [
            [row["network"], f"{row['accuracy']:.2f}", str(row["n"]), f"{row['cell']:g}"]
            + [f"{row[title]:.2f}" for title in TITLES]
            for row in rows
        ],
        {"n_patients": patients, "n_epochs": epochs, "networks": rows},
    )


def measure(root: Path, phantoms: Path, network: dict[str, Any], *, epochs: int) -> dict[str, Any]:
    """Train the network, and return where its heat maps have their peaks."""
    bundle = train(root, phantoms, network, epochs=epochs)
    table = pd.read_csv(phantoms / "metadata.csv").query("split == 'test'").reset_index(drop=True)
    predictor = consilia.load(bundle, device="cpu")
    called = np.array([each.label for each in predictor.predict([phantoms / path for path in table["path"]])])
    seen = table[(table["label"] == "nodule") & (called == "nodule")]
    if seen.empty:
        raise SystemExit(
            f"{network['timm']} predicts no nodule in any test image that has one: train it longer (--epochs)."
        )
    paths, lesions = [phantoms / path for path in seen["path"]], seen[["lesion_y", "lesion_x", "lesion_radius"]]
    points = lesions.to_numpy() * SIZE
    found = explanations(predictor, paths)
    with by_a_ruler():
        ruled = explanations(predictor, paths)
    forget(predictor)
    fresh = explanations(predictor, paths)
    half = found[0].cell / 2
    others = [np.delete(np.arange(len(points)), row) for row in range(len(points))]
    chance = [share_within([each] * len(rest), points[rest], half) for each, rest in zip(found, others, strict=True)]
    values = (
        share_within(found, points, 0),
        share_within(found, points, half),
        share_within(ruled, points, 0),
        share_within(ruled, points, half),
        float(np.mean(chance)),
        share_within(fresh, points, half),
        likeness(found, fresh),
    )
    accuracy = float((called == table["label"].to_numpy()).mean())
    return {"accuracy": accuracy, "n": len(points), "cell": found[0].cell, **dict(zip(TITLES, values, strict=True))}


def train(root: Path, phantoms: Path, network: dict[str, Any], *, epochs: int) -> Path:
    """Return the bundle of a study of one configuration."""
    root.mkdir()
    architecture = {key: network[key] for key in ("timm", "arguments") if key in network}
    space = {"family": "heat", "architectures": {"net": architecture}, "start_with": ["net"], "parameters": {}}
    training = {"epochs": epochs, "batch_size": 32, "image_size": network.get("image_size", SIZE)}
    study = {
        "name": "heat",
        "data": {"card": "phantoms", "path": str(phantoms), "size": SIZE},
        "folds": {"k": 2},
        "spaces": [space],
        "training": training,
        "ensemble": "best_single",
    }
    (root / "heat.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    lr = 1e-2 if network["timm"] != "resnet18" else 1e-3
    plan = read_single_plan(root / "heat.yaml", settings=[f"lr={lr}", "mixup=0", "augmentation=0.3"])
    return search(plan, studies=root / "studies", stores=root.parent / "stores").result().bundle


def explanations(predictor: EnsemblePredictor, paths: Sequence[Path]) -> list[Explanation]:
    """Return the heat map of the nodule in each image."""
    found = [each for _, each in explain(predictor, list(paths), label="nodule")]
    return [each for each in found if isinstance(each, Explanation)]


def share_within(found: Sequence[Explanation], points: Points, tolerance: float) -> float:
    """Return the share of images whose peak is at most `tolerance` pixels outside the lesion."""
    distances = [
        np.inf if each.peak is None else np.hypot(*(np.array(each.peak) + 0.5 - point[:2])) - point[2]
        for each, point in zip(found, points, strict=True)
    ]
    return float((np.array(distances) <= tolerance).mean())


def likeness(found: Sequence[Explanation], fresh: Sequence[Explanation]) -> float:
    """Return the mean correlation of the maps of trained and of fresh weights; 0 where a map is empty."""
    return float(
        np.mean(
            [
                np.corrcoef(one.heat_map.ravel(), other.heat_map.ravel())[0, 1]
                if one.heat_map.any() and other.heat_map.any()
                else 0.0
                for one, other in zip(found, fresh, strict=True)
            ]
        )
    )


@contextmanager
def by_a_ruler() -> Iterator[None]:
    """Draw cell i of n at (i + 1/2) / n of the side, wherever it looks."""

    def ruler(spec: ModelSpec, image_size: int) -> npt.NDArray[np.float64]:
        n = len(cell_centres(spec, image_size))
        return (np.arange(n) + 0.5) / n

    with patch.object(evidence, "cell_centres", ruler):
        yield


def forget(predictor: EnsemblePredictor) -> None:
    """Give every layer of every network fresh weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for network in predictor.networks.each(np.zeros((1, SIZE, SIZE, 1), np.uint8)):
            for layer in network.module.modules():
                if hasattr(layer, "reset_parameters"):
                    layer.reset_parameters()  # type: ignore[operator] # of every layer with weights


if __name__ == "__main__":
    main()
