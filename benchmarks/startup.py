"""How long a search takes until each of its slots trains, and what runs beside the workers; beside a plain Optuna loop.

`consilia search` of prepared images, two slots of one core each, one after the other with a loop in one process
(shared/search_sides.py) that has all cores. The clock starts with the command, so imports and the start of Ray count.
A slot's first batch is when the first epoch of its first trial has been written, less the seconds that the epoch says
it took. Processes and memory (PSS: shared pages are divided among those who share them) are read once both slots train,
by what Ray calls them. Needs Linux.

    python benchmarks/startup.py [--quick] [--repeat 3]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import yaml

from consilia.config.study_folder import StudyFolder
from consilia.data.phantoms import write_phantoms
from consilia.data.store.prepare import prepare
from consilia.study.plan import read_plan
from shared.figures import print_figures
from shared.first_batches import Batches, first_batches
from shared.process_tree import PROC, ProcessTree, memory_of

SIDES = Path(__file__).parent / "shared" / "search_sides.py"
N_SLOTS = 2
WORKER = "RayTrainWorker"
# What Ray runs on every node, whether anybody searches or not.
OF_RAY = ("raylet", "gcs_server", "dashboard", "log_monitor", "monitor.py", "DashboardAgent", "RuntimeEnvAgent", "IDLE")
_LIMIT_SECONDS = 240.0
_SETTLE_SECONDS = 3.0  # until every helper is there
_POLL_SECONDS = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="once each; ends within two minutes")
    parser.add_argument("--repeat", type=int, help="times, in turns")
    arguments = parser.parse_args()
    n = arguments.repeat or (1 if arguments.quick else 3)
    with tempfile.TemporaryDirectory(prefix="su-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        study = write_study(folder)
        prepare(read_plan(study).data, root=folder / "stores")
        warm_up()
        ours, loops, beside = [], [], []
        for turn in range(n):
            batches, processes = run_ours(folder, study, turn)
            ours.append(sorted(batches.values()))
            beside.append(processes)
            loops.append(min(run_loop(folder, study, turn).values()))
    report(ours, loops, beside)


def write_study(folder: Path) -> Path:
    """Write a study of phantoms whose trials last long enough to be looked at."""
    phantoms = write_phantoms(folder / "phantoms", patients=48, size=32)
    content = {
        "name": "startup",
        "seed": 0,
        "data": {"card": "phantoms", "path": str(phantoms), "size": 32},
        "folds": {"k": 2},
        "spaces": ["tiny"],
        "search": {"trials": 50, "stopping": {"kind": "none"}},
        "training": {"epochs": 200, "batch_size": 16},
        "ensemble": "best_single",
        "cluster": {"name": "local", "cpus_per_slot": 1, "gpus_per_slot": 0, "max_slots": N_SLOTS},
    }
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return file


def warm_up() -> None:
    """Import the packages once, so that the first run does not read them from the disk for all others."""
    code = "import optuna, timm, torch, sklearn, ray.train.torch, ray.tune"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def run_ours(folder: Path, study: Path, turn: int) -> tuple[Batches, dict[str, tuple[int, float]]]:
    """Return each slot's first batch, and number and MiB of the processes of each kind."""
    studies = folder / f"ours-{turn}"
    command = [sys.executable, "-m", "consilia", "search", str(study), "--studies", str(studies)]
    command += ["--stores", str(folder / "stores")]
    return _run(command, StudyFolder(studies / "startup"), folder, n=N_SLOTS, look=_processes)


def run_loop(folder: Path, study: Path, turn: int) -> Batches:
    """Return the first batch of the loop."""
    place = folder / f"loop-{turn}"
    command = [sys.executable, str(SIDES), "optuna", str(study), "--folder", str(place)]
    command += ["--stores", str(folder / "stores"), "--threads", str(os.cpu_count() or 1)]
    return _run(command, StudyFolder(place), folder, n=1, look=lambda pid: {})[0]


