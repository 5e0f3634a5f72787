"""How many processes should share a GPU? Images per second in total of 1, 2 and 4 that train side by side.

Each process takes consilia's step, captured where there is a GPU, on images that are ready on the device. All of them
have built and warmed up before any is timed; those that wait keep their memory and ask the GPU for nothing. All are
told to start at once and stop after as many seconds. Picked is the smallest number whose total is within a tenth of the
largest. Where a network does not fit as often, it is measured for as many as it does. Whether NVIDIA's MPS was on is
said. Without a GPU tiny networks show that the program works.

    python benchmarks/packing.py [--quick] [--seconds S]
"""

import argparse
import gc
import json
import multiprocessing
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict
from multiprocessing.connection import Connection

import torch

from consilia.train.device import mps_serves, resolve_device, set_threads
from shared.figures import print_figures
from shared.steps import Network, Training, wait_for

NETWORKS = (
    Network("test_resnet", 64, 64),
    Network("resnet18", 224, 64),
    Network("efficientnet_b0", 224, 64),
    Network("densenet121", 224, 64),
)
ON_CPU = (Network("test_resnet", 28, 16),)
COUNTS = (1, 2, 4)
_LOSS = 0.1  # of the largest total, for fewer processes
_AHEAD = 4  # steps that a process has asked the GPU for: it never waits, and stops in time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two processes, half a second each")
    parser.add_argument("--seconds", type=float, help="of each measurement")
    arguments = parser.parse_args()
    device = resolve_device("auto")
    networks = NETWORKS if device.type == "cuda" else ON_CPU
    counts = COUNTS[:2] if arguments.quick else COUNTS
    seconds = arguments.seconds or (0.5 if arguments.quick else 1.5)
    workers = [_start() for _ in range(max(counts))]
    cases, rows = [], []
    for network in networks:
        totals = measure(workers, network, counts, seconds)
        ratios = {n: total / totals[1] for n, total in totals.items()}
        case = {**asdict(network), "totals": totals, "ratios": ratios, "picked": pick(totals)}
        print(json.dumps(case), flush=True)
        cases.append(case)
        title = f"{network.architecture} {network.side} px, batch {network.batch_size}"
        cells = [f"{totals[n]:,.0f} ({ratios[n]:.2f})" if n in totals else "-" for n in counts]
        rows.append([title, *cells, str(case["picked"])])
    for worker in workers:
        worker.send(None)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    by_mps = device.type == "cuda" and mps_serves()
    title = f"Processes side by side, images/s in total and over one ({name}, MPS {'on' if by_mps else 'off'})"
    figures = {"device": name, "mps": by_mps, "seconds": seconds, "cases": cases}
    print_figures(title, ["network", *map(str, counts), "picked"], rows, figures)


def measure(workers: list[Connection], network: Network, counts: tuple[int, ...], seconds: float) -> dict[int, float]:
    """Return images per second in total, by the number of processes."""
    for worker in workers:
        worker.send(network)
    ready = [worker for worker in workers if worker.recv()]
    totals = {}
    for n in counts:
        if n <= len(ready):
            for worker in ready[:n]:
                worker.send(seconds)
            totals[n] = sum(worker.recv() for worker in ready[:n])
    if not totals:
        raise RuntimeError(f"{network.architecture} at {network.side} px does not fit, or is not captured: see above")
    return totals


def pick(totals: Mapping[int, float]) -> int:
    """Return the fewest processes that lose no more than a tenth of the largest total."""
    return min(n for n, total in totals.items() if total >= (1 - _LOSS) * max(totals.values()))


def _start() -> Connection:
    """Start a process that trains what it is told to, until this one ends."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    context.Process(target=_serve, args=(there,), daemon=True).start()
    there.close()  # so that a process that dies is heard of
    return here


def _serve(orders: Connection) -> None:
    """Train the networks that come, one after the other."""
    set_threads(1)
    device = resolve_device("auto")
    order = orders.recv()
    while isinstance(order, Network):
        order = _serve_network(order, device, orders)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _serve_network(network: Network, device: torch.device, orders: Connection) -> object:
    """Answer whether the network fits, then how fast it trains for the seconds that come; return what comes next."""
    try:
        training = Training(network, device, capture=True)
        batch = training.draw(network.batch_size)
        training.step(*batch)
        wait_for(device)
        orders.send(training.is_captured or device.type == "cpu")
    except torch.OutOfMemoryError:
        orders.send(False)
        return orders.recv()
    while isinstance(order := orders.recv(), float):
        ahead: deque[torch.cuda.Event] = deque()
        n, started = 0, time.perf_counter()
        while time.perf_counter() - started < order:
            training.step(*batch)
            n += 1
            if device.type == "cuda":
                ahead.append(torch.cuda.Event())  # type: ignore[no-untyped-call] # torch's
                ahead[-1].record()
                if len(ahead) > _AHEAD:
                    ahead.popleft().synchronize()
        wait_for(device)
        orders.send(n * network.batch_size / (time.perf_counter() - started))
    return order


if __name__ == "__main__":
    main()
