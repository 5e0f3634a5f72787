"""What a search costs until it has found an equally good configuration: consilia, an Optuna loop, a trainer per trial.

consilia   `consilia search`: slots of one core, racing over epochs and folds
optuna     a loop in one process that cross-validates each trial in full; torch has all cores (or --threads)
nested     Ray Tune runs a function that fits a TorchTrainer in each trial, as Ray documents it; one core a trial

All search one space from the same first configurations, with the same sampler settings and seed, training code,
images and folds, one side after the other, each in processes of its own that are ended at the same limit. The clock
starts with the process, so imports and the start of Ray count; images are prepared before. The target is the worst of
the sides' last best scores (mean log loss over the folds of a fully evaluated trial, known when its last fold is
written), so that every side reaches it. Needs Linux: CPU and memory are those of the whole process tree, from /proc.

    python benchmarks/search_efficiency.py [--quick] [--data pneumoniamnist_28.npz]
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from consilia.config.study import StudyPlan
from consilia.config.study_folder import StudyFolder
from consilia.data.phantoms import write_phantoms
from consilia.data.store.prepare import prepare
from consilia.study.plan import read_plan
from shared.figures import print_figures
from shared.process_tree import Usage, run_watched
from shared.search_curves import SearchCurve, read_curve, read_ledger_share

SIDES = Path(__file__).parent / "shared" / "search_sides.py"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Side:
    """One way to search, and what it needs to run."""

    name: str
    command: tuple[str, ...]
    folder: StudyFolder
    workers: int  # trials at a time
    threads: int  # each one computes with


@dataclass(frozen=True)
class Measured:
    """What one side did and used."""

    side: Side
    curve: SearchCurve
    usage: Usage
    ledger_share: float | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="phantoms, two trials a side; ends within two minutes")
    parser.add_argument("--data", type=Path, help="pneumoniamnist_28.npz; without it, phantoms are drawn")
    parser.add_argument("--minutes", type=float, help="limit of each side")
    parser.add_argument("--trials", type=int, help="limit of each side")
    parser.add_argument("--epochs", type=int, help="of each fold")
    parser.add_argument("--folds", type=int)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="trials at a time, one core each")
    parser.add_argument("--threads", type=int, nargs="+", help="of the plain loop; several numbers are several sides")
    parser.add_argument(
        "--set", action="append", default=[], help="of consilia alone, such as search.stopping.kind=none"
    )
    parser.add_argument("--work", type=Path, help="new folder that is kept; default: a temporary one")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the side that runs, as Ctrl-C does
    with tempfile.TemporaryDirectory(prefix="se-", ignore_cleanup_errors=True) as temporary:
        work = (arguments.work or Path(temporary, "work")).absolute()
        study = write_study(work, arguments)
        plan = read_plan(study)
        prepare(plan.data, root=work / "stores")
        warm_up()
        limit = 60 * (arguments.minutes or (1.5 if arguments.quick else 13))
        sides = make_sides(work, study, arguments)
        places = {"TMPDIR": temporary, "RAY_TMPDIR": os.environ.get("RAY_TMPDIR") or temporary}
        measured = [measure(side, plan, limit=limit, work=work, places=places) for side in sides]
    report(measured, plan, limit)


def write_study(work: Path, arguments: argparse.Namespace) -> Path:
    """Write the study file that all sides read."""
    work.mkdir(parents=True)  # a folder that exists might hold a study, which would go on instead of starting
    if arguments.data:
        data: dict[str, Any] = {"card": "pneumoniamnist", "path": str(arguments.data.absolute())}
    else:
        size = 32 if arguments.quick else 64
        phantoms = write_phantoms(work / "phantoms", patients=48 if arguments.quick else 240, size=size)
        data = {"card": "phantoms", "path": str(phantoms), "size": size}
    content = {
        "name": "consilia",
        "seed": 0,
        "data": data,
        "folds": {"k": arguments.folds or (2 if arguments.quick else 5)},
        "spaces": ["tiny"],
        "search": {"trials": arguments.trials or (2 if arguments.quick else 1000)},
        "training": {"epochs": arguments.epochs or (2 if arguments.quick else 6)}
        | ({} if arguments.data else {"batch_size": 16}),
        "ensemble": "best_single",
        "cluster": {"name": "local", "cpus_per_slot": 1, "gpus_per_slot": 0, "max_slots": arguments.workers},
    }
    file = work / "study.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return file


def warm_up() -> None:
    """Import the packages once, so that the first side does not read them from the disk for all others."""
    code = "import optuna, timm, torch, ray.train.torch, ray.tune"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def make_sides(work: Path, study: Path, arguments: argparse.Namespace) -> list[Side]:
    """Return the sides in the order in which they run."""
    workers = arguments.workers
    stores = ("--stores", str(work / "stores"))
    settings = [part for each in arguments.set for part in ("--set", each)]
    ours = (sys.executable, "-m", "consilia", "search", str(study), "--studies", str(work), *stores, *settings)
    sides = [Side("consilia", ours, StudyFolder(work / "consilia"), workers, 1)]
    for kind, name, trials, threads in (
        *(("optuna", f"optuna-{n}", 1, n) for n in arguments.threads or [os.cpu_count() or 1]),
        ("nested", "nested", workers, 1),
    ):
        folder = work / name
        share = ("--workers", str(trials), "--threads", str(threads))
        command = (sys.executable, str(SIDES), kind, str(study), "--folder", str(folder), *stores, *share)
        sides.append(Side(name, command, StudyFolder(folder), trials, threads))
    return sides


def measure(side: Side, plan: StudyPlan, *, limit: float, work: Path, places: Mapping[str, str]) -> Measured:
    """Run one side to its end or to the limit; `places` are temporary folders for what a killed side leaves."""
    print(f"{side.name}: at most {limit / 60:.3g} minutes", file=sys.stderr, flush=True)
    environment = {**os.environ, **dict.fromkeys(THREADS, str(side.threads)), **places}
    usage = run_watched(side.command, environment=environment, log=work / f"{side.name}.log", limit=limit)
    curve = read_curve(
        side.folder,
        k=plan.folds.k,
        metric=plan.search.metric,
        started=usage.started,
        limit=limit if usage.limited else None,
    )
    if curve.best is None:  # the other sides' minutes would be spent for nothing
        sys.exit(f"{side.name} fully evaluated no trial in {curve.seconds:.0f} s; raise --minutes")
    return Measured(side, curve, usage, read_ledger_share(side.folder.root / "ledger.parquet"))


def report(measured: Sequence[Measured], plan: StudyPlan, limit: float) -> None:
    """Print each side's figures, and its costs as multiples of consilia's."""
    if len(digests := {each.curve.folds_digest for each in measured}) != 1:
        sys.exit(f"the sides had different folds, so nothing can be compared: {', '.join(sorted(digests))}")
    target = max(each.curve.best for each in measured if each.curve.best is not None)
    sides = {each.side.name: figures_of(each, target) for each in measured}
    ours = sides["consilia"]
    costs = ("seconds_to_target", "cpu_seconds_to_target", "epochs_to_target")
    ratios = {
        name: {cost: side[cost] / ours[cost] for cost in costs} for name, side in sides.items() if name != "consilia"
    }
    data = plan.data.name
    print_figures(
        f"Search of {plan.spaces[0].family} on {data}: {plan.folds.k} folds of {plan.training.epochs} epochs; "
        f"target {target:.4f}, the worst side's best log loss",
        ("", *sides),
        _rows(sides, ratios),
        {
            "target": target,
            "sides": sides,
            "ratios_to_consilia": ratios,
            "data": data,
            "folds": plan.folds.k,
            "epochs": plan.training.epochs,
            "max_trials": plan.search.trials,
            "limit_s": limit,
        },
    )


def figures_of(measured: Measured, target: float) -> dict[str, Any]:
    """Return one side's figures until its end or the limit, and until the target."""
    curve, usage, workers = measured.curve, measured.usage, measured.side.workers
    reached = curve.seconds_until(target)
    assert reached is not None, "the target is the worst side's best"
    n_full = len(curve.scores)
    n_ended = n_full + curve.n_stopped + curve.n_failed
    in_epochs = sum(seconds for _, seconds in curve.epochs)
    by_epochs = in_epochs / (curve.seconds * workers)
    share = by_epochs if measured.ledger_share is None else measured.ledger_share
    return {
        "workers": workers,
        "threads": measured.side.threads,
        "best": curve.best,
        "seconds_to_target": reached,
        "cpu_seconds_to_target": usage.cpu_until(reached),
        "epochs_to_target": curve.epochs_until(reached),
        "seconds": curve.seconds,
        "cpu_seconds": usage.cpu_until(curve.seconds),
        "epochs": len(curve.epochs),
        "epoch_seconds": in_epochs,
        "full_trials": n_full,
        "stopped_trials": curve.n_stopped,
        "failed_trials": curve.n_failed,
        "unfinished_trials": curve.n_unfinished,
        "trials_per_hour": 3600 * n_ended / curve.seconds,
        "training_share": share,
        "training_share_from": "epochs / (wall-clock x workers)" if measured.ledger_share is None else "ledger",
        "epochs_share_of_wall": by_epochs,
        "peak_memory_bytes": usage.peak_until(curve.seconds),
        "most_processes": usage.n_processes,
        "sampling_seconds": usage.sampling_seconds,
        "best_so_far": [[round(seconds, 1), score] for seconds, score in curve.best_so_far],
    }


