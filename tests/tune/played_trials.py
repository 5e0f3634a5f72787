"""Trials that are played in place of training: they keep files as training does, and meet the faults they are told to.

A trial has two folds of three epochs. Every epoch that is computed to its end is written down, so that a test sees what
was repeated.
"""

import json
import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
from search_records import METRICS, Listener

from consilia.config.catalog import load
from consilia.config.records import EpochReport, FoldResult, TrialOutcome, TrialTask
from consilia.config.space import SearchSpace
from consilia.config.study import Budget, SearchPlan
from consilia.config.study_folder import StudyFolder
from consilia.files import write_json, write_text
from consilia.tune.broker import BrokerLost
from consilia.tune.capacity import Capacity, Share
from consilia.tune.controller import TrialController
from consilia.tune.ledger import Ledger
from consilia.tune.limits import Limits
from consilia.tune.live import LiveSlots
from consilia.tune.nodes import living_nodes
from consilia.tune.racing import EveryFold
from consilia.tune.relay import Relay
from consilia.tune.space import join_spaces
from consilia.tune.suggester import OptunaSuggester
from consilia.tune.tuner import run_in_slots
from consilia.tune.worker import Prove
from consilia.tune.worker_groups import WorkerGroups

K, EPOCHS = 2, 3
SHARE = Share(cpus=1, gpus=0, memory=0)
CAPACITY = Capacity(n_slots=1, workers=1, share=SHARE, exclusive=SHARE, n_exclusive=1)
ROOT = Path(__file__).parents[2]

Report = Callable[[EpochReport], None]
Stopped = Callable[[], bool]
Fault = Callable[["Place"], None]


@dataclass(frozen=True)
class Place:
    """Where a trial is when a fault may strike: before it computes this epoch."""

    marks: Path
    number: int
    fold: int
    epoch: int

    def first_time(self) -> bool:
        """Say whether the trial has never been here before."""
        mark = self.marks / f"been-{self.number}-{self.fold}-{self.epoch}"
        been = mark.exists()
        mark.touch()
        return not been


@dataclass(frozen=True)
class PlayedStudy:
    """A study folder, and what befalls its trials."""

    folder: StudyFolder
    marks: Path
    faults: Mapping[int, Fault] = field(default_factory=dict)
    seconds: float = 0.05  # of an epoch
    ballast: int = 0  # bytes that a fold writes
    n_trials: int = 4
    notes_node: bool = False  # writes the node's address beside each epoch

    def search(
        self,
        listener: Listener,
        *,
        slots: int,
        live: LiveSlots | None = None,
        hang_seconds: float = 900.0,
        prove: Prove | None = None,
        capacity: Capacity = CAPACITY,
        asks_for_more: bool = False,
    ) -> TrialController:
        """Run the study's trials, or what is left of them.

        Args:
            listener: Told of everything.
            slots: Trials at a time.
            live: Counts the slots of a cluster whose nodes come and go.
            hang_seconds: As of WorkerGroups.
            prove: As of run_in_slots.
            capacity: Share of each worker.
            asks_for_more: As of WorkerGroups.settle.
        """
        space = join_spaces([load("search_spaces", "tiny", SearchSpace, base=ROOT)], weights="none")
        controller = TrialController(
            SearchPlan(trials=self.n_trials),
            folder=self.folder,
            n_folds=K,
            suggester=OptunaSuggester(self.folder.journal, space, name="played", seed=0, higher_is_better=False),
            racing=EveryFold(),
            observer=listener,
            limits=Limits(Budget(), Ledger(self.folder.ledger)),
            has_exclusive_slots=True,
        )
        try:
            with WorkerGroups(hang_seconds=hang_seconds, noted=listener.noted) as groups:
                live = live or LiveSlots(capacity, living_nodes, limit=slots, seen=living_nodes())
                groups.settle(capacity, live, asks_for_more=asks_for_more)
                run_in_slots(
                    controller,
                    groups=groups,
                    run_trial=partial(play, self),
                    n_folds=K,
                    prove=prove,
                    storage=self.folder.ray,
                )
        finally:
            controller.close("the search was interrupted")
        return controller

    def computed(self) -> list[tuple[int, int, int]]:
        """Return (number, fold, epoch) of every epoch that was computed to its end, once for each time."""
        lines = (self.marks / "computed").read_text().splitlines() if (self.marks / "computed").exists() else []
        return [(int(number), int(fold), int(epoch)) for number, fold, epoch, *_ in map(str.split, lines)]


class FrailRelay(Relay):
    """The broker dies while the relay starts with trial 0 for the first time, and before it takes up trial 1."""

    marks = Path("/nowhere")  # a test sets its own

    def _assign(self, config: dict[str, Any]) -> None:
        super()._assign(config)
        if config["number"] < 2 and Place(self.marks, config["number"], 0, 0).first_time():
            ray.kill(self._broker, no_restart=False)
            self._loss = BrokerLost()


def score_of(task: TrialTask, fold: int, epoch: int) -> float:
    """Return a score that depends on the configuration and the place alone."""
    return round(abs(task.hyperparameters.lr * 1000 - 1) + 0.1 * fold + 1 / epoch, 6)


def play(study: PlayedStudy, task: TrialTask, report: Report, stopped: Stopped) -> TrialOutcome:
    """Go on where the trial's files say, as `cross_validate` does."""
    for fold in range(K):
        files = study.folder.trial(task.number).fold(fold)
        done = json.loads(files.result.read_text())["epochs"] if files.result.exists() else 0
        if done:
            report(replace(_report(task, fold, EPOCHS), is_repeat=True))
            continue
        reached = int(files.checkpoint.read_text()) if files.checkpoint.exists() else 0
        for epoch in range(1, reached + 1):
            report(replace(_report(task, fold, epoch), is_repeat=True))
        for epoch in range(reached + 1, EPOCHS + 1):
            outcome = _play_epoch(study, task, fold, epoch, stopped)
            if outcome is not None:
                return outcome
            report(_report(task, fold, epoch))
    return TrialOutcome(number=task.number, state="finished")


