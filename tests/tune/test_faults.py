"""Faults on a real Ray: what dies is replaced, what was finished is not repeated, and nothing is left behind."""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path

import optuna
import pytest
import ray
from played_trials import (
    EPOCHS,
    FrailRelay,
    JumpingClock,
    K,
    PlayedStudy,
    always,
    jump_clock,
    kill_actor,
    kill_worker,
    lose_finiteness,
    once,
    run_out_of_memory,
    score_of,
    sleep_in_c,
    stop_worker,
)
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group
from search_records import Listener

from consilia.config.records import EpochReport, TrialRecord
from consilia.config.study_folder import StudyFolder
from consilia.errors import ClusterError, NodeFault, RunError
from consilia.study.end import settle_end
from consilia.study.opened import OpenStudy
from consilia.study.plan import read_plan
from consilia.tune.ledger import read_ledger
from consilia.tune.placement_group_cleanup import remove_orphans
from consilia.tune.stored import read_trials

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600), pytest.mark.usefixtures("ray_on_loopback")]


STRUCK = pytest.mark.slow("starts two slots; test_on_ray kills workers, test_slots a broker")


@pytest.fixture(scope="module")
def struck(ray_on_loopback: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[PlayedStudy, Listener]:
    """One search in one slot, of which the worker and the broker die once."""
    study = make_study(
        tmp_path_factory.mktemp("struck"),
        faults={1: once(kill_worker), 2: once(partial(kill_actor, "Broker")), 3: always(lose_finiteness)},
        n_trials=5,
    )
    listener = Listener()
    study.search(listener, slots=1)
    return study, listener


@pytest.fixture(scope="module")
def starved(ray_on_loopback: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[PlayedStudy, Listener]:
    """One search in one slot, of which one trial runs out of memory once and one always."""
    faults = {0: once(run_out_of_memory), 1: always(run_out_of_memory)}
    study, listener = make_study(tmp_path_factory.mktemp("starved"), faults=faults, n_trials=3), Listener()
    study.search(listener, slots=1)
    return study, listener


@pytest.fixture(scope="module")
def hanging(ray_on_loopback: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[PlayedStudy, Listener]:
    """One search in two slots, whose workers hang or are killed again and again."""
    study = make_study(
        tmp_path_factory.mktemp("hanging"),
        faults={0: once(sleep_in_c), 1: always(stop_worker), 2: always(kill_worker)},
        n_trials=5,
    )
    listener = Listener()
    study.search(listener, slots=2, hang_seconds=4.0)
    return study, listener


def make_study(root: Path, *, marks: Path | None = None, **settings: object) -> PlayedStudy:
    return PlayedStudy(folder=StudyFolder(root / "study"), marks=marks or root, **settings)


def places(number: int, *, before: tuple[int, int] = (K, 0)) -> list[tuple[int, int, int]]:
    """Every epoch of a trial, in order, up to (fold, epoch)."""
    every = product(range(K), range(1, EPOCHS + 1))
    return [(number, fold, epoch) for fold, epoch in every if (fold, epoch) < before]


def optuna_states(study: PlayedStudy) -> list[str]:
    journal = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(study.folder.journal)))
    return [trial.state.name for trial in optuna.load_study(study_name="played", storage=journal).trials]


def notes_of(listener: Listener, number: int) -> str:
    return "\n".join(note for note in listener.notes if note.startswith(f"trial {number}"))


def assert_finished(study: PlayedStudy, number: int) -> None:
    """It finished with its own scores, and computed every epoch once."""
    record = read_trials(study.folder)[number]
    assert (record.state, record.reason) == ("finished", "")
    assert [result.metrics["log_loss"] for result in record.folds] == scores_of(record)
    assert sorted(place for place in study.computed() if place[0] == number) == places(number)


def scores_of(record: TrialRecord) -> list[float]:
    return [score_of(record, fold, EPOCHS) for fold in range(K)]


@STRUCK
@pytest.mark.parametrize(("number", "what"), [(0, ""), (1, "worker was lost"), (2, "its broker is gone"), (4, "")])
def test_a_trial_goes_on_after_the_loss_of(struck: tuple[PlayedStudy, Listener], number: int, what: str):
    study, listener = struck
    assert_finished(study, number)
    notes = notes_of(listener, number)
    assert what in notes
    assert bool(notes) == bool(what)


@pytest.mark.slow("starts workers; the controller hears of a relay that dies as of a broker")
def test_a_trial_goes_on_after_the_death_of_its_relay(ray_on_loopback: None, tmp_path: Path):
    study, listener = make_study(tmp_path, faults={1: once(partial(kill_actor, "Relay"))}, n_trials=3), Listener()
    study.search(listener, slots=1)
    for number in range(3):
        assert_finished(study, number)
    assert "its relay died" in notes_of(listener, 1)


@pytest.mark.slow("starts workers; make test kills a broker in the middle of a trial")
def test_a_broker_that_dies_while_a_relay_starts_or_takes_a_task_costs_only_the_relay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Frail(FrailRelay):
        marks = tmp_path

    monkeypatch.setattr("consilia.tune.tuner.Relay", Frail)
    study, listener = make_study(tmp_path, n_trials=3), Listener()
    study.search(listener, slots=1)
    for number in range(3):
        assert_finished(study, number)
        assert ("its broker is gone" in notes_of(listener, number)) == (number < 2)


@STRUCK
def test_a_loss_that_is_not_finite_fails_the_trial_with_fold_epoch_and_lr(struck: tuple[PlayedStudy, Listener]):
    study, _ = struck
    record = read_trials(study.folder)[3]
    assert (record.state, record.n_folds, record.objective) == ("failed", 1, None)
    assert "nan in fold 2/2, epoch 2, at lr 3.00e-01" in record.reason
    assert optuna_states(study)[3] == "FAIL"


@pytest.mark.slow("starts three slots; test_controller asks for an exclusive one without Ray")
def test_out_of_memory_once_is_made_good_by_an_exclusive_slot_and_twice_is_not(starved: tuple[PlayedStudy, Listener]):
    study, listener = starved
    assert_finished(study, 0)
    assert "a slot with more memory" in notes_of(listener, 0)
    record = read_trials(study.folder)[1]
    assert (record.state, record.reason) == ("failed", "out of memory on cpu")
    assert notes_of(listener, 1).count("a slot with more memory") == 1
    assert [each.exclusive for each in listener.started if each.number == 1] == [False, True]
    assert_finished(study, 2)
    assert optuna_states(study) == ["COMPLETE", "FAIL", "COMPLETE"]


@STRUCK
def test_optuna_hears_how_every_trial_ended(struck: tuple[PlayedStudy, Listener]):
    study, _ = struck
    assert optuna_states(study) == ["FAIL" if number == 3 else "COMPLETE" for number in range(5)]


HANGING = pytest.mark.slow("waits for a dozen workers to be given up; test_broker counts silence and losses")


@HANGING
def test_a_worker_that_hangs_is_replaced_and_its_trial_finishes(hanging: tuple[PlayedStudy, Listener]):
    study, listener = hanging
    assert_finished(study, 0)
    assert "no sign of life" in notes_of(listener, 0)


@HANGING
def test_a_trial_that_hangs_every_time_fails_with_that_reason(hanging: tuple[PlayedStudy, Listener]):
    study, _ = hanging
    record = read_trials(study.folder)[1]
    assert record.state == "failed"
    assert "no sign of life" in record.reason
    assert [place for place in study.computed() if place[0] == 1] == places(1, before=(1, 2))


@HANGING
def test_a_trial_that_the_kernel_kills_every_time_fails_and_the_others_finish(hanging: tuple[PlayedStudy, Listener]):
    study, _ = hanging
    record = read_trials(study.folder)[2]
    assert record.state == "failed"
    assert "worker process died 4 times" in record.reason
    assert [place for place in study.computed() if place[0] == 2] == places(2, before=(1, 2))
    assert_finished(study, 3)
    assert_finished(study, 4)
    assert optuna_states(study) == ["COMPLETE", "FAIL", "FAIL", "COMPLETE", "COMPLETE"]


@HANGING
def test_lost_time_stands_in_the_ledger(hanging: tuple[PlayedStudy, Listener]):
    study, _ = hanging
    table = read_ledger(study.folder.ledger)
    lost = table[table["purpose"] == "lost"].groupby("trial")["seconds"].sum()
    assert lost[0] >= 4.0  # the hang itself
    assert 3 not in lost


class Maker:
    """Makes a placement group, as the controller of a worker group does."""

    def make(self, cpus: int) -> str:
        return str(placement_group([{"CPU": cpus}]).id.hex())


def test_a_placement_group_whose_maker_is_dead_is_removed_and_no_other(ray_on_loopback: None):
    living, dead = (ray.remote(Maker).options(num_cpus=0).remote() for _ in range(2))
    ours = placement_group([{"CPU": 1}])
    theirs, waiting = ray.get([living.make.remote(1), dead.make.remote(1000)])
    assert remove_orphans() == 0
    ray.kill(dead)
    deadline = time.monotonic() + 60
    while (n_removed := remove_orphans()) == 0 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert n_removed == 1
    states = {key: group["state"] for key, group in placement_group_table().items()}
    assert states[waiting] == "REMOVED"
    assert "REMOVED" not in (states[theirs], states[ours.id.hex()])
    ray.kill(living)
    remove_placement_group(ours)
    while remove_orphans() == 0 and time.monotonic() < deadline:
        time.sleep(0.1)


@pytest.mark.slow("a whole search in two slots; test_ledger refuses any reading of a clock that may jump")
def test_a_clock_that_jumps_by_hours_changes_nothing(
    ray_on_loopback: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    study = make_study(tmp_path, faults=dict.fromkeys(range(4), always(jump_clock, fold=0, epoch=1)))
    started = time.monotonic()
    monkeypatch.setattr(time, "time", JumpingClock(seed=100))
    study.search(Listener(), slots=2)
    monkeypatch.undo()
    elapsed = time.monotonic() - started
    for number in range(4):
        assert_finished(study, number)
    table = read_ledger(study.folder.ledger)
    assert (table["seconds"] >= 0).all()
    seconds = table.groupby("purpose")["seconds"].sum()
    assert 0 < seconds["wall"] <= elapsed
    assert seconds.drop(["wall", "reserved"]).sum() <= seconds["reserved"] <= 2 * elapsed


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


class FillsDisk(Listener):
    """Takes the last byte of a disk when the driver hears of an epoch."""

    def __init__(self, disk: Path, place: tuple[int, int, int]) -> None:
        super().__init__()
        self.filler = disk / "filler"
        self._place = place

    def epoch_ended(self, report: EpochReport) -> None:
        super().epoch_ended(report)
        if (report.number, report.fold, report.epoch) == self._place:
            with self.filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while file.write(b"x" * 4096):
                    pass


@pytest.mark.slow("four searches; test_controller and test_disk fill a disk without Ray")
@pytest.mark.parametrize(
    "place", [(1, 1, EPOCHS), (1, 0, 1)], ids=["the driver notices first", "a worker notices first"]
)
def test_a_full_disk_halts_the_search_and_with_more_room_it_goes_on(
    ray_on_loopback: None, study_file: Path, small_disk: Path, place: tuple[int, int, int]
):
    plan = read_plan(study_file)
    study = make_study(small_disk, n_trials=3, marks=small_disk.parent)
    listener = FillsDisk(small_disk, place)
    controller = study.search(listener, slots=1)
    assert "No space left on device" in controller.halted
    with pytest.raises(RunError, match="the disk is full"):
        settle_end(OpenStudy(plan=plan, folder=study.folder, stores=small_disk), controller)
    assert {record.state for record in listener.ended} <= {"finished", "paused"}

    listener.filler.unlink()
    study.search(Listener(), slots=1)
    for number in range(3):
        assert_finished(study, number)
    assert optuna_states(study) == ["COMPLETE"] * 3


@pytest.mark.slow("a whole search; test_broker plays sixty trials beside a node that cannot train")
def test_sixty_trials_on_a_node_that_cannot_train_stop_with_its_reason_and_none_is_lost(
    ray_on_loopback: None, tmp_path: Path
):
    study, listener = make_study(tmp_path, n_trials=60), Listener()
    with pytest.raises(ClusterError, match=r"No node can train\. The last one, 127\.0\.0\.2, says: no images here"):
        study.search(listener, slots=2, prove=refuse_to_train)
    assert {record.state for record in read_trials(study.folder).values()} == {"paused"}
    assert [note for note in listener.notes if "127.0.0.2 is left out, since it cannot train: no images here" in note]


def refuse_to_train(alive: object) -> None:
    raise NodeFault("no images here")
