"""What a worker does with a trial that goes wrong; the rows in the dashboard are played by a stand-in."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import ray
import torch
from search_records import task

from consilia.config.records import TrialOutcome
from consilia.errors import DataError, NodeFault
from consilia.train.distributed import ALONE
from consilia.train.faults import GroupLost
from consilia.tune import worker
from consilia.tune.broker import Job, Taken


class Watch:
    """No report is sent and nothing is stopped."""

    def report(self, report: object) -> None:
        """Ignore it."""

    def stopped(self) -> bool:
        return False


class Rows:
    """A broker whose rows end when they are told to; nobody is asked twice within a moment."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.n_looks, self.cause = 0.0, 0, ""
        self.signs: list[float] = []
        row = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *_: "row"))
        self.trial = self.fold = row
        self.alive = SimpleNamespace(remote=lambda *_: self.signs.append(self.now))
        monkeypatch.setattr(worker.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(ray, "wait", self.wait)
        monkeypatch.setattr(ray, "get", self.get)

    def wait(self, rows: list[str], *, timeout: float) -> tuple[list[str], list[str]]:
        self.n_looks += 1
        return (rows, []) if self.cause else ([], rows)

    def get(self, row: str) -> str:
        if self.cause == "gone":
            raise ray.exceptions.ActorDiedError
        return self.cause


def test_a_worker_may_ask_at_every_batch_and_looks_now_and_then(monkeypatch: pytest.MonkeyPatch):
    rows = Rows(monkeypatch)
    watch = worker._Watch(rows, taken(KeyError("unused")))
    for batch in range(1, 7001):
        rows.now = batch / 1000
        assert watch.stopped() is None
    assert 130 <= rows.n_looks <= 140
    assert rows.signs == [pytest.approx(5.0, abs=0.1)]
    for cause, told in (("over", "over"), ("closed", "closed"), ("gone", "stopped")):
        rows.cause, rows.now = cause, rows.now + 0.1
        assert watch.stopped() == told


def failing(error: Exception) -> worker.RunTrial:
    def run_trial(*_: object, **__: object) -> TrialOutcome:
        raise error

    return run_trial


def taken(error: Exception, prove: worker.Prove | None = None) -> Taken:
    return Taken(task(7), Job(program=worker.Program(failing(error), prove), n_folds=2), ticket="mine")


def run(error: Exception, prove: worker.Prove | None = None) -> TrialOutcome:
    return worker._run(taken(error, prove), Watch())


def run_together(error: Exception, broker: object = None) -> TrialOutcome:
    return worker._run_together(taken(error), Watch(), ALONE, broker)


def test_an_unforeseen_error_fails_the_trial_and_leaves_the_worker_alive():
    outcome = run(KeyError("no such column\nin the table"))
    assert (outcome.number, outcome.state) == (7, "failed")
    assert outcome.reason.startswith("KeyError: 'no such column")
    assert "\n" not in outcome.reason
    assert "in run_trial\n    raise error\nKeyError" in outcome.traceback


def test_only_the_first_line_of_another_librarys_error_is_the_reason_but_all_of_ours():
    for error, reason in ((RuntimeError("first\nsecond"), "first"), (DataError("first\nsecond"), "first\nsecond")):
        assert run(error).reason == f"{type(error).__name__}: {reason}"


def test_a_broken_device_ends_the_process_so_that_a_fresh_one_takes_the_trial_up():
    with pytest.raises(torch.AcceleratorError):
        run(torch.AcceleratorError("CUDA error: an illegal memory access"))


@pytest.mark.parametrize("error", [OSError("stale file handle"), DataError("the store is damaged"), KeyError("x")])
def test_an_error_on_a_node_that_cannot_train_is_the_nodes_and_not_the_trials(error: Exception):
    def prove(alive: Callable[[], object]) -> None:
        raise NodeFault("the images cannot be read")

    with pytest.raises(NodeFault, match="the images cannot be read"):
        run(error, prove)
    assert run(error, prove=lambda alive: None).state == "failed"


class Follower:
    """A Group's second worker: it hears what the leader has said."""

    def __init__(self, *said: bool) -> None:
        self._said = list(said)
        self.n_agreed = 0

    def from_leader(self, make: Callable[[], object]) -> object:
        return self._said.pop(0)

    def agree(self, make: Callable[[], None]) -> None:
        self.n_agreed += 1


def test_workers_that_train_together_prove_their_node_when_the_leader_does():
    """Each task brings a follower another copy of the program; alone it would wait for the leader for ever."""
    tasks, follower = object.__new__(worker._Tasks), Follower(True, False)
    tasks._proven = None
    for _ in range(2):
        tasks.prove(taken(KeyError("unused"), prove=lambda alive: None), follower, Watch())
    assert follower.n_agreed == 1


def test_a_trial_whose_broker_is_started_again_is_left_and_not_failed():
    lost = ray.exceptions.ActorUnavailableError("it is being started again", None)
    assert run(lost).state == "stopped"


def test_a_worker_whose_broker_is_gone_for_good_ends_quietly(monkeypatch: pytest.MonkeyPatch):
    """Ray Train would start another one in the place of one that fails."""
    with pytest.raises(ray.exceptions.ActorDiedError):
        run(ray.exceptions.ActorDiedError())
    monkeypatch.setattr(worker, "_serve", failing(ray.exceptions.ActorDiedError()))
    worker.serve({"work": worker.GroupWork(broker=None, group="here#1", n_threads=1)})


def test_of_workers_that_train_together_all_end_where_one_may_have_met_an_error_alone():
    with pytest.raises(KeyError):
        run_together(KeyError("alone"))


def test_an_error_that_workers_meet_together_fails_the_trial_and_leaves_them_alive():
    outcome = run_together(DataError("image 3 is damaged"))
    assert (outcome.number, outcome.state, outcome.reason) == (7, "failed", "DataError: image 3 is damaged")


@pytest.mark.parametrize("outcome", [None, TrialOutcome(number=7, state="failed", reason="out of memory")])
def test_of_workers_that_lose_each_other_the_one_that_knows_the_trials_end_tells_the_broker(
    monkeypatch: pytest.MonkeyPatch, outcome: TrialOutcome | None
):
    told = []
    broker = SimpleNamespace(finish=SimpleNamespace(remote=lambda *said: told.append(said)))
    monkeypatch.setattr(ray, "get", lambda reference: reference)
    lost = GroupLost("a worker is gone")
    lost.outcome = outcome
    with pytest.raises(GroupLost):
        run_together(lost, broker)
    assert told == ([] if outcome is None else [(outcome, "mine")])


def test_a_trial_has_a_name_that_a_person_understands():
    named = task(12, architecture="densenet121", lr=3e-4)
    assert worker.trial_name(named) == "trial 12 densenet121 lr=3e-04"
    assert worker.trial_name(named, noun="refit") == "refit 12 densenet121 lr=3e-04"


def test_what_libraries_keep_after_the_first_trial_is_no_leak_and_what_later_ones_add_is():
    held = iter([104 * 2**20, 104 * 2**20, 140 * 2**20, 190 * 2**20])
    memory = worker.DeviceMemory(lambda: next(held))
    assert [memory.leaks() for _ in range(4)] == [False, False, False, True]
