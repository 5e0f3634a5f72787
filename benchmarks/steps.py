"""How fast are training steps and scoring passes, on images that are ready on the device?

eager     consilia's step, kernel by kernel: warp, forward, backward, AdamW, average
captured  the same as one CUDA graph
scoring   the evaluation pass in float32 with a training batch, and in bfloat16 with a scoring batch

Without a GPU nothing is captured, and few images show that the program works. `operators` counts the calls of ATen
operators in an eager step, which is what a GPU is launched with.

--any-algorithm lets cuDNN time its algorithms and take those that add up in any order: what it costs that the same
seed gives the same numbers.

--compile asks another question: what does `torch.compile` add to the captured step, and after how many images of a
trial, whose folds share a step, is its time won back? First and later compile seconds are those of two networks of one
architecture in a process, with an empty cache on disk at first. It takes minutes.

    python benchmarks/steps.py [--quick] [--steps N] [--any-algorithm | --compile]
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from consilia.train.device import MEMORY_FORMAT, autocast, resolve_device
from consilia.train.inference import scoring_batch
from consilia.train.input import network_input
from shared.figures import print_figures
from shared.steps import Network, Training, wait_for

NETWORKS = (
    Network("test_resnet", 64, 64),
    Network("resnet18", 56, 64),
    Network("resnet18", 224, 64),
    Network("resnet50", 224, 64),
    Network("efficientnet_b0", 224, 64),
    Network("densenet121", 224, 64),
)
COMPILED = NETWORKS[2:3] + NETWORKS[4:]
ON_CPU = (Network("test_resnet", 28, 16), Network("resnet18", 28, 8))


@dataclass
class Figures:
    """Speeds in images a second; None: not measured here."""

    eager: float
    captured: float | None
    scoring: float
    scoring_bf16: float | None
    operators: int
    optimiser_groups: int
    largest_difference: float | None  # of the losses of as many steps, captured against eager


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two networks and few steps")
    parser.add_argument("--steps", type=int, help="timed of each kind")
    parser.add_argument("--compile", action="store_true", help="what torch.compile adds to the captured step")
    parser.add_argument("--any-algorithm", action="store_true", help="whatever cuDNN finds fastest")
    arguments = parser.parse_args()
    if arguments.any_algorithm:
        patch("consilia.train.step.steady_convolutions", any_algorithm).start()
    device = resolve_device("auto")
    if arguments.compile:
        compare_compiled(device, arguments.steps or (3 if device.type == "cpu" else 40))
        return
    networks = NETWORKS if device.type == "cuda" else ON_CPU
    networks = networks[:2] if arguments.quick else networks
    n_steps = arguments.steps or (3 if device.type == "cpu" or arguments.quick else 40)
    rows, cases = [], []
    for network in networks:
        figures = measure(network, device, n_steps)
        print(json.dumps({**asdict(network), **asdict(figures)}), flush=True)
        cases.append({**asdict(network), **asdict(figures)})
        gain = f"{figures.captured / figures.eager:.1f}" if figures.captured else "-"
        rows.append(
            [
                f"{network.architecture} {network.side} px, batch {network.batch_size}",
                *(f"{value:,.0f}" if value else "-" for value in (figures.eager, figures.captured)),
                gain,
                *(f"{value:,.0f}" if value else "-" for value in (figures.scoring, figures.scoring_bf16)),
                str(figures.operators),
                "-" if figures.largest_difference is None else f"{figures.largest_difference:.1e}",
            ]
        )
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    header = ["network", "eager", "captured", "gain", "scoring", "in bf16", "operators", "difference of losses"]
    print_figures(
        f"Steps, images/s ({name}, {n_steps} steps)", header, rows, {"device": name, "steps": n_steps, "cases": cases}
    )


def any_algorithm(device: torch.device, *, rounds: bool) -> AbstractContextManager[None]:
    """Stand in for `train.device.steady_convolutions`."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=rounds)


