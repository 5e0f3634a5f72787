"""How the driver's cost grows with the trials of a search: time for each decision and suggestion, and memory.

The real Ray Tune, controller, racing, TPE, journal and trial files, with relays that are played in virtual time for
many workers: epochs of 30 virtual seconds, scores of the model trial + fold + noise. What Ray's own processes take for
the calls of real relays is not in it. `busy` is the driver's share of the search's
duration, its CPU seconds over the virtual ones: at 1 the workers would wait for it. CPU seconds, since wall-clock
time would include other work on the machine; `driver_wall_s` includes waiting for the disk. Each size runs in a
process of its own.

    python benchmarks/scaling.py [--quick] [--workers 256]
"""

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import ray

from consilia.config.card import DataCard
from consilia.config.catalog import load
from consilia.config.recipe import EnsembleRecipe, Greedy
from consilia.config.records import EpochReport, FoldResult, TaskTaken, TrialOutcome, TrialRecord, TrialTask
from consilia.config.space import SearchSpace
from consilia.config.study import Budget, FoldsPlan, SearchPlan, StudyPlan, TrainingPlan
from consilia.config.study_folder import StudyFolder
from consilia.tune.controller import TrialController
from consilia.tune.ledger import Ledger
from consilia.tune.limits import Limits
from consilia.tune.racing import make_racing
from consilia.tune.simulator import VirtualClock
from consilia.tune.space import join_spaces
from consilia.tune.suggester import OptunaSuggester
from consilia.tune.tuner import run_in_slots
from shared.faked_relays import FakedRelays
from shared.figures import print_figures

EPOCH_SECONDS, EPOCHS, K = 30.0, 12, 5
SPACES = ("resnet", "densenet", "efficientnet")
SIZES, QUICK_SIZES = (10, 100, 1000), (10, 100)


@dataclass(frozen=True)
class Size:
    """What one size took."""

    trials: int
    workers: int
    answers: int  # of relays, heartbeats among them
    driver_s: float  # CPU seconds of the whole search
    driver_wall_s: float
    search_s: float  # virtual seconds of the whole search
    busy: float
    busy_at_end: float  # while the last tenth of the trials was suggested
    answer_ms: float
    suggestion_ms: float  # the last tenth of them
    memory_mb: float  # peak of the process above what it had before the search


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="up to 100 trials")
    parser.add_argument("--workers", type=int, default=256)
    parser.add_argument("--sizes", type=int, nargs="+", help="numbers of trials")
    arguments = parser.parse_args()
    sizes = arguments.sizes or (QUICK_SIZES if arguments.quick else SIZES)
    context = multiprocessing.get_context("spawn")
    found = []
    for trials in sizes:
        with context.Pool(1) as pool:
            found.append(pool.apply(measure, (trials, arguments.workers)))
            print(found[-1], flush=True)
    report(found)


