"""How fast an ensemble predicts image files: consilia against a plain loop, with the same networks.

one network  a single network of the ensemble over the files: what the first model of a paper costs
loop         what a script does: a DataLoader with workers, and model after model over all files
loop, once   the same with one pass over the files: each batch goes through every network
consilia     `consilia.load(bundle).predict(files)`: calibrated predictions, with sets and reasons for review
bare         the forward passes of all networks on inputs that are ready on the device, one network after the other

The loops end at logits. They decode with Pillow, resize, and normalise on the device; their workers live through the
rounds and are started before the clock. Files are PNG, read once before the clock, so they are in the page cache. All
sides run in turn in one process, in float32 (the loops with torch's defaults, which round convolutions on a GPU to
TF32; consilia and the bare passes without) or in bfloat16. "outside" is the share of consilia's time that is spent
neither in the networks nor waiting for decoded images. Memory is the most that a fresh process held resident
(VmHWM of Linux); a DataLoader's workers come on top of that.

    python benchmarks/predict.py [--quick] [--device cpu|cuda] [--precision float32|bfloat16] [--bundle DIR]

With --bundle its networks must be of one architecture and image size.
"""

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

import consilia
from consilia.config.network import Preprocessing
from consilia.predict.networks import FoldEnsembles, InTurn, Precision, ShownImages, exact_convolutions
from consilia.predict.predictor import EnsemblePredictor
from consilia.train.device import MEMORY_FORMAT
from consilia.train.input import network_input
from shared.figures import print_figures
from shared.random_bundle import build_random_bundle, draw_images

FILE_SIDE = 320  # of the image files, pixels
N_FILES = 256  # different ones; they are predicted again and again
SIDES = ("one network", "loop", "loop, once", "consilia", "bare")
SPEEDS = ("b: loop", "b': loop, once", "c: consilia", "d: bare")
RATIOS = {
    "consilia_over_loop": ("loop", "consilia"),
    "consilia_over_loop_once": ("loop, once", "consilia"),
    "consilia_over_bare": ("bare", "consilia"),
}


@dataclass(frozen=True)
class Case:
    """One ensemble and the images that it is given."""

    architecture: str
    side: int  # of the networks' input, pixels
    n_images: int
    batch_size: int
    n_members: int = 3
    n_folds: int = 3


CASES = {
    ("cpu", True): (Case("test_resnet", 28, 256, 64, n_members=2), Case("resnet18", 64, 32, 16, n_members=2)),
    ("cpu", False): (
        Case("test_resnet", 28, 1024, 64),
        Case("test_resnet", 64, 512, 64),
        Case("resnet18", 64, 128, 64),
        Case("resnet18", 64, 32, 1),
    ),
    ("cuda", True): (
        Case("resnet18", 224, 1024, 64),
        Case("resnet18", 224, 64, 1),
        Case("test_resnet", 64, 1024, 64),
    ),
    ("cuda", False): (
        Case("test_resnet", 64, 4096, 64),
        Case("resnet18", 224, 2048, 64),
        Case("resnet18", 224, 128, 1),
        Case("densenet121", 224, 1024, 64, n_folds=5),
    ),
}


def main() -> None:
    arguments = parse()
    if arguments.side is not None:
        run_alone(arguments)
        return
    cases = CASES[arguments.device, arguments.quick]
    if arguments.architecture:
        cases = tuple(case for case in cases if case.architecture == arguments.architecture)
    if arguments.images:
        cases = tuple(replace(case, n_images=arguments.images) for case in cases)
    n_rounds = arguments.rounds or (2 if arguments.quick else 5)
    with tempfile.TemporaryDirectory() as place:
        files = draw_images(Path(place) / "files", N_FILES, FILE_SIDE)
        measured = []
        for number, case in enumerate(cases[: arguments.cases]):
            measured.append(measure(case, number, files, Path(place), arguments, n_rounds))
            tell("; ".join(row_of(measured[-1])))
        memory = measure_memory(files, Path(place), arguments) if arguments.memory else {}
    report(measured, memory, arguments, n_rounds)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer cases and images; ends within two minutes")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--bundle", type=Path, help="predict with this ensemble in place of random ones")
    parser.add_argument("--architecture", help="only the cases of this one")
    parser.add_argument("--cases", type=int, help="only the first so many")
    parser.add_argument("--rounds", type=int, help="of all sides, in turn")
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1), help="of the DataLoader")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="leave out the memory of each side")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)  # of one process whose memory is watched
    parser.add_argument("--files", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--images", type=int, help="files that a case predicts")
    return parser.parse_args()


class Files(Dataset[torch.Tensor]):
    """Image files as a script would read them: uint8 (side, side, 1)."""

    def __init__(self, paths: Sequence[Path], side: int, channels: int) -> None:
        self._paths, self._side, self._mode = paths, side, "L" if channels == 1 else "RGB"

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self._paths)

    def __getitem__(self, number: int) -> torch.Tensor:
        """Decode one file."""
        with Image.open(self._paths[number]) as image:
            fitted = image.convert(self._mode).resize((self._side, self._side), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(fitted)).view(self._side, self._side, -1)