def measure(network: Network, device: torch.device, n_steps: int) -> Figures:
    """Measure one network."""
    b = network.batch_size
    eager = Training(network, device, capture=False)
    batch = eager.draw(b)
    losses = [float(eager.step(*batch)) for _ in range(3)]
    seconds = timed(lambda: eager.step(*batch), n_steps, device)
    with (counting := Counting()):  # type: ignore[no-untyped-call] # torch's
        eager.step(*batch)
    captured = difference = None
    if device.type == "cuda":
        other = Training(network, device, capture=True)
        difference = max(abs(float(other.step(*batch)) - loss) for loss in losses)
        captured = b / timed(lambda: other.step(*batch), n_steps, device) if other.is_captured else None
    network_of = eager.average.module

    def score(n: int, precision: str) -> float:
        images, _ = eager.draw(n)
        inputs = network_input(images, network.preprocessing).contiguous(memory_format=MEMORY_FORMAT)
        with torch.inference_mode(), autocast(device, "auto" if precision == "auto" else "float32"):
            network_of(inputs)
            return n / timed(lambda: network_of(inputs), max(3, n_steps // 4), device)

    return Figures(
        eager=b / seconds,
        captured=captured,
        scoring=score(b, "float32"),
        scoring_bf16=score(scoring_batch(b, device), "auto") if device.type == "cuda" else None,
        operators=counting.n,
        optimiser_groups=len(eager.optimiser.param_groups),
        largest_difference=difference,
    )


def compare_compiled(device: torch.device, n_steps: int) -> None:
    """Measure and print what torch.compile costs and brings; without a GPU nothing is captured."""
    cases, rows = [], []
    with tempfile.TemporaryDirectory(prefix="compiled-", ignore_cleanup_errors=True) as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        for network in COMPILED if device.type == "cuda" else ON_CPU[:1]:
            case = {**asdict(network), **measure_compiled(network, device, n_steps)}
            print(json.dumps(case), flush=True)
            cases.append(case)
            cells = [f"{case[name]:,.1f}" for name in ("captured", "compiled", "compile_s", "compile_again_s")]
            won_back = "never" if case["won_back_images"] is None else f"{case['won_back_images']:,.0f}"
            rows.append([f"{network.architecture} {network.side} px, batch {network.batch_size}", *cells, won_back])
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    header = ["network", "captured", "compiled, too", "compiling, s", "once more, s", "images to win it back"]
    figures = {"device": name, "steps": n_steps, "cases": cases}
    print_figures(f"torch.compile, images/s, and when its time is won back ({name})", header, rows, figures)


def measure_compiled(network: Network, device: torch.device, n_steps: int) -> dict[str, Any]:
    """Return images/s of the captured step alone and compiled, too, and the seconds that compiling adds to a first."""

    def first_and_speed(*, compiled: bool) -> tuple[float, float]:
        training = Training(network, device, capture=True, compiled=compiled)
        batch = training.draw(network.batch_size)
        first = timed(lambda: training.step(*batch), 1, device)
        return first, network.batch_size / timed(lambda: training.step(*batch), n_steps, device)

    first_and_speed(compiled=False)  # libraries start
    plain, captured = first_and_speed(compiled=False)
    first, compiled = first_and_speed(compiled=True)
    again, _ = first_and_speed(compiled=True)
    gain = 1 / captured - 1 / compiled
    return {
        "captured": captured,
        "compiled": compiled,
        "compile_s": first - plain,
        "compile_again_s": again - plain,
        "won_back_images": (first - plain) / gain if gain > 0 else None,
    }


def timed(work: Callable[[], object], n: int, device: torch.device) -> float:
    """Return the seconds that the device needs for one of n."""
    wait_for(device)
    started = time.perf_counter()
    for _ in range(n):
        work()
    wait_for(device)
    return (time.perf_counter() - started) / n


class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch's
    """Counts calls of operators."""

    n = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Count a call, and let it pass."""
        self.n += 1
        return func(*args, **(kwargs or {}))


if __name__ == "__main__":
    main()
