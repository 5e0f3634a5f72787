"""How long a trial waits before its first batch: in a slot, and with a TorchTrainer nested in every trial.

Both sides run in one Ray, one trial at a time, with the same trial: a few short sleeps in place of batches. The clock
starts when the driver hands the configuration out (for nested trials when Tune has started the trial's actor, which
favours them) and stops at the first batch in the worker. The first trial of a slot starts its workers and is left out;
its time is printed beside the others.

    python benchmarks/trial_overhead.py [--quick]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ray import train, tune
from ray.train.torch import TorchTrainer

from consilia.cluster.connection import connect
from consilia.config.records import EpochReport, TrialOutcome, TrialTask
from consilia.config.study import ClusterProfile
from consilia.tune.capacity import Capacity, Share
from consilia.tune.live import LiveSlots
from consilia.tune.nodes import living_nodes
from consilia.tune.tuner import run_in_slots
from consilia.tune.worker_groups import WorkerGroups
from shared.figures import print_figures
from shared.numbered_tasks import NumberedTasks

BATCHES, BATCH_SECONDS = 10, 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer trials; ends within two minutes on two cores")
    parser.add_argument("--slot-trials", type=int, help="trials in slots, the first of which is left out")
    parser.add_argument("--nested-trials", type=int)
    arguments = parser.parse_args()
    n_slot = arguments.slot_trials or (10 if arguments.quick else 40)
    n_nested = arguments.nested_trials or (3 if arguments.quick else 8)
    with tempfile.TemporaryDirectory() as folder, connect(ClusterProfile(gpus_per_slot=0)):
        slot = measure_slots(Path(folder), n_slot)
        nested = measure_nested(Path(folder), n_nested)
    report(slot, nested)


def measure_slots(folder: Path, n_trials: int) -> list[float]:
    """Return each trial's seconds from assignment to first batch, in one slot."""
    stamps = folder / "slots"
    stamps.mkdir()
    controller = NumberedTasks(n_trials)
    capacity = Capacity(n_slots=1, workers=1, share=Share(cpus=1, gpus=0, memory=0), exclusive=None)
    with WorkerGroups() as groups:
        groups.settle(capacity, LiveSlots(capacity, living_nodes, limit=1, seen=living_nodes()))
        run_in_slots(
            controller, groups=groups, run_trial=partial(_run_trial, stamps), n_folds=1, storage=folder / "ray"
        )
    return [_stamp(stamps, number) - assigned for number, assigned in sorted(controller.assigned.items())]


def measure_nested(folder: Path, n_trials: int) -> list[float]:
    """Return the same for Ray's documented way: every trial is a function that fits a TorchTrainer."""
    stamps = folder / "nested"
    stamps.mkdir()
    clock = _Clock()
    tune.Tuner(
        partial(_nested_trial, stamps, folder / "ray"),
        param_space={"number": tune.grid_search(list(range(n_trials)))},
        tune_config=tune.TuneConfig(max_concurrent_trials=1),
        run_config=tune.RunConfig(name="nested-search", storage_path=str(folder / "ray"), callbacks=[clock], verbose=0),
    ).fit()
    return [_stamp(stamps, number) - started for number, started in sorted(clock.started.items())]


def report(slot: list[float], nested: list[float]) -> None:
    """Print both sides and their ratio; the slot's first trial is printed separately."""
    first, *later = slot
    slot_median, nested_median = statistics.median(later), statistics.median(nested)
    print_figures(
        "Seconds from assignment to first batch",
        ("", "n", "median", "min", "max"),
        [
            ("slot, first trial", "1", f"{first:.3f}", "", ""),
            ("slot, later trials", str(len(later)), *(f"{f(later):.4f}" for f in (statistics.median, min, max))),
            ("TorchTrainer per trial", str(len(nested)), *(f"{f(nested):.3f}" for f in (statistics.median, min, max))),
            ("ratio of medians", "", f"{nested_median / slot_median:.0f}", "", ""),
        ],
        {
            "slot_start_s": slot_median,
            "nested_start_s": nested_median,
            "ratio": nested_median / slot_median,
            "slot_first_s": first,
            "slot_max_s": max(later),
            "n_slot": len(later),
            "n_nested": len(nested),
        },
    )


class _Clock(tune.Callback):
    """Notes when Tune has started each trial."""

    def __init__(self) -> None:
        self.started: dict[int, float] = {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.started[trial.config["number"]] = time.time()


def _run_trial(
    stamps: Path, task: TrialTask, report: Callable[[EpochReport], None], stopped: Callable[[], bool]
) -> TrialOutcome:
    _train(stamps, task.number, stopped)
    report(EpochReport(number=task.number, fold=0, epoch=1, score=0.0, train_loss=0.0, seconds=0.0, images=0))
    return TrialOutcome(number=task.number, state="finished")


def _nested_trial(stamps: Path, storage: Path, config: dict[str, Any]) -> None:
    TorchTrainer(
        partial(_nested_worker, stamps),
        train_loop_config=config,
        scaling_config=train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
        run_config=train.RunConfig(name=f"nested-{config['number']}", storage_path=str(storage)),
    ).fit()


def _nested_worker(stamps: Path, config: dict[str, Any]) -> None:
    _train(stamps, config["number"], lambda: False)
    train.report({"score": 0.0})


def _train(stamps: Path, number: int, stopped: Callable[[], bool]) -> None:
    for batch in range(BATCHES):
        if batch == 0:
            (stamps / str(number)).write_text(repr(time.time()), encoding="ascii")
        time.sleep(BATCH_SECONDS)
        stopped()


def _stamp(stamps: Path, number: int) -> float:
    return float((stamps / str(number)).read_text(encoding="ascii"))


if __name__ == "__main__":
    main()