def measure(trials: int, workers: int) -> Size:
    """Run one search in virtual time."""
    plan = _plan(trials)
    clock = VirtualClock()
    with tempfile.TemporaryDirectory(prefix="cs-", dir="/tmp") as root, _ray(Path(root)):
        folder = StudyFolder(Path(root) / "study")
        suggester = _Timed(_open_suggester(plan, folder), clock)
        controller = TrialController(
            plan.search,
            folder=folder,
            n_folds=K,
            suggester=suggester,
            racing=make_racing(plan),
            observer=_Silent(),
            limits=Limits(Budget(), Ledger(folder.ledger, clock=clock)),
        )
        relays = FakedRelays(_play, clock)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started, started_wall = time.process_time(), time.perf_counter()
        with relays.in_place():
            run_in_slots(controller, groups=_slots(workers), run_trial=_unused, n_folds=K, storage=folder.ray)
        controller.close("the search ended")
        seconds, wall = time.process_time() - started, time.perf_counter() - started_wall
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    late = suggester.stamps[-max(1, trials // 10) :]
    return Size(
        trials=trials,
        workers=workers,
        answers=relays.n_answers,
        driver_s=seconds,
        driver_wall_s=wall,
        search_s=clock.now,
        busy=seconds / clock.now,
        busy_at_end=_busy(late),
        answer_ms=1e3 * (seconds - sum(each.took for each in suggester.stamps)) / relays.n_answers,
        suggestion_ms=1e3 * float(np.median([each.took for each in late])),
        memory_mb=(peak - before) / 1024,
    )


def report(found: list[Size]) -> None:
    """Print one row per size."""
    print_figures(
        f"The driver with {found[0].workers} workers and epochs of {EPOCH_SECONDS:g} s",
        ("trials", "answers", "answers/s", "ms an answer", "ms a suggestion", "busy", "busy at end", "memory MB"),
        [
            (
                f"{each.trials}",
                f"{each.answers}",
                f"{each.answers / each.driver_s:.0f}",
                f"{each.answer_ms:.2f}",
                f"{each.suggestion_ms:.1f}",
                f"{each.busy:.3f}",
                f"{each.busy_at_end:.3f}",
                f"{each.memory_mb:.0f}",
            )
            for each in found
        ],
        {"sizes": [asdict(each) for each in found]},
    )


@contextmanager
def _ray(folder: Path) -> Iterator[None]:
    """Start the Ray that Tune asks for."""
    os.environ |= {"RAY_TMPDIR": str(folder), "RAY_AUTH_MODE": "disabled"}
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.2")
    try:
        yield
    finally:
        ray.shutdown()


def _slots(n: int) -> Any:
    """Return worker groups that are always there."""
    broker = SimpleNamespace(withdraw=SimpleNamespace(remote=lambda *_: None))
    return SimpleNamespace(count=lambda: n, broker=broker, is_short=False, wait_until_idle=lambda: None)


def _unused(*_: object, **__: object) -> TrialOutcome:
    raise AssertionError("no worker trains")


@dataclass(frozen=True)
class _Stamp:
    """One suggestion."""

    began: float  # CPU seconds
    virtual: float  # of the search
    took: float  # CPU seconds


def _busy(stamps: list[_Stamp]) -> float:
    """Return CPU over virtual seconds from the first to the last of these suggestions."""
    virtual = stamps[-1].virtual - stamps[0].virtual
    return (stamps[-1].began - stamps[0].began) / virtual if virtual > 0 else 0.0


class _Timed:
    """The suggester, with a stamp for each suggestion."""

    def __init__(self, suggester: OptunaSuggester, clock: VirtualClock) -> None:
        self._suggester = suggester
        self._clock = clock
        self.stamps: list[_Stamp] = []
        self.unfinished, self.resume, self.tell = suggester.unfinished, suggester.resume, suggester.tell

    @property
    def n_asked(self) -> int:
        return self._suggester.n_asked

    def ask(self) -> TrialTask:
        began = time.process_time()
        task = self._suggester.ask()
        self.stamps.append(_Stamp(began, self._clock.now, time.process_time() - began))
        return task


class _Silent:
    """Observes a search and shows nothing."""

    def search_started(self, *, n_trials: int, n_slots: int, records: tuple[TrialRecord, ...]) -> None: ...
    def trial_started(self, task: TrialTask) -> None: ...
    def epoch_ended(self, report: EpochReport) -> None: ...
    def trial_ended(self, record: TrialRecord) -> None: ...
    def noted(self, text: str) -> None: ...


def _play(task: TrialTask) -> Iterator[tuple[float, TaskTaken | EpochReport | TrialOutcome]]:
    """Play a trial whose quality depends on its learning rate, so that TPE has something to learn."""
    rng = np.random.default_rng(task.number)
    quality = 0.3 + 0.1 * abs(np.log10(task.hyperparameters.lr) + 3) + rng.normal(0, 0.03)
    noise = rng.normal(0, 0.02, K)
    yield 0.1, TaskTaken(number=task.number, attempt=1)
    for fold in range(K):
        for epoch in range(1, EPOCHS + 1):
            score = float(quality + noise[fold] + 0.5 * (1 - epoch / EPOCHS))
            yield EPOCH_SECONDS * rng.uniform(0.7, 1.3), _report(task.number, fold, epoch, score)
    yield 0.1, TrialOutcome(number=task.number, state="finished")


def _report(number: int, fold: int, epoch: int, score: float) -> EpochReport:
    result = None
    if epoch == EPOCHS:
        metrics = {"log_loss": score, "macro_auc": 0.9}
        result = FoldResult(fold=fold, epochs=epoch, metrics=metrics, n_images=1000, seconds=EPOCHS * EPOCH_SECONDS)
    return EpochReport(
        number=number,
        fold=fold,
        epoch=epoch,
        score=score,
        train_loss=score,
        seconds=EPOCH_SECONDS,
        images=1000,
        fold_result=result,
    )


def _plan(trials: int) -> StudyPlan:
    return StudyPlan(
        name="scaling",
        data=load("data/cards", "phantoms", DataCard, base=Path.cwd()),
        folds=FoldsPlan(k=K),
        spaces=tuple(load("search_spaces", name, SearchSpace, base=Path.cwd()) for name in SPACES),
        search=SearchPlan(trials=trials),
        training=TrainingPlan(epochs=EPOCHS),
        ensemble=EnsembleRecipe(name="greedy", selection=Greedy()),
    )


def _open_suggester(plan: StudyPlan, folder: StudyFolder) -> OptunaSuggester:
    return OptunaSuggester(
        folder.journal,
        join_spaces(plan.spaces, weights="none"),
        name=plan.name,
        seed=plan.seed,
        higher_is_better=False,
    )


if __name__ == "__main__":
    main()