def _rows(sides: dict[str, dict[str, Any]], ratios: dict[str, dict[str, float]]) -> list[list[str]]:
    def row(title: str, key: str, style: str, scale: float = 1.0) -> list[str]:
        return [title, *(format(scale * side[key], style) for side in sides.values())]

    def times(title: str, key: str) -> list[str]:
        return [title, *(f"{ratios[name][key]:.2f}" if name in ratios else "1" for name in sides)]

    return [
        ["trials at a time x threads", *(f"{side['workers']} x {side['threads']}" for side in sides.values())],
        row("best log loss at the end", "best", ".4f"),
        row("seconds to the target", "seconds_to_target", ".0f"),
        row("CPU-seconds to the target", "cpu_seconds_to_target", ".0f"),
        row("epochs to the target", "epochs_to_target", ".0f"),
        times("seconds, times consilia's", "seconds_to_target"),
        times("CPU-seconds, times consilia's", "cpu_seconds_to_target"),
        times("epochs, times consilia's", "epochs_to_target"),
        row("seconds in all", "seconds", ".0f"),
        row("CPU-seconds in all", "cpu_seconds", ".0f"),
        row("epochs in all", "epochs", ".0f"),
        row("trials an hour (full, stopped, failed)", "trials_per_hour", ".1f"),
        row("full trials", "full_trials", ".0f"),
        row("stopped trials", "stopped_trials", ".0f"),
        row("failed trials", "failed_trials", ".0f"),
        row("unfinished at the limit", "unfinished_trials", ".0f"),
        row("share of time in training", "training_share", ".1%"),
        ["  taken from", *(side["training_share_from"].partition(" ")[0] for side in sides.values())],
        row("epochs' share of wall-clock x workers", "epochs_share_of_wall", ".1%"),
        row("peak memory, MB", "peak_memory_bytes", ",.0f", 1e-6),
        row("processes at most", "most_processes", ".0f"),
    ]


if __name__ == "__main__":
    main()
