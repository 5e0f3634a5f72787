"""How `consilia serve` stands up to many clients, and how much of the predictor's own speed is left over HTTP.

direct   `consilia.load(bundle).predict(files)` in this process, while the server waits
served   `consilia serve` in a process of its own on loopback, asked by clients that each send the next request as soon
         as the last is answered

Both are given the same files, with the same number of threads. The clients are threads of this process with one
connection each, and their bodies are ready before the clock: what they cost is taken from the server's cores. Latency
is from the first byte sent to the last received. An error is any status but 200, any image with an error in place of
its prediction, and any broken connection. Both sides take turns, three times each. The ratio is the median
over the turns, each of which compares with the direct one right before it. What is answered in the first fifth of a
turn, when all clients begin at once, or after its end is not counted. Ensembles are built in a process of their own:
one that has built networks predicts a fifth faster than one that has just begun, since its allocator has learned to
keep memory.

    python benchmarks/serve.py [--quick] [--clients 32] [--seconds 60] [--images-per-request 1] [--bundle DIR]
"""

import argparse
import http.client
import multiprocessing
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import consilia
from consilia.predict.predictor import EnsemblePredictor
from shared.figures import print_figures
from shared.random_bundle import build_random_bundle, draw_images

FILE_SIDE = 320  # of the image files, pixels
N_FILES = 128  # different ones; they are sent again and again
TURNS = 3
RAMP = 0.2  # of a turn, until clients no longer come all at once: not counted
BOUNDARY = "consilia-benchmark"


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory() as place:
        files = draw_images(Path(place) / "files", N_FILES, FILE_SIDE)
        if arguments.bundle is not None:
            cases = {arguments.bundle.name: arguments.bundle}
        else:
            names = ("test_resnet",) if arguments.quick else ("test_resnet", "resnet18")
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as apart:
                cases = {
                    name: apart.submit(build_bundle, Path(place) / name, name, arguments).result() for name in names
                }
        measured = [measure(name, bundle, files, arguments) for name, bundle in cases.items()]
    report(measured, arguments)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small ensemble for three seconds")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, help="that clients ask for; 60, or 3 with --quick")
    parser.add_argument("--images-per-request", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--bundle", type=Path, help="serve this ensemble in place of random ones")
    arguments = parser.parse_args()
    arguments.seconds = arguments.seconds or (3.0 if arguments.quick else 60.0)
    return arguments


def build_bundle(place: Path, architecture: str, arguments: argparse.Namespace) -> Path:
    n = 2 if arguments.quick else 3
    return build_random_bundle(place, architecture, side=28 if arguments.quick else 64, n_members=n, n_folds=n)


def measure(name: str, bundle: Path, files: Sequence[Path], arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure one ensemble, directly and over HTTP."""
    predictor = consilia.load(bundle, device=arguments.device, precision="float32")
    predictor.predict(files)  # and warm up
    bodies = make_bodies(files, arguments.images_per_request)
    direct, loads = [], []
    with served(bundle, arguments) as address:
        crowd(address, bodies, arguments.clients, seconds=1)
        for _ in range(TURNS):
            direct.append(images_per_second(predictor, files, arguments.seconds / TURNS / 2))
            loads.append(crowd(address, bodies, arguments.clients, seconds=arguments.seconds / TURNS))
    seconds = [each for load in loads for each in load.seconds]
    errors = [each for load in loads for each in load.errors]
    speeds = [load.requests_per_second * arguments.images_per_request for load in loads]
    p50, p95, p99 = np.percentile(seconds, (50, 95, 99)).tolist()
    return {
        "ensemble": name,
        "requests": len(seconds),
        "errors": len(errors),
        "first_errors": errors[:3],
        **{"p50_s": p50, "p95_s": p95, "p99_s": p99},
        "images_per_second": {"direct": direct, "served": speeds},
        "served_over_direct": statistics.median(each / other for each, other in zip(speeds, direct, strict=True)),
    }


def images_per_second(predictor: EnsemblePredictor, files: Sequence[Path], seconds: float) -> float:
    """Predict all files again and again for as long."""
    n_images, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        n_images += len(predictor.predict(files))
    return n_images / (time.perf_counter() - started)


def make_bodies(files: Sequence[Path], size: int) -> list[bytes]:
    """Return multipart bodies of `size` files each."""
    parts = []
    for path in files:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="{path.name}"\r\n\r\n'
        parts.append(head.encode() + path.read_bytes() + b"\r\n")
    ends = range(size, len(parts) + 1, size)
    return [b"".join(parts[end - size : end]) + f"--{BOUNDARY}--\r\n".encode() for end in ends]


@contextmanager
def served(bundle: Path, arguments: argparse.Namespace) -> Iterator[str]:
    """Serve a bundle in a process of its own; yield its host and port."""
    command = [sys.executable, "-m", "consilia", "serve", str(bundle), "--port", "0"]
    command += ["--device", arguments.device, "--precision", "float32"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            said = server.stdout.readline()
            yield said.split("http://")[1].split()[0]
        finally:
            server.send_signal(signal.SIGINT)


@dataclass
class Load:
    """What became of the requests of all clients."""

    seconds: list[float] = field(default_factory=list)  # of each that was answered
    errors: list[str] = field(default_factory=list)
    since: float = 0.0  # by the clock; what is answered between these is counted
    until: float = 0.0

    @property
    def requests_per_second(self) -> float:
        """Answers in the time that counts."""
        return len(self.seconds) / (self.until - self.since)


def crowd(address: str, bodies: Sequence[bytes], n_clients: int, *, seconds: float) -> Load:
    """Let clients ask for some seconds."""
    started = time.perf_counter()
    load = Load(since=started + RAMP * seconds, until=started + seconds)
    clients = [
        threading.Thread(target=ask, args=(address, bodies[number % len(bodies) :], load))
        for number in range(n_clients)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return load


def ask(address: str, bodies: Sequence[bytes], load: Load) -> None:
    """Send one body after the other."""
    connection = http.client.HTTPConnection(address, timeout=120)
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    number = 0
    while (started := time.perf_counter()) < load.until:
        try:
            connection.request("POST", "/v1/predict", bodies[number % len(bodies)], headers)
            answer = connection.getresponse()
            content = answer.read()
            if load.since <= (answered := time.perf_counter()) < load.until:
                load.seconds.append(answered - started)
            if answer.status != 200 or b'"error"' in content:
                load.errors.append(f"{answer.status}: {content[:200].decode()}")
        except (OSError, http.client.HTTPException) as error:
            load.errors.append(repr(error))
            connection.close()
        number += 1
    connection.close()


def report(measured: Sequence[dict[str, Any]], arguments: argparse.Namespace) -> None:
    rows = []
    for case in measured:
        speeds = case["images_per_second"]
        rows.append(
            [
                *(case["ensemble"], str(case["requests"]), str(case["errors"])),
                *(f"{1000 * case[name]:.0f}" for name in ("p50_s", "p95_s", "p99_s")),
                *(f"{statistics.median(speeds[side]):.1f}" for side in ("served", "direct")),
                f"{case['served_over_direct']:.2f}",
            ]
        )
    title = f"{arguments.clients} clients for {arguments.seconds:g} s, {arguments.images_per_request} images a request"
    header = ("ensemble", "requests", "errors", "p50 ms", "p95 ms", "p99 ms", "images/s", "direct", "ratio")
    print_figures(title, header, rows, {"clients": arguments.clients, "cases": measured})


if __name__ == "__main__":
    main()
