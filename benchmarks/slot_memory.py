"""How much main memory a slot's processes take in addition to the training step.

Two slots run a trial each that imports what training imports and trains nothing; the last one reads the memory of all
processes that Ray has started. Of the helpers (all processes but the workers and those that exist without slots) it
counts the proportional share (PSS: shared pages are divided among those who share them); of the worker, what it holds
beyond a process that only measures a step (`consilia.train.memory_probe_process`), whose peak is planned for already.

    python benchmarks/slot_memory.py [--quick]
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from consilia.cluster.connection import connect
from consilia.config.records import EpochReport, TrialOutcome, TrialTask
from consilia.config.study import ClusterProfile
from consilia.tune.capacity import Share
from consilia.tune.slot import SlotOptions
from consilia.tune.tuner import run_in_slots
from shared.figures import print_figures
from shared.numbered_tasks import NumberedTasks

N_SLOTS = 2
WORKER = "RayTrainWorker"
NO_HELPERS = ("IDLE", "DashboardAgent", "RuntimeEnvAgent", "_AutoscalingCoordinatorActor", "TrainStateActor")
TRIAL_SECONDS = 8.0  # both trials run, and every helper has long settled, when the last one reads
_PROBE = "import consilia.train.memory_probe_process, consilia.train.memory_probe as p; print(p.peak_host_bytes())"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one repetition instead of three")
    arguments = parser.parse_args()
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, connect(ClusterProfile(gpus_per_slot=0)):
        for repetition in range(1 if arguments.quick else 3):
            for name, megabytes in measure(Path(folder) / str(repetition)):
                found.setdefault(name, []).append(megabytes)
    probe = int(subprocess.check_output([sys.executable, "-c", _PROBE])) / 2**20
    report(found, probe)


def measure(folder: Path) -> list[tuple[str, float]]:
    """Return the name and MiB of each process of the slots."""
    folder.mkdir()
    share = Share(cpus=1, gpus=0, memory=0)
    options = SlotOptions(run_trial=partial(_run_trial, folder), n_folds=1, share=share, storage=str(folder / "ray"))
    run_in_slots(NumberedTasks(N_SLOTS), n_slots=lambda: N_SLOTS, options=options, storage=folder / "ray")
    last = max(folder.glob("*.txt"), key=lambda path: path.stat().st_mtime)
    lines = [line.rsplit(maxsplit=1) for line in last.read_text(encoding="ascii").splitlines()]
    return [(name, float(megabytes)) for name, megabytes in lines]


def report(found: dict[str, list[float]], probe: float) -> None:
    """Print both parts and the sum that `tune.demand` adds."""
    medians = {name: statistics.median(values) for name, values in found.items()}
    helpers, more = medians["helpers"], medians["worker"] - probe
    rows = [
        (name, str(len(values)), *(f"{f(values):.0f}" for f in (statistics.median, min, max)))
        for name, values in sorted(found.items())
    ]
    rows += [("a process that measures", "1", f"{probe:.0f}", "", ""), ("worker beyond it", "", f"{more:.0f}", "", "")]
    print_figures(
        "Main memory of a slot, MiB (helpers: PSS; worker: RSS)",
        ("", "n", "median", "min", "max"),
        [*rows, ("helpers and worker beyond", "", f"{helpers + more:.0f}", "", "")],
        {"helpers_mib": helpers, "worker_beyond_probe_mib": more, "sum_mib": helpers + more},
    )


def _run_trial(
    folder: Path, task: TrialTask, report: Callable[[EpochReport], None], stopped: Callable[[], bool]
) -> TrialOutcome:
    import consilia.train.cross_validation  # noqa: F401 # what a worker of a study has imported

    time.sleep(TRIAL_SECONDS)
    lines = [f"{name} {megabytes}" for name, megabytes in _processes()]
    (folder / f"{task.number}.txt").write_text("\n".join(lines), encoding="ascii")
    time.sleep(TRIAL_SECONDS / 2)  # or the other trial would read while this slot closes
    return TrialOutcome(number=task.number, state="finished")


def _processes() -> list[tuple[str, float]]:
    """Return the MiB of a worker, and of one slot's helpers together."""
    worker, helpers = [], []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes().decode(errors="replace")
            status = (folder / "status").read_text()
            rollup = (folder / "smaps_rollup").read_text(encoding="ascii")
        except OSError:  # of another user, or just ended
            continue
        # Ray's raylet has started this process, and all that count. A title is the actor's or its present call's.
        if f"PPid:\t{os.getppid()}\n" not in status or not title.startswith("ray::"):
            continue
        if folder.name == str(os.getpid()) or title.startswith(f"ray::{WORKER}"):
            worker.append(_mebibytes(rollup, "Rss"))
        elif not title.startswith(tuple(f"ray::{name}" for name in NO_HELPERS)):
            helpers.append(_mebibytes(rollup, "Pss"))
    return [("worker", max(worker)), ("helpers", sum(helpers) / N_SLOTS), ("number of helpers", len(helpers) / N_SLOTS)]


def _mebibytes(rollup: str, key: str) -> float:
    found = re.search(rf"^{key}:\s*(\d+) kB", rollup, re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


if __name__ == "__main__":
    main()
