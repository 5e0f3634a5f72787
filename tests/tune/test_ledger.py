"""The account of a search, on a clock that the test moves."""

import ast
import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_records import epoch

import consilia
from consilia.config.records import EpochReport
from consilia.errors import StudyError
from consilia.tune import ledger as ledger_module
from consilia.tune.ledger import NOBODY, Ledger, device_seconds, read_ledger, seconds_by_purpose


class Clock:
    """Moves when the test says so."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


def report(number: int, fold: int, at: int, seconds: float, *, is_repeat: bool = False) -> EpochReport:
    return replace(epoch(number, fold, at, 0.5), seconds=seconds, is_repeat=is_repeat)


def totals(ledger: Ledger, path: Path) -> dict[str, float]:
    ledger.write()
    return seconds_by_purpose(read_ledger(path))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.parquet"


def test_every_second_of_an_undisturbed_trial_has_its_purpose(clock: Clock, path: Path):
    ledger = Ledger(path, clock=clock)
    ledger.reserve(1)
    clock.wait(2)  # nobody has the slot
    ledger.begin(0)
    clock.wait(3)
    ledger.taken(0)
    clock.wait(10)
    ledger.heard(report(0, 0, 1, 9.0))
    clock.wait(10)
    ledger.heard(report(0, 0, 2, 9.5))
    clock.wait(0.5)
    ledger.end(0, "finished")
    ledger.reserve(0)
    spent = totals(ledger, path)
    expected = {"start-up": 3.0, "useful": 18.5, "overhead": 2.0, "idle": 2.0, "reserved": 25.5, "wall": 25.5}
    assert spent == pytest.approx(expected)


def test_epochs_are_taken_down_by_trial_and_fold(clock: Clock, path: Path):
    ledger = Ledger(path, clock=clock)
    ledger.reserve(2)
    for number in (3, 4):
        ledger.begin(number)
        ledger.taken(number)
    for fold, seconds in ((0, 4.0), (1, 5.0)):
        clock.wait(seconds)
        for number in (3, 4):
            ledger.heard(report(number, fold, 1, seconds))
    ledger.end(3, "finished")
    ledger.end(4, "stopped")
    ledger.write()
    rows = read_ledger(path).query("trial >= 0")
    assert {(row.trial, row.fold, row.purpose): row.seconds for row in rows.itertuples()} == {
        (3, 0, "useful"): 4.0,
        (3, 1, "useful"): 5.0,
        (4, 0, "stopped"): 4.0,
        (4, 1, "stopped"): 5.0,
    }


@pytest.mark.parametrize(
    ("state", "epochs_are", "the_rest_is"),
    [
        ("finished", "useful", "overhead"),
        ("paused", "useful", "lost"),  # what was trained since the last checkpoint
        ("stopped", "stopped", "overhead"),
        ("failed", "failed", "failed"),
    ],
)
def test_the_end_of_a_trial_tells_what_its_time_was_for(state, epochs_are: str, the_rest_is: str, path: Path):
    clock = Clock()
    ledger = Ledger(path, clock=clock)
    ledger.reserve(1)
    ledger.begin(0)
    ledger.taken(0)
    clock.wait(8)
    ledger.heard(report(0, 0, 1, 8.0))
    clock.wait(3)
    ledger.end(0, state)
    ledger.reserve(0)
    spent = totals(ledger, path)
    assert {name: spent[name] for name in spent if name not in ("reserved", "wall", "idle")} == pytest.approx(
        {epochs_are: 11.0} if epochs_are == the_rest_is else {epochs_are: 8.0, the_rest_is: 3.0}
    )


def test_the_time_of_a_lost_worker_is_lost_and_what_it_had_finished_is_not(clock: Clock, path: Path):
    ledger = Ledger(path, clock=clock)
    ledger.reserve(1)
    ledger.begin(0)
    ledger.taken(0)
    clock.wait(8)
    ledger.heard(report(0, 0, 1, 8.0))
    clock.wait(6)  # in the middle of an epoch it is killed, and another one starts
    ledger.taken(0)
    clock.wait(1)
    ledger.heard(report(0, 0, 1, 8.0, is_repeat=True))  # it only says again what is stored
    clock.wait(8)
    ledger.heard(report(0, 0, 2, 8.0))
    ledger.end(0, "finished")
    ledger.reserve(0)
    spent = totals(ledger, path)
    assert spent == pytest.approx(
        {"useful": 16.0, "lost": 6.0, "overhead": 1.0, "idle": 0.0, "reserved": 23.0, "wall": 23.0}
    )


def test_the_wait_for_another_slot_is_lost_and_that_for_the_first_is_not(clock: Clock, path: Path):
    ledger = Ledger(path, clock=clock)
    ledger.reserve(1)
    for wait in (3, 5, 7):  # two slots die while they start
        ledger.begin(0)
        clock.wait(wait)
        if wait < 7:
            ledger.lost(0)
    ledger.taken(0)
    clock.wait(2)  # the third dies in the middle of an epoch
    ledger.lost(0)
    ledger.begin(0)
    clock.wait(11)
    ledger.taken(0)
    ledger.end(0, "finished")
    ledger.begin(0)
    clock.wait(13)
    ledger.taken(0)  # nothing was lost since it was taken up
    ledger.reserve(0)
    spent = totals(ledger, path)
    assert (spent["start-up"], spent["lost"], spent["idle"]) == (3.0 + 13.0, 5.0 + 7.0 + 2.0 + 11.0, 0.0)


def test_what_a_killed_driver_had_under_way_is_lost_and_so_is_the_wait_of_the_next(clock: Clock, path: Path):
    ledger = Ledger(path, clock=clock)
    ledger.reserve(1)
    ledger.begin(0)
    ledger.taken(0)
    clock.wait(4)
    ledger.heard(report(0, 0, 1, 4.0))
    clock.wait(11)
    ledger.reserve(1)  # is written, since the last time was long ago; then the driver is killed
    again = Ledger(path, clock=clock)
    again.lost(0)
    again.reserve(1)
    again.begin(0)
    clock.wait(6)
    again.taken(0)
    again.reserve(0)
    spent = totals(again, path)
    assert spent == pytest.approx({"useful": 4.0, "lost": 11.0 + 6.0, "reserved": 21.0, "wall": 21.0, "idle": 0.0})


def test_an_epoch_never_takes_longer_than_the_driver_waited(clock: Clock, path: Path):
    ledger = Ledger(path, clock=clock)
    ledger.reserve(1)
    ledger.begin(0)
    ledger.taken(0)
    clock.wait(5)
    ledger.heard(report(0, 0, 1, 1e6))
    ledger.end(0, "finished")
    ledger.reserve(0)
    assert totals(ledger, path)["useful"] == 5.0


def test_devices_of_a_slot_multiply_its_seconds(clock: Clock, path: Path):
    ledger = Ledger(path, devices=0.25, clock=clock)
    ledger.reserve(4)
    ledger.begin(0)
    ledger.begin(1, devices=1.0)
    for number in (0, 1):
        ledger.taken(number)
    clock.wait(8)
    for number in (0, 1):
        ledger.heard(report(number, 0, 1, 8.0))
        ledger.end(number, "finished")
    assert (ledger.devices_held, ledger.device_seconds, ledger.wall_seconds) == (1.0, 8.0, 8.0)
    ledger.write()
    useful = read_ledger(path).query("purpose == 'useful'")
    assert dict(zip(useful["trial"], useful["device_seconds"], strict=True)) == {0: 2.0, 1: 8.0}


def test_devices_of_slots_may_change_with_the_slots(clock: Clock, path: Path):
    devices = [0.25, 0.5]
    ledger = Ledger(path, devices=lambda: devices[0], clock=clock)
    ledger.reserve(4)
    clock.wait(10)
    devices.pop(0)  # a node has joined whose slots are larger
    ledger.reserve(6)
    clock.wait(10)
    assert (ledger.devices_held, ledger.device_seconds) == (3.0, 4 * 0.25 * 10 + 6 * 0.5 * 10)


def test_slots_that_come_and_go_are_counted_while_they_are_held(clock: Clock, path: Path):
    ledger = Ledger(path, clock=clock)
    for n_slots, seconds in ((0, 7.0), (2, 10.0), (2, 10.0), (5, 1.0), (1, 3.0), (0, 100.0)):
        ledger.reserve(n_slots)
        clock.wait(seconds)
    assert ledger.device_seconds == 2 * 20 + 5 + 3
    assert ledger.wall_seconds == 131.0


def test_runs_add_up(clock: Clock, path: Path):
    for run in range(3):
        ledger = Ledger(path, devices=2.0, clock=clock)
        assert (ledger.wall_seconds, ledger.device_seconds) == (10.0 * run, 20.0 * run)
        ledger.reserve(1)
        ledger.begin(0)
        ledger.taken(0)
        clock.wait(10)
        ledger.heard(report(0, run, 1, 10.0))
        ledger.end(0, "paused")
        ledger.reserve(0)
        ledger.write()
        clock.wait(1e6)  # nothing runs: this time is nobody's
    table = read_ledger(path)
    assert seconds_by_purpose(table) == pytest.approx({"useful": 30.0, "reserved": 30.0, "wall": 30.0, "idle": 0.0})
    assert device_seconds(table) == pytest.approx(60.0)
    assert table.query("purpose == 'useful'")[["run", "fold"]].to_numpy().tolist() == [[0, 0], [1, 1], [2, 2]]


def test_another_boot_starts_the_clock_anew_and_takes_nothing_back(path: Path):
    for now in (50_000.0, 3.0):
        clock = Clock(now)
        ledger = Ledger(path, clock=clock)
        ledger.reserve(1)
        clock.wait(10)
        ledger.reserve(0)
        ledger.write()
    assert Ledger(path, clock=Clock(0.0)).wall_seconds == 20.0


def test_a_killed_driver_loses_no_more_than_seconds_of_the_account(clock: Clock, path: Path):
    ledger = Ledger(path, clock=clock)
    ledger.reserve(1)
    ledger.begin(0)
    ledger.taken(0)
    for number in range(1, 101):  # one long trial, and the driver is killed before it ends
        clock.wait(6)
        ledger.heard(report(0, 0, number, 6.0))
    again = Ledger(path, clock=clock)
    assert 580 <= again.wall_seconds <= 600
    spent = seconds_by_purpose(read_ledger(path))
    assert spent["useful"] == spent["reserved"] == again.device_seconds


def test_a_write_in_between_counts_nothing_twice(clock: Clock, path: Path):
    ledger = Ledger(path, clock=clock)
    ledger.reserve(1)
    ledger.begin(0)
    ledger.taken(0)
    clock.wait(5)
    ledger.heard(report(0, 0, 1, 5.0))
    ledger.write()
    ledger.write()
    ledger.end(0, "stopped")
    ledger.reserve(0)
    spent = totals(ledger, path)
    assert spent == {"stopped": 5.0, "reserved": 5.0, "wall": 5.0, "idle": 0.0}


def test_a_ledger_in_which_nothing_happened_keeps_what_was_there(clock: Clock, path: Path):
    Ledger(path, clock=clock).write()
    assert len(read_ledger(path)) == 0
    ledger = Ledger(path, clock=clock)
    ledger.reserve(1)
    clock.wait(5)
    ledger.reserve(0)
    ledger.write()
    before = read_ledger(path)
    Ledger(path, clock=clock).write()
    assert read_ledger(path).equals(before)


def test_trials_that_nobody_began_are_no_business_of_the_ledger(clock: Clock, path: Path):
    ledger = Ledger(path, clock=clock)
    clock.wait(5)
    ledger.taken(0)
    ledger.heard(report(0, 0, 1, 5.0))
    ledger.end(0, "finished")
    ledger.write()
    assert len(read_ledger(path)) == 0


def test_a_full_disk_keeps_the_account_for_the_next_write(clock: Clock, path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    ledger = Ledger(path, clock=clock)
    ledger.reserve(1)
    clock.wait(5)
    ledger.reserve(0)
    with monkeypatch.context() as patch:
        patch.setattr(ledger_module, "write_atomically", fail)
        ledger.write()
    assert not path.exists()
    assert totals(ledger, path)["wall"] == 5.0


def test_a_damaged_ledger_is_refused_by_name(path: Path):
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(StudyError, match=r"ledger\.parquet must be a readable Parquet file"):
        Ledger(path)


Event = tuple[str, int, float]


@settings(derandomize=True)
@given(
    events=st.lists(
        st.tuples(
            st.sampled_from(
                ["begin", "taken", "heard", "repeat", "finished", "paused", "stopped", "failed", "lost", "write"]
            ),
            st.integers(0, 3),
            st.floats(0, 100),
        ),
        max_size=60,
    )
)
def test_whatever_happens_the_parts_and_the_idle_time_are_the_reserved_time(events: list[Event], tmp_path_factory):
    """Four slots, each with its own trial; a trial begins only in a slot that is free."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.parquet"
    clock = Clock()
    ledger = Ledger(path, clock=clock)
    ledger.reserve(4)
    began: dict[int, float] = {}
    held = 0.0
    for what, number, seconds in events:
        clock.wait(seconds)
        if what == "write":
            ledger.write()
        elif what == "begin" and number not in began:
            ledger.begin(number)
            began[number] = clock.now
        elif what == "taken":
            ledger.taken(number)
        elif what in ("heard", "repeat"):
            ledger.heard(report(number, 0, 1, 20.0, is_repeat=what == "repeat"))
        elif what != "begin":
            ledger.lost(number) if what == "lost" else ledger.end(number, what)
            held += clock.now - began.pop(number, clock.now)
    for number in began:
        ledger.end(number, "paused")
        held += clock.now - began[number]
    ledger.reserve(0)
    spent = totals(ledger, path)
    parts = sum(seconds for name, seconds in spent.items() if name not in ("reserved", "wall", "idle"))
    elapsed = sum(seconds for _, _, seconds in events)
    assert parts == pytest.approx(held)
    assert parts + spent["idle"] == pytest.approx(spent.get("reserved", 0.0))
    assert spent.get("reserved", 0.0) == pytest.approx(4 * elapsed)
    table = read_ledger(path)
    assert (table["seconds"] > 0).all()
    assert set(table.loc[table["trial"] == NOBODY, "purpose"]) <= {"reserved", "wall"}


@pytest.mark.parametrize("package", ["tune", "train"])
def test_no_duration_is_read_from_a_clock_that_may_jump(package: str):
    """time.time and datetime.now follow the date, which people and NTP set; monotonic clocks do not."""
    jumping = {
        "time.time",
        "time.time_ns",
        "datetime.now",
        "datetime.utcnow",
        "datetime.today",
        "datetime.datetime.now",
    }
    files = sorted((Path(consilia.__file__).parent / package).rglob("*.py"))
    assert files
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        names = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        imported = {
            f"{node.module}.{alias.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        assert not (names | imported) & jumping, file


def test_time_before_any_worker_took_the_trial_is_start_up_however_the_trial_ends(clock: Clock, path: Path):
    ledger = Ledger(path, clock=clock)
    ledger.reserve(1)
    ledger.begin(0)
    clock.wait(57)
    ledger.end(0, "paused")
    ledger.reserve(0)
    assert totals(ledger, path)["start-up"] == pytest.approx(57)
    assert "lost" not in totals(ledger, path)
