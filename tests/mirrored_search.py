"""A search whose study is mirrored: played in virtual time, while its files are pushed object by object."""

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from search_records import Listener

from consilia.config.catalog import load
from consilia.config.record_files import read_fold_result, write_fold_result
from consilia.config.records import EpochReport, FoldResult, TaskTaken, TrialOutcome, TrialRecord, TrialTask
from consilia.config.space import SearchSpace
from consilia.config.study import Budget, SearchPlan
from consilia.config.study_folder import StudyFolder
from consilia.files import write_json, write_text
from consilia.study.folder import hold_study
from consilia.study.mirror import Mirror
from consilia.study.remote import Remote
from consilia.tune.controller import TrialController
from consilia.tune.ledger import Ledger
from consilia.tune.limits import Limits
from consilia.tune.simulator import VirtualClock, simulate
from consilia.tune.space import join_spaces
from consilia.tune.suggester import OptunaSuggester
from stored_objects import ObjectStore

TRIALS, K, EPOCHS, SLOTS = 5, 2, 2, 2
BASE = "bucket/studies"
ROOT = Path(__file__).parent.parent


class ThirdsStop:
    """A Racing that stops every third trial once its first fold is finished."""

    def hear(self, report: EpochReport) -> str | None:
        return "every third one" if report.number % 3 == 2 and report.fold_result is not None else None

    def adjusted(self, scores: list[float]) -> float:
        return sum(scores) / len(scores)


class Turns:
    """Lets the search and its pushes take turns, so that a push goes on between any two steps of the search.

    The push is a thread that stands still before every change; `take` lets it make some.
    """

    def __init__(self, push: Callable[[], None], *, seed: int) -> None:
        self._push = push
        self._random = random.Random(seed)
        self._ours, self._theirs = threading.Semaphore(0), threading.Semaphore(0)
        self._is_over = False
        self.died: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def take(self) -> None:
        """Let the push make none, one or several changes."""
        for _ in range(self._random.choice([0, 0, 1, 1, 2, 5])):
            self._theirs.release()
            self._ours.acquire()
            if self.died is not None:
                raise self.died

    def stand_still(self) -> None:
        """Wait before a change for the next turn."""
        if threading.current_thread() is self._thread and not self._is_over:
            self._ours.release()
            self._theirs.acquire()

    def close(self) -> None:
        self._is_over = True
        self._theirs.release()
        self._thread.join()

    def _run(self) -> None:
        self._theirs.acquire()
        while not self._is_over:
            try:
                self._push()
            except BaseException as error:  # raised in the search, which ends with it
                self.died = error
            if self._is_over:
                return
            self._ours.release()
            self._theirs.acquire()


class TurningSuggester(OptunaSuggester):
    """Optuna, with a turn of the push before and after each word to it."""

    turn: Callable[[], None] = staticmethod(lambda: None)

    def ask(self) -> TrialTask:
        self.turn()
        task = super().ask()
        self.turn()
        return task

    def tell(self, record: TrialRecord, *, metric: str) -> None:
        self.turn()
        super().tell(record, metric=metric)
        self.turn()


