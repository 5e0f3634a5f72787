"""How busy does a search keep a GPU? A search of minutes, and what its slots and the GPU did meanwhile.

PneumoniaMNIST, or phantoms without it: ResNets, DenseNets and EfficientNets at 112 px, with the profile `local`. The
clock starts with the command. Utilisation is what `nvidia-smi` says once a second, from the first batch on; without a
GPU there is none, and a tiny search shows that the program works.

    python benchmarks/gpu_search.py [--quick] [--data pneumoniamnist_28.npz] [--minutes 4]
"""

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
import yaml

from consilia.config.study_folder import StudyFolder
from consilia.data.phantoms import write_phantoms
from consilia.data.store.prepare import prepare
from consilia.study.plan import read_plan
from consilia.tune.stored import read_trials
from shared.figures import print_figures
from shared.first_batches import Batches, first_batches

TRAINING = ("useful", "stopped", "failed", "refit", "confirmation")  # purposes of the ledger that trained
_GRACE_SECONDS = 60.0  # for a search that was told to end
_POLL_SECONDS = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few trials of tiny networks on phantoms")
    parser.add_argument("--data", type=Path, help="pneumoniamnist_28.npz; without it, phantoms are drawn")
    parser.add_argument("--minutes", type=float, help="from the command to the end of the search")
    parser.add_argument("--set", action="append", default=[], help="of the study, such as cluster.max_slots=2")
    parser.add_argument("--keep", type=Path, help="new folder for the study; default: a temporary one")
    arguments = parser.parse_args()
    minutes = arguments.minutes or 4.0
    with tempfile.TemporaryDirectory(prefix="gs-", ignore_cleanup_errors=True) as temporary:
        folder = arguments.keep or Path(temporary)
        study = write_study(folder, arguments)
        prepare(read_plan(study).data, root=folder / "stores")
        watch(folder, study, 60 * minutes, arguments.set)


def write_study(folder: Path, arguments: argparse.Namespace) -> Path:
    """Write the study that is searched."""
    folder.mkdir(parents=True, exist_ok=True)
    is_small = arguments.quick or arguments.data is None
    data: dict[str, object] = {"card": "pneumoniamnist", "path": str(arguments.data and arguments.data.absolute())}
    if arguments.data is None:
        data = {"card": "phantoms", "path": str(write_phantoms(folder / "phantoms", patients=60, size=32)), "size": 32}
    content = {
        "name": "busy",
        "data": data,
        "folds": {"k": 2 if is_small else 5},
        "spaces": ["tiny"] if is_small else ["resnet", "densenet", "efficientnet"],
        "search": {"trials": 3 if arguments.quick else 200},
        "training": {"epochs": 3, "batch_size": 16} if is_small else {"epochs": 6, "image_size": 112},
        "ensemble": "best_single",
    }
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return file


def watch(folder: Path, study: Path, seconds: float, settings: list[str]) -> None:
    """Search for so long, and print what came of it."""
    place = StudyFolder(folder / "studies" / "busy")
    command = [sys.executable, "-m", "consilia", "search", str(study), "--studies", str(place.root.parent)]
    command += ["--stores", str(folder / "stores"), *(f"--set={each}" for each in settings)]
    environment = {**os.environ, "RAY_TMPDIR": str(folder)}
    batches: Batches = {}
    utilisation: list[float] = []
    with (folder / "log").open("wb") as log:
        started = time.time()
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            while time.time() - started < seconds and process.poll() is None:
                batches |= first_batches(place, started, known=batches)
                if batches:
                    utilisation += gpu_utilisation()
                time.sleep(_POLL_SECONDS)
        finally:
            ended = time.time() - started
            end(process)
    if not batches:
        sys.exit(f"no trial has trained in {seconds:.0f} s:\n{(folder / 'log').read_text()[-4000:]}")
    report(place, batches, utilisation, ended)


def gpu_utilisation() -> list[float]:
    """Return what each GPU says of itself, per cent."""
    if shutil.which("nvidia-smi") is None:
        return []
    asked = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    said = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=20).stdout
    return [float(line) for line in said.splitlines() if line.strip().isdigit()]


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a search as Ctrl-C does; what does not listen is killed."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def report(place: StudyFolder, batches: Batches, utilisation: list[float], ended: float) -> None:
    """Print the figures."""
    first = min(batches.values())
    histories = [pd.read_parquet(file) for file in place.trials.glob("*/fold-*/history.parquet")]
    images = sum(int(each["images"].sum()) for each in histories)
    ledger: dict[str, float] = {}
    if place.ledger.is_file():
        purposes = pd.read_parquet(place.ledger).groupby("purpose")["seconds"].sum()
        ledger = {str(name): float(value) for name, value in purposes.items() if name not in ("reserved", "wall")}
    slots = sum(ledger.values())
    trained = sum(ledger.get(each, 0.0) for each in TRAINING)
    after = slots - ledger.get("start-up", 0.0)
    states = [record.state for record in read_trials(place).values()]
    figures = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "first_batch_s": first,
        "slots_first_batch_s": sorted(batches.values()),
        "training_share": trained / slots if slots else None,
        "training_share_after_start_up": trained / after if after else None,
        "images_per_s": images / (ended - first),
        "utilisation": statistics.mean(utilisation) if utilisation else None,
        "ledger": ledger,
        "trials": {state: states.count(state) for state in sorted(set(states))},
        "seconds": ended,
    }
    rows = [[name, f"{value:,.2f}" if isinstance(value, float) else str(value)] for name, value in figures.items()]
    print_figures("A search", ("", ""), rows, figures)


if __name__ == "__main__":
    main()