class Contest:
    """One ensemble, the files, and each way to predict them."""

    def __init__(self, bundle: Path, paths: Sequence[Path], batch_size: int, arguments: argparse.Namespace) -> None:
        self.paths, self._batch_size = paths, batch_size
        self.predictor = load(bundle, arguments)
        self._device = self.predictor.networks.device
        self._bfloat16 = arguments.precision == "bfloat16"
        reading = self.predictor.document.reading
        self._loader: DataLoader[torch.Tensor] = DataLoader(
            Files(paths, reading.size, reading.channels),
            batch_size=batch_size,
            num_workers=arguments.workers,
            persistent_workers=arguments.workers > 0,
            pin_memory=self._device.type == "cuda",
        )
        self._networks = self.predictor.networks.loaded

    def run(self, side: str) -> object:
        """Predict all files one way."""
        ways: dict[str, Callable[[], object]] = {
            "one network": lambda: self._loop(slice(0, 1)),
            "loop": lambda: [self._loop(slice(n, n + 1)) for n in range(len(self._networks))],
            "loop, once": lambda: self._loop(slice(None)),
            "consilia": lambda: self.predictor.predict(self.paths, batch_size=self._batch_size),
        }
        return ways[side]()

    def _loop(self, chosen: slice) -> list[torch.Tensor]:
        logits = []
        with torch.inference_mode(), torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._bfloat16):
            for batch in self._loader:
                images = batch.to(self._device, non_blocking=True)
                logits += [
                    network.module(shown(images, network.preprocessing)).float().cpu()
                    for network in self._networks[chosen]
                ]
        return logits

    def prepare_bare(self, precision: Precision) -> Callable[[], object]:
        """Return the forward passes over batches that lie ready; the same batch stands for all of its size."""
        program = InTurn(self._networks, precision=precision)
        reading, rng = self.predictor.document.reading, np.random.default_rng(0)
        n_images, size = len(self.paths), self._batch_size
        sizes = [min(size, n_images - start) for start in range(0, n_images, size)]
        ready = {}
        for n in set(sizes):
            noise = rng.integers(0, 256, (n, reading.size, reading.size, reading.channels), dtype=np.uint8)
            ready[n] = ShownImages(torch.from_numpy(noise).to(self._device))  # keeps what its networks are shown

        def forward() -> None:
            with torch.inference_mode(), exact_convolutions(self._device):
                for n in sizes:
                    program(ready[n])

        return forward

    def share_outside(self) -> float:
        """Return the share of a prediction of all files that is neither in the networks nor a wait for images."""
        inside = Stopwatch()
        with ExitStack() as patches:
            patches.enter_context(patch.object(FoldEnsembles, "logits", inside.timed(FoldEnsembles.logits)))
            steps = inside.timed_steps(EnsemblePredictor.read)
            patches.enter_context(patch.object(EnsemblePredictor, "read", steps))
            whole = self.time(partial(self.run, "consilia"))
        return 1 - inside.seconds / whole

    def time(self, work: Callable[[], object]) -> float:
        """Return the seconds until the device has done the work."""
        self._wait()
        started = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - started

    def gpu_mebibytes(self, work: Callable[[], object]) -> float:
        """Return the most memory of the GPU that was in use at once while the work was done; 0 on a CPU."""
        if self._device.type != "cuda":
            work()
            return 0.0
        torch.cuda.reset_peak_memory_stats(self._device)
        self.time(work)
        return torch.cuda.max_memory_allocated(self._device) / 2**20

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