def _play_epoch(study: PlayedStudy, task: TrialTask, fold: int, epoch: int, stopped: Stopped) -> TrialOutcome | None:
    deadline = time.monotonic() + study.seconds
    while time.monotonic() < deadline:
        if stopped():
            return TrialOutcome(number=task.number, state="stopped")
        time.sleep(0.01)
    fault = study.faults.get(task.number)
    if fault is not None:
        try:
            fault(Place(study.marks, task.number, fold, epoch))
        except FaultError as error:
            return replace(error.outcome, number=task.number)
    files = study.folder.trial(task.number).fold(fold)
    try:
        files.root.mkdir(parents=True, exist_ok=True)
        if epoch < EPOCHS:
            write_text(files.checkpoint, str(epoch))  # at once, as training does: the next line may be the last
        else:
            files.weights.write_bytes(b"w" * study.ballast)
            write_json(files.result, {"epochs": EPOCHS})
            files.checkpoint.unlink(missing_ok=True)
    except OSError as error:
        return TrialOutcome(number=task.number, state="paused", reason=f"{files.root}: {error.strerror}", fault="disk")
    with (study.marks / "computed").open("a") as file:
        file.write(f"{task.number} {fold} {epoch} {_node() if study.notes_node else ''}\n")
    return None


def _node() -> str:
    import ray

    return str(ray.util.get_node_ip_address())


def _report(task: TrialTask, fold: int, epoch: int) -> EpochReport:
    score = score_of(task, fold, epoch)
    result = None
    if epoch == EPOCHS:
        result = FoldResult(fold=fold, epochs=epoch, metrics=dict.fromkeys(METRICS, score), n_images=10, seconds=0.1)
    return EpochReport(
        number=task.number,
        fold=fold,
        epoch=epoch,
        score=score,
        train_loss=1.0,
        seconds=0.03,
        images=20,
        fold_result=result,
    )


class FaultError(Exception):
    """Ends the trial with an outcome."""

    def __init__(self, outcome: TrialOutcome) -> None:
        self.outcome = outcome


def once(strike: Fault, *, fold: int = 1, epoch: int = 2) -> Fault:
    """Let a fault strike the first time that the trial gets there."""
    return partial(_strike_once, strike, fold, epoch)


def _strike_once(strike: Fault, fold: int, epoch: int, place: Place) -> None:
    if (place.fold, place.epoch) == (fold, epoch) and place.first_time():
        strike(place)


def kill_worker(place: Place) -> None:
    """Kill the process that trains."""
    os.kill(os.getpid(), signal.SIGKILL)


def stop_worker(place: Place) -> None:
    """Let the process that trains stand still."""
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(10_000)  # another thread may take the signal, and this one must not end its epoch meanwhile


def sleep_in_c(place: Place) -> None:
    """Hang with Python's lock held: no thread of this process runs any more."""
    import ctypes

    ctypes.PyDLL(None).sleep(10_000)


def kill_actor(name: str, place: Place | None = None) -> None:
    """Kill the process of the one living actor of this class, and wait to be ended with it."""
    import ray
    from ray.util.state import list_actors

    ours = ray.get_runtime_context().gcs_address  # other Rays may run on this machine
    alive = list_actors(address=ours, filters=[("state", "=", "ALIVE")])
    (actor,) = [each for each in alive if each.class_name == name]
    os.kill(actor.pid, signal.SIGKILL)
    time.sleep(2)  # the epoch must not end before the loss is noticed


def run_out_of_memory(place: Place) -> None:
    """End the trial as training does that has no memory left."""
    raise FaultError(TrialOutcome(number=0, state="failed", reason="out of memory on cpu", fault="memory"))


def lose_finiteness(place: Place) -> None:
    """End the trial as training does with a loss that is not finite."""
    reason = f"the loss became nan in fold {place.fold + 1}/{K}, epoch {place.epoch}, at lr 3.00e-01"
    raise FaultError(TrialOutcome(number=0, state="failed", reason=reason))


def always(strike: Fault, *, fold: int = 1, epoch: int = 2) -> Fault:
    """Let a fault strike whenever the trial gets there."""
    return partial(_strike_always, strike, fold, epoch)


def _strike_always(strike: Fault, fold: int, epoch: int, place: Place) -> None:
    if (place.fold, place.epoch) == (fold, epoch):
        strike(place)


def wait_for_nodes(nodes: tuple[str, ...], place: Place) -> None:
    """Return once epochs were computed on all of these nodes, this one apart."""
    computed = place.marks / "computed"
    while not all(node == _node() or (computed.exists() and node in computed.read_text()) for node in nodes):
        time.sleep(0.1)


class JumpingClock:
    """Stands in for `time.time`: jumps by hours, forwards and backwards, at every tenth call."""

    def __init__(self, seed: int) -> None:
        self._jumps = random.Random(seed)
        self._true = time.time
        self._n_calls = 0
        self._offset = 0.0

    def __call__(self) -> float:
        """Return a time that is wrong."""
        self._n_calls += 1
        if self._n_calls % 10 == 0:
            self._offset = self._jumps.uniform(-6, 6) * 3600
        return self._true() + self._offset


def jump_clock(place: Place) -> None:
    """Let this process's clock jump from now on."""
    if not isinstance(time.time, JumpingClock):
        time.time = JumpingClock(seed=place.number)
