"""How fast onnxruntime asks an ensemble that was exported to ONNX, against torch asking the same ensemble.

onnx   the exported graph in onnxruntime, CPU: squares of bytes to calibrated probabilities
torch  `EnsemblePredictor`'s networks in float32 on the CPU, and its pooling and calibration: the same from the same

Neither side decodes files. Both compute with the threads that OMP_NUM_THREADS gives torch. They run in turn, several
rounds in one process, and the fastest round of each counts. The largest difference of any probability stands beside.

    python benchmarks/onnx_speed.py [--quick] [--architecture NAME] [--bundle DIR]
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

import consilia
from consilia.decision.calibrators import pool_folds
from consilia.export.onnx_reference import ExportedEnsemble
from consilia.predict.predictor import EnsemblePredictor
from shared.figures import print_figures
from shared.random_bundle import build_random_bundle

N_MEMBERS, N_FOLDS = 2, 3


@dataclass(frozen=True)
class Case:
    """One ensemble and the size of its batches."""

    architecture: str
    side: int  # of the networks' input, pixels
    batch_size: int


QUICK = (Case("test_resnet", 28, 1), Case("test_resnet", 28, 64))
FULL = (
    *QUICK,
    *(Case("resnet18", 64, n) for n in (1, 32)),
    *(Case("densenet121", 64, n) for n in (1, 32)),
    *(Case("efficientnet_b0", 64, n) for n in (1, 32)),
)


def main() -> None:
    arguments = parse()
    cases = QUICK if arguments.quick else FULL
    if arguments.architecture:
        cases = tuple(case for case in cases if case.architecture == arguments.architecture)
    rounds = 3 if arguments.quick else 7
    measured = []
    with tempfile.TemporaryDirectory() as place:
        for name, batch_sizes, bundle in bundles(cases, Path(place), arguments.bundle):
            predictor = consilia.load(bundle, device="cpu", precision="float32")
            consilia.export_onnx(bundle, Path(place) / "graphs" / name)
            exported = ExportedEnsemble(Path(place) / "graphs" / name, threads=torch.get_num_threads())
            measured += [measure(name, predictor, exported, size, rounds) for size in batch_sizes]
    report(measured, rounds)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one tiny architecture; ends within a minute")
    parser.add_argument("--architecture", help="only the cases of this one")
    parser.add_argument("--bundle", type=Path, help="ask this ensemble in place of random ones")
    return parser.parse_args()


def bundles(cases: tuple[Case, ...], place: Path, own: Path | None) -> Iterator[tuple[str, list[int], Path]]:
    """Yield each ensemble's name, sizes of batches, and bundle."""
    if own is not None:
        yield own.name, sorted({case.batch_size for case in cases}), own
        return
    for name, side in dict.fromkeys((case.architecture, case.side) for case in cases):
        bundle = build_random_bundle(place / name, name, side=side, n_members=N_MEMBERS, n_folds=N_FOLDS)
        yield name, [case.batch_size for case in cases if case.architecture == name], bundle


def measure(
    name: str, predictor: EnsemblePredictor, exported: ExportedEnsemble, batch_size: int, rounds: int
) -> dict[str, Any]:
    """Return the speed of both sides, and how far apart they are."""
    reading, networks = predictor.document.reading, predictor.networks
    shape = (batch_size, reading.size, reading.size, reading.channels)
    squares = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    sides = {
        "onnx": lambda: exported.predict_proba(squares),
        "torch": lambda: pool_folds(predictor.document.calibrator, networks.probabilities(squares)),
    }
    difference = float(np.abs(sides["onnx"]() - sides["torch"]()).max())  # the first call of each warms up
    fastest = dict.fromkeys(sides, float("inf"))
    for _ in range(rounds):
        for side, ask in sides.items():
            fastest[side] = min(fastest[side], seconds_of(ask))
    speeds = {side: batch_size / seconds for side, seconds in fastest.items()}
    return {
        "ensemble": name,
        "batch_size": batch_size,
        "images_per_second": speeds,
        "onnx_over_torch": speeds["onnx"] / speeds["torch"],
        "difference": difference,
    }


def seconds_of(ask: Callable[[], object]) -> float:
    start = time.perf_counter()
    ask()
    return time.perf_counter() - start


def report(measured: list[dict[str, Any]], rounds: int) -> None:
    rows = [
        [
            f"{each['ensemble']}, batches of {each['batch_size']}",
            *(f"{each['images_per_second'][side]:,.0f}" for side in ("onnx", "torch")),
            f"{each['onnx_over_torch']:.2f}",
            f"{each['difference']:.1e}",
        ]
        for each in measured
    ]
    print_figures(
        f"Images per second, onnxruntime {onnxruntime.__version__} and torch {torch.__version__} on the CPU with "
        f"{torch.get_num_threads()} threads",
        ["ensemble", "onnx", "torch", "onnx/torch", "largest difference"],
        rows,
        {"threads": torch.get_num_threads(), "rounds": rounds, "cases": measured},
    )


if __name__ == "__main__":
    main()