@dataclass
class Driver:
    """One driver with a disk of its own."""

    root: Path
    store: ObjectStore
    every: float = 1e9  # seconds between two pushes in the background

    def __post_init__(self) -> None:
        self.turn: Callable[[], None] = lambda: None
        self.seconds = 0.0
        self.computed: list[tuple[int, int, int]] = []  # (trial, fold, epoch)
        self.folder = StudyFolder(self.root / "played")
        self.folder.root.mkdir(parents=True, exist_ok=True)
        remote = Remote(self.store, f"{BASE}/played", "memory://played")
        self.mirror = Mirror(self.folder, remote, clock=lambda: self.seconds, wait=self._wait, every=self.every)

    @classmethod
    def again(cls, other: "Driver", store: ObjectStore) -> "Driver":
        """Return another driver on the same machine."""
        return cls(other.root, store)

    def work(self, *, seed: int) -> None:
        """Pull, search to the end with pushes in between, and push."""
        with hold_study(self.folder, work=self.mirror.at_work(lambda text: None)):
            if not self.folder.plan.exists():
                write_text(self.folder.plan, "name: played\n")
            turns = Turns(self.mirror.push, seed=seed)
            self.stand_still = turns.stand_still
            self.turn = turns.take
            try:
                self.search()
            finally:
                self.turn = lambda: None
                turns.close()
            if turns.died is not None:
                raise turns.died

    def stand_still(self) -> None:
        """Replaced while a search runs."""

    def suggester(self) -> TurningSuggester:
        space = join_spaces([load("search_spaces", "tiny", SearchSpace, base=ROOT)], weights="none")
        suggester = TurningSuggester(self.folder.journal, space, name="played", seed=0, higher_is_better=False)
        suggester.turn = self.turn
        return suggester

    def search(self) -> None:
        suggester = self.suggester()
        clock = VirtualClock()
        controller = TrialController(
            SearchPlan(trials=TRIALS, keep_weights=1),
            folder=self.folder,
            n_folds=K,
            suggester=suggester,
            racing=ThirdsStop(),
            observer=Listener(),
            limits=Limits(Budget(), Ledger(self.folder.ledger, clock=clock)),
        )
        simulate(controller, self.play, clock=clock, n_slots=lambda: SLOTS)
        controller.close("the search ended")
        write_json(self.folder.search_end, {"ended_by": controller.ended_by(), "limits": {}})

    def play(self, task: TrialTask) -> Iterator[tuple[float, TaskTaken | EpochReport | TrialOutcome]]:
        """Write what training writes, in its order, with turns in between."""
        yield 1.0, TaskTaken(number=task.number, attempt=1)
        for fold in range(K):
            files = self.folder.trial(task.number).fold(fold)
            if files.result.exists():
                result = read_fold_result(files.result)
                yield 0.0, report_of(task, fold, EPOCHS, result, is_repeat=True)
                continue
            reached = int(files.checkpoint.read_text()) if files.checkpoint.exists() else 0
            for epoch in range(1, EPOCHS + 1):
                result = None
                if epoch > reached:
                    self.computed.append((task.number, fold, epoch))
                    write_text(files.history, f"history to {epoch}")
                    self.turn()
                    write_text(files.checkpoint, str(epoch))
                    self.turn()
                if epoch == EPOCHS:
                    result = self._finish(task, fold)
                yield 1.0 + task.number / 10, report_of(task, fold, epoch, result, is_repeat=epoch <= reached)
                self.turn()
        yield 0.5, TrialOutcome(number=task.number, state="finished")

    def _finish(self, task: TrialTask, fold: int) -> FoldResult:
        files = self.folder.trial(task.number).fold(fold)
        score = score_of(task, fold, EPOCHS)
        result = FoldResult(fold=fold, epochs=EPOCHS, metrics={"log_loss": score}, n_images=9, seconds=1.0)
        for path in (files.weights, files.oof):
            write_text(path, f"{path.name} of {score}")
            self.turn()
        write_fold_result(files.result, result)
        self.turn()
        files.checkpoint.unlink(missing_ok=True)
        self.turn()
        return result

    def _wait(self, seconds: float) -> None:
        self.seconds += seconds


def score_of(task: TrialTask, fold: int, epoch: int) -> float:
    return round(abs(task.hyperparameters.lr * 1000 - 1) + 0.1 * fold + 1 / epoch, 6)


def report_of(task: TrialTask, fold: int, epoch: int, result: FoldResult | None, *, is_repeat: bool) -> EpochReport:
    report = EpochReport(
        number=task.number,
        fold=fold,
        epoch=epoch,
        score=score_of(task, fold, epoch),
        train_loss=1.0,
        seconds=1.0,
        images=9,
        fold_result=result,
    )
    return replace(report, is_repeat=is_repeat)