def report(ours: list[list[float]], loops: list[float], beside: list[dict[str, tuple[int, float]]]) -> None:
    """Print the seconds, and what runs beside the workers."""
    first, last = ([each[at] for each in ours] for at in (0, -1))
    kinds = sorted({kind for each in beside for kind in each})
    medians = {
        kind: tuple(statistics.median(each.get(kind, (0, 0.0))[at] for each in beside) for at in (0, 1))
        for kind in kinds
    }
    helpers = {kind: each for kind, each in medians.items() if kind not in (WORKER, "driver", "Ray itself")}
    n_helpers = sum(n for n, _ in helpers.values()) / N_SLOTS
    memory = sum(mebibytes for _, mebibytes in helpers.values()) / N_SLOTS
    rows = [
        (name, *(f"{f(values):.1f}" for f in (statistics.median, min, max)))
        for name, values in (("consilia, first slot", first), ("consilia, last slot", last), ("Optuna loop", loops))
    ]
    rows += [("last slot over the loop", f"{statistics.median(last) / statistics.median(loops):.2f}", "", "")]
    rows += [(f"{n:g} x {kind}, MiB", f"{mebibytes:.0f}", "", "") for kind, (n, mebibytes) in medians.items()]
    rows += [("beside each worker: processes", f"{n_helpers:.1f}", "", "")]
    rows += [("beside each worker: MiB", f"{memory:.0f}", "", "")]
    print_figures(
        f"Seconds from the command to the first batch, {N_SLOTS} slots",
        ("", "median", "min", "max"),
        rows,
        {
            "first_slot_s": statistics.median(first),
            "last_slot_s": statistics.median(last),
            "loop_s": statistics.median(loops),
            "helpers_per_slot": n_helpers,
            "helpers_mib_per_slot": memory,
            "kinds": medians,
            "repeats": len(ours),
        },
    )


def _run(
    command: list[str],
    study: StudyFolder,
    folder: Path,
    *,
    n: int,
    look: Callable[[int], dict[str, tuple[int, float]]],
) -> tuple[Batches, dict[str, tuple[int, float]]]:
    """Run a command until `n` trials train, and take a look at its processes; nothing of it is left behind."""
    environment = {**os.environ, "TMPDIR": str(folder), "RAY_TMPDIR": str(folder)}
    with (folder / "log").open("wb") as log:
        started = time.time()
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    tree = ProcessTree(process.pid)
    batches: Batches = {}
    try:
        while len(batches) < n:
            batches |= first_batches(study, started, known=batches)
            if process.poll() is not None or time.time() - started > _LIMIT_SECONDS:
                raise SystemExit(f"{' '.join(command)} did not train:\n{(folder / 'log').read_text()[-4000:]}")
            time.sleep(_POLL_SECONDS)
        time.sleep(_SETTLE_SECONDS)
        return batches, look(process.pid)
    finally:
        tree.living()
        tree.kill()
        process.wait()
        while tree.living():
            tree.kill()
            time.sleep(0.1)


def _processes(root: int) -> dict[str, tuple[int, float]]:
    """Return number and MiB of the command's processes, by what they are."""
    memory: defaultdict[str, float] = defaultdict(float)
    count: Counter[str] = Counter()
    for pid, _ in ProcessTree(root).living():
        try:
            line = (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
        except OSError:
            continue
        kind = "driver" if pid == root else _kind(line)
        count[kind] += 1
        memory[kind] += memory_of(pid) / 2**20
    return {kind: (count[kind], memory[kind]) for kind in count}


def _kind(line: str) -> str:
    """Return the class of a Ray actor by the title of its process, such as ray::Broker.take; else that Ray runs it."""
    if not line.startswith("ray::") or any(name in line for name in OF_RAY):
        return "Ray itself"
    title = line.removeprefix("ray::").strip()
    if title.startswith(("trial ", "refit ")):
        return "Broker"  # its present call stands in the title
    return title.partition(".")[0].partition("(")[0].strip()


if __name__ == "__main__":
    main()
