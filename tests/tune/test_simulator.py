"""Searches of hundreds of trials in virtual time: fairness, budgets, resumption and nodes that come and go."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from search_records import Listener, task

from consilia.config.record_files import read_trial
from consilia.config.records import EpochReport, FoldResult, TaskTaken, TrialOutcome, TrialRecord, TrialTask
from consilia.config.study import Budget, Halving, SearchPlan
from consilia.config.study_folder import StudyFolder
from consilia.tune.controller import TrialController
from consilia.tune.ledger import Ledger, read_ledger, seconds_by_purpose
from consilia.tune.limits import Limits
from consilia.tune.racing import BothStops, EpochHalving, EveryFold, FoldPruner, Racing
from consilia.tune.simulator import SimulatedSearch, VirtualClock, simulate
from consilia.tune.stored import leaderboard

K, EPOCHS, EPOCH_SECONDS = 3, 6, 30.0


class Numbers:
    """A Suggester whose journal is a list: it survives a driver."""

    def __init__(self) -> None:
        self.n_asked = 0
        self.open: dict[int, TrialTask] = {}

    def ask(self) -> TrialTask:
        self.n_asked += 1
        self.open[self.n_asked - 1] = task(self.n_asked - 1)
        return self.open[self.n_asked - 1]

    def unfinished(self) -> list[TrialTask]:
        return list(self.open.values())

    def resume(self, number: int) -> None:
        assert number in self.open

    def tell(self, record: TrialRecord, *, metric: str) -> None:
        if record.has_ended:
            del self.open[record.number]


class Workers:
    """Plays trials with scores of the additive model; remembers checkpoints and counts what it computes."""

    def __init__(self, *, seed: int = 0) -> None:
        self._seed = seed
        self.computed: list[tuple[int, int, int]] = []  # (trial, fold, epoch)
        self._done: dict[int, list[tuple[int, int]]] = {}

    def loss(self, number: int, fold: int, epoch: int) -> float:
        rng = np.random.default_rng([self._seed, number])
        quality, noise = rng.normal(1.0, 0.1), rng.normal(0.0, 0.02, size=K)
        return float(quality + noise[fold] + 0.05 * fold + 0.3 * (EPOCHS - epoch) / EPOCHS)

    def play(self, task: TrialTask) -> Iterator[tuple[float, TaskTaken | EpochReport | TrialOutcome]]:
        done = self._done.setdefault(task.number, [])
        yield 1.0, TaskTaken(number=task.number, attempt=1)
        for fold in range(K):
            for epoch in range(1, EPOCHS + 1):
                is_repeat = (fold, epoch) in done
                yield (0.0 if is_repeat else EPOCH_SECONDS), self.report(task.number, fold, epoch, is_repeat=is_repeat)
                if not is_repeat:
                    self.computed.append((task.number, fold, epoch))
                    done.append((fold, epoch))
        yield 0.5, TrialOutcome(number=task.number, state="finished")

    def report(self, number: int, fold: int, epoch: int, *, is_repeat: bool) -> EpochReport:
        score, result = self.loss(number, fold, epoch), None
        if epoch == EPOCHS:
            metrics = {"log_loss": score}
            result = FoldResult(fold=fold, epochs=epoch, metrics=metrics, n_images=9, seconds=EPOCHS * EPOCH_SECONDS)
        return EpochReport(
            number=number,
            fold=fold,
            epoch=epoch,
            score=score,
            train_loss=score,
            seconds=EPOCH_SECONDS,
            images=9,
            fold_result=result,
            is_repeat=is_repeat,
        )


class Search:
    """A study in virtual time; each `run` is a new driver."""

    def __init__(
        self,
        root: Path,
        *,
        trials: int,
        racing: Callable[[], Racing] = EveryFold,
        keep_weights: int = 12,
        **budget: float,
    ) -> None:
        self.folder = StudyFolder(root / "study")
        self.folder.root.mkdir(parents=True)
        self.clock, self.numbers, self.workers, self.listener = VirtualClock(), Numbers(), Workers(), Listener()
        self._plan = SearchPlan(trials=trials, keep_weights=keep_weights, budget=Budget.model_validate(budget))
        self._racing = racing

    def run(self, *, n_slots: Callable[[], int] | int, until: float = float("inf")) -> SimulatedSearch:
        ledger = Ledger(self.folder.ledger, clock=self.clock)
        self.controller = TrialController(
            self._plan,
            folder=self.folder,
            n_folds=K,
            suggester=self.numbers,
            racing=self._racing(),
            observer=self.listener,
            limits=Limits(self._plan.budget, ledger),
        )
        slots = n_slots if callable(n_slots) else lambda: n_slots
        result = simulate(self.controller, self.workers.play, clock=self.clock, n_slots=slots, until=until)
        if until == float("inf"):
            self.controller.close("the search ended")
        return result

    def states(self) -> list[str]:
        return [record.state for _, record in sorted(self.controller.records.items())]


def race() -> Racing:
    return BothStops(
        EpochHalving(Halving(), epochs=EPOCHS, higher_is_better=False),
        FoldPruner(k=K, n_best=5, eps=0.05, higher_is_better=False),
    )


TRIAL_SECONDS = 1.5 + K * EPOCHS * EPOCH_SECONDS


@pytest.mark.parametrize("n_slots", [1, 7, 64])
def test_no_slot_is_idle_while_trials_are_to_come(tmp_path: Path, n_slots: int):
    search = Search(tmp_path, trials=2 * n_slots)
    result = search.run(n_slots=n_slots)
    assert result.most_running == n_slots
    assert search.states() == ["finished"] * 2 * n_slots
    assert search.clock.now == pytest.approx(2 * TRIAL_SECONDS)  # two rounds of everybody at once


def test_every_second_of_a_slot_is_accounted_for(tmp_path: Path):
    search = Search(tmp_path, trials=40, racing=race)
    search.run(n_slots=4)
    seconds = seconds_by_purpose(read_ledger(search.folder.ledger))
    parts = sum(seconds.get(name, 0) for name in ("useful", "stopped", "start-up", "overhead"))
    assert seconds["reserved"] == pytest.approx(4 * search.clock.now)
    assert seconds["reserved"] == pytest.approx(parts + seconds["idle"])
    assert seconds["useful"] + seconds["stopped"] == pytest.approx(EPOCH_SECONDS * len(search.listener.epochs))
    assert seconds["stopped"] > 0
    assert seconds["start-up"] == pytest.approx(40 * 1.0)


def test_racing_keeps_the_best_trials_at_less_than_half_of_the_compute(tmp_path: Path):
    search = Search(tmp_path, trials=100, racing=race)
    search.run(n_slots=8)
    means = [np.mean([search.workers.loss(number, fold, EPOCHS) for fold in range(K)]) for number in range(100)]
    chosen = leaderboard(search.controller.records, metric="log_loss")[0].number
    assert np.argsort(means).tolist().index(chosen) < 3
    assert len(search.listener.epochs) < 100 * K * EPOCHS / 2
    assert set(search.states()) == {"finished", "stopped"}


def test_a_driver_that_is_killed_again_and_again_repeats_no_epoch_and_loses_no_trial(tmp_path: Path):
    undisturbed = Search(tmp_path / "undisturbed", trials=20)
    undisturbed.run(n_slots=4)
    killed = Search(tmp_path / "killed", trials=20)
    for at in (100.0, 777.0, 1500.0, 2000.0):
        killed.run(n_slots=4, until=at)
    assert "running" in killed.states()
    killed.run(n_slots=4)
    assert killed.states() == ["finished"] * 20
    assert sorted(killed.workers.computed) == sorted(undisturbed.workers.computed)
    for number in range(20):
        alone, again = (read_trial(each.folder.trial(number).record) for each in (undisturbed, killed))
        assert (alone.objective, alone.folds, alone.seconds) == (again.objective, again.folds, again.seconds)
    spent = seconds_by_purpose(read_ledger(killed.folder.ledger))
    assert spent["lost"] >= 4 * 4 * 1.0  # each time, four trials waited a second until they were taken up again
    assert spent["start-up"] == pytest.approx(20 * 1.0, abs=4)  # a driver killed early loses some of its account


def test_racing_remembers_across_drivers(tmp_path: Path):
    search = Search(tmp_path, trials=60, racing=race)
    search.run(n_slots=4, until=3000.0)
    n_stopped = search.states().count("stopped")
    search.run(n_slots=4)
    assert n_stopped > 0
    assert search.states().count("stopped") > n_stopped
    assert search.states().count("running") == 0


@pytest.mark.parametrize("n_slots", [1, 16])
def test_a_budget_of_hours_is_kept_and_its_trials_are_paused(tmp_path: Path, n_slots: int):
    search = Search(tmp_path, trials=1000, hours=1.0)
    search.run(n_slots=n_slots)
    assert search.clock.now <= 3600 + EPOCH_SECONDS
    assert search.clock.now > 3600 - EPOCHS * EPOCH_SECONDS  # no fold was begun that would not fit
    assert set(search.states()) == {"finished", "paused"}
    assert "hours" in search.controller.ended_by() or "a fold takes" in search.controller.ended_by()


def test_hours_count_over_all_runs_of_a_study(tmp_path: Path):
    search = Search(tmp_path, trials=1000, hours=1.0)
    search.run(n_slots=2, until=1800.0)
    search.controller._limits.ledger.write()  # as it is every few seconds
    spent, night = search.clock.now, 50_000.0
    search.clock.now += night  # without a driver, it costs nothing
    search.run(n_slots=2)
    assert 3600.0 - EPOCHS * EPOCH_SECONDS < search.clock.now - night <= 3600.0 + EPOCH_SECONDS
    assert search.clock.now - night > spent


def test_device_hours_count_what_all_slots_hold(tmp_path: Path):
    search = Search(tmp_path, trials=1000, device_hours=4.0)
    search.run(n_slots=8)
    assert search.clock.now == pytest.approx(4.0 / 8 * 3600, abs=EPOCHS * EPOCH_SECONDS)


def test_patience_ends_a_search_that_no_longer_improves(tmp_path: Path):
    search = Search(tmp_path, trials=1000, patience=25)
    search.run(n_slots=4)
    best = leaderboard(search.controller.records, metric="log_loss")[0].number
    n_ended = sum(record.has_ended for record in search.controller.records.values())
    assert best + 25 <= n_ended <= best + 25 + 2 * 4
    assert "no gain" in search.controller.ended_by()


def test_slots_follow_the_nodes_that_come_and_go(tmp_path: Path):
    search = Search(tmp_path, trials=100)
    running: list[tuple[float, int]] = []

    def n_slots() -> int:
        n = 2 if search.clock.now < 2000 else 8 if search.clock.now < 6000 else 3
        running.append((search.clock.now, search.controller.n_running))
        return n

    search.run(n_slots=n_slots)
    assert search.states() == ["finished"] * 100
    assert max(n for at, n in running if at < 2000) == 2
    assert max(n for at, n in running if 2000 <= at < 6000) == 8
    # Nobody is thrown out where a node is only fuller than before; nobody new comes before there is room.
    assert max(n for at, n in running if at > 6000 + TRIAL_SECONDS) == 3


def test_the_same_seed_gives_the_same_search(tmp_path: Path):
    first, second = (Search(tmp_path / name, trials=50, racing=race) for name in "ab")
    for search in (first, second):
        search.run(n_slots=8)
    assert first.controller.records == second.controller.records
    assert first.workers.computed == second.workers.computed


class Disk(Workers):
    """Writes checkpoints and weights as training does, and counts them before each epoch.

    A worker that is told that its trial is over deletes what it has written, as `TrialFiles.leave` does.
    """

    def __init__(self, folder: StudyFolder) -> None:
        super().__init__()
        self._folder = folder
        self.most_checkpoints = self.most_trials_with_weights = 0

    def play(self, task: TrialTask) -> Iterator[tuple[float, TaskTaken | EpochReport | TrialOutcome]]:
        try:
            for seconds, message in super().play(task):
                if isinstance(message, EpochReport):
                    self._write(message)
                    self._count()
                yield seconds, message
        except GeneratorExit:
            if not isinstance(message, TrialOutcome):
                for fold in range(K):
                    self._folder.trial(task.number).fold(fold).checkpoint.unlink(missing_ok=True)
                    self._folder.trial(task.number).fold(fold).weights.unlink(missing_ok=True)
            raise

    def _write(self, report: EpochReport) -> None:
        files = self._folder.trial(report.number).fold(report.fold)
        files.root.mkdir(parents=True, exist_ok=True)
        files.checkpoint.touch()
        if report.fold_result is not None:
            files.weights.touch()
            files.checkpoint.unlink()

    def _count(self) -> None:
        trials = self._folder.trials
        self.most_checkpoints = max(self.most_checkpoints, len(list(trials.glob("*/fold-*/checkpoint.pt"))))
        with_weights = {file.parts[-3] for file in trials.glob("*/fold-*/weights.safetensors")}
        self.most_trials_with_weights = max(self.most_trials_with_weights, len(with_weights))


@pytest.mark.parametrize("racing", [EveryFold, race])
def test_the_disk_never_holds_more_than_the_slots_and_the_pool_need(tmp_path: Path, racing: Callable[[], Racing]):
    n_slots, n_kept = 4, 3
    search = Search(tmp_path, trials=60, racing=racing, keep_weights=n_kept)
    search.workers = disk = Disk(search.folder)
    search.run(n_slots=n_slots)
    assert 0 < disk.most_checkpoints <= n_slots
    assert disk.most_trials_with_weights <= n_slots + n_kept
    left = {file.parts[-3] for file in search.folder.trials.glob("*/fold-*/*.safetensors")}
    assert len(left) == n_kept
    assert not list(search.folder.trials.glob("*/fold-*/checkpoint.pt"))