class Stopwatch:
    """Adds up the seconds that functions take."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, watched."""

        def watched(*arguments: Any, **options: Any) -> Any:
            with self.running():
                return function(*arguments, **options)

        return watched

    def timed_steps(self, function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        """Return a function that yields what this one does; the time until each is yielded counts."""

        def watched(*arguments: Any, **options: Any) -> Iterator[Any]:
            steps, end = function(*arguments, **options), object()
            while True:
                with self.running():
                    step = next(steps, end)
                if step is end:
                    return
                yield step

        return watched

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time that passes inside."""
        started = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - started


def shown(images: torch.Tensor, settings: Preprocessing) -> torch.Tensor:
    """Return network input (b, channels, side, side), as the training made it."""
    return network_input(images, settings).contiguous(memory_format=MEMORY_FORMAT)


def load(bundle: Path, arguments: argparse.Namespace) -> EnsemblePredictor:
    return consilia.load(bundle, device=arguments.device, precision=arguments.precision)


def measure(
    case: Case, number: int, files: Sequence[Path], place: Path, arguments: argparse.Namespace, n_rounds: int
) -> dict[str, Any]:
    """Measure all sides of a case in turn; speeds are in images per second, one per round."""
    bundle = arguments.bundle or build_random_bundle(
        place / f"bundle-{number}", case.architecture, side=case.side, n_members=case.n_members, n_folds=case.n_folds
    )
    contest = Contest(bundle, repeated(files, case.n_images), case.batch_size, arguments)
    works: dict[str, Callable[[], object]] = {side: partial(contest.run, side) for side in SIDES[:4]}
    works["bare"] = contest.prepare_bare(arguments.precision)
    gpu_memory = {}
    for side, work in works.items():
        tell(f"{case.architecture} {case.side} px: warming up {side}")
        gpu_memory[side] = contest.gpu_mebibytes(work)  # and warm up
    seconds: dict[str, list[float]] = {side: [] for side in works}
    outside: list[float] = []
    for _ in range(n_rounds):
        for side, work in works.items():
            seconds[side].append(contest.time(work))
        outside.append(contest.share_outside())
    return {
        **asdict(case),
        "share_outside": statistics.median(outside),
        "images_per_second": {side: case.n_images / statistics.median(values) for side, values in seconds.items()},
        "gpu_memory_mib": gpu_memory,
        **{name: ratio(seconds[other], seconds[side]) for name, (other, side) in RATIOS.items()},
    }


def repeated(paths: Sequence[Path], n_images: int) -> list[Path]:
    """Return `n` paths: the given ones, again and again."""
    return list(stream(paths, n_images))


def ratio(others: Sequence[float], own: Sequence[float]) -> float:
    """Return how many times as fast one's own side was: the median over the rounds, each of which measured both."""
    return statistics.median(other / seconds for other, seconds in zip(others, own, strict=True))


def measure_memory(files: Sequence[Path], place: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Return the peak memory of a process a side, MiB, by side and number of images."""
    bundle = build_random_bundle(place / "small", "test_resnet", side=28, n_members=2, n_folds=2)
    few, many = (100, 1_000) if arguments.quick else (1_000, 100_000)
    runs = [(side, few) for side in ("one network", "loop", "consilia") if side == "consilia" or not arguments.quick]
    return {
        f"{side}, {n} images": peak_mebibytes(side, n, bundle, files, arguments)
        for side, n in (*runs, ("consilia", many))
    }


def peak_mebibytes(
    side: str, n_images: int, bundle: Path, files: Sequence[Path], arguments: argparse.Namespace
) -> float:
    own = ["--side", side, "--images", str(n_images), "--bundle", str(bundle), "--files", str(files[0].parents[1])]
    options = ["--device", arguments.device, "--precision", arguments.precision, "--workers", str(arguments.workers)]
    command = [sys.executable, __file__, *own, *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout.splitlines()[-1])["peak_mib"])


def run_alone(arguments: argparse.Namespace) -> None:
    """Predict the images one way and nothing else in this process; consilia from an iterable without a length."""
    paths = sorted(arguments.files.rglob("*.png"))
    if arguments.side == "consilia":
        predictor = load(arguments.bundle, arguments)
        n_predicted = sum(1 for _ in predictor.iterate(stream(paths, arguments.images)))
    else:
        Contest(arguments.bundle, repeated(paths, arguments.images), 64, arguments).run(arguments.side)
        n_predicted = arguments.images
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    print(json.dumps({"images": n_predicted, "peak_mib": int(peak[1]) / 1024 if peak else math.nan}))


def stream(paths: Sequence[Path], n_images: int) -> Iterator[Path]:
    yield from islice(chain.from_iterable(repeat(paths)), n_images)


def tell(line: str) -> None:
    """Print the progress, so that a run that is cut short has printed what it measured."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def row_of(each: dict[str, Any]) -> list[str]:
    """Return a case's row of the table."""
    return [
        "{architecture} {side} px, {n_members} members, {n_folds} folds, batch {batch_size}".format(**each),
        *(f"{each['images_per_second'][side]:,.0f}" for side in SIDES),
        *(f"{each[key]:.2f}" for key in RATIOS),
        f"{each['share_outside']:.1%}",
    ]


def report(
    measured: Sequence[dict[str, Any]], memory: dict[str, float], arguments: argparse.Namespace, n_rounds: int
) -> None:
    rows = [row_of(each) for each in measured]
    rows += [
        [f"memory of {name}", *[""] * (len(SIDES) + len(RATIOS)), f"{value:,.0f} MiB"] for name, value in memory.items()
    ]
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else "CPU"
    print_figures(
        f"Images per second of prediction on {device} in {arguments.precision}, torch with {torch.get_num_threads()} "
        f"threads, {arguments.workers} DataLoader workers. Goals: c/b 1.5, c/d 0.95.",
        ["ensemble", "a: one network", *SPEEDS, "c/b", "c/b'", "c/d"],
        rows,
        {
            "device": device,
            "precision": arguments.precision,
            "threads": torch.get_num_threads(),
            "workers": arguments.workers,
            "rounds": n_rounds,
            "cases": list(measured),
            "memory_mib": memory,
        },
    )


if __name__ == "__main__":
    main()
