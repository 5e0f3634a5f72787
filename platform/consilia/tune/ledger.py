"""Where the time went: seconds by trial, fold and purpose, over all runs of a study."""

import errno
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pandas as pd

from consilia.config.records import EpochReport, TrialState
from consilia.errors import StudyError
from consilia.files import write_atomically

logger = logging.getLogger(__name__)

Purpose = Literal[
    "useful", "refit", "confirmation", "stopped", "failed", "lost", "start-up", "overhead", "reserved", "wall"
]
"""What seconds went to.

useful: epochs of trials that finished, or are to go on; refit, confirmation: the same of refits and confirmations;
stopped: of trials that racing stopped; failed: of failed ones; lost: computed in vain, because a process died, or
waited until another had taken its trial up; start-up: until a worker took a trial for the first time; overhead: what
lies between epochs (networks, files, messages). These are parts of `reserved`, the time that slots were held, summed
over slots; what is missing to it is idle time. wall is the clock's.
"""

_PURPOSE_OF: Mapping[TrialState, Purpose] = {
    "finished": "useful",
    "paused": "useful",
    "running": "useful",
    "stopped": "stopped",
    "failed": "failed",
}
NOBODY = -1  # the trial, and the fold, of rows that concern all
_COLUMNS = ("run", "trial", "fold", "purpose", "seconds", "device_seconds")
_WRITE_SECONDS = 10.0  # between two writes while the search runs: a killed driver loses no more of the account


@dataclass(slots=True)
class _Timeline:
    """One trial in one slot: when it was last heard of, and how long its epochs took."""

    since: float
    devices: float
    until_taken: Purpose  # what the wait for a worker counts as
    fold: int = 0
    taken: bool = False
    epochs: dict[int, float] = field(default_factory=lambda: defaultdict(float))  # seconds by fold


class Ledger:
    """Keeps the account of this run, adds it to that of earlier runs, and is the one writer of ledger.parquet.

    Args:
        path: The file; None keeps the account in memory.
        devices: GPUs that one slot holds, or CPUs where it holds no GPU. A function where the mean over the slots may
            change, as nodes come and go.
        useful: What epochs of trials that finished, or are to go on, count as.
        clock: Returns seconds and never jumps; tests and simulations pass their own.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        devices: float | Callable[[], float] = 1.0,
        useful: Purpose = "useful",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._devices = devices if callable(devices) else lambda: devices
        self._useful = useful
        self._clock = clock
        self._earlier = read_ledger(path) if path is not None and path.exists() else pd.DataFrame(columns=_COLUMNS)
        self._run = 0 if self._earlier.empty else int(self._earlier["run"].max()) + 1
        self._rows: dict[tuple[int, int, Purpose], tuple[float, float]] = {}
        self._timelines: dict[int, _Timeline] = {}
        self._lost: set[int] = set()  # trials whose slot or driver died, until another worker has taken them up
        self._last = self._last_written = clock()
        self._n_slots, self._devices_held = 0, 0.0

    def begin(self, number: int, *, devices: float | None = None) -> None:
        """A trial was given to a slot, which holds `devices`."""
        held = self._devices() if devices is None else devices
        self._timelines[number] = _Timeline(self._clock(), held, "lost" if number in self._lost else "start-up")

    def taken(self, number: int) -> None:
        """A worker has taken the trial up: for the first time, or because the one before it was lost."""
        timeline = self._timelines.get(number)
        if timeline is not None:
            self._add(number, timeline.fold, timeline.until_taken, self._gap(timeline), timeline)
            timeline.taken, timeline.until_taken = True, "lost"  # if it is taken up again, its worker was lost
            self._lost.discard(number)

    def heard(self, report: EpochReport) -> None:
        """An epoch has ended; one that is only repeated cost nothing but the time to say so."""
        timeline = self._timelines.get(report.number)
        if timeline is None:
            return
        gap = self._gap(timeline)
        computed = 0.0 if report.is_repeat else min(report.seconds, gap)
        timeline.fold = report.fold
        timeline.epochs[report.fold] += computed
        self._add(report.number, report.fold, "overhead", gap - computed, timeline)
        self.reserve(self._n_slots)

    def end(self, number: int, state: TrialState) -> None:
        """A trial has left its slot: now it is known what its epochs were for."""
        timeline = self._timelines.pop(number, None)
        if timeline is None:
            return
        rest: Mapping[TrialState, Purpose] = {"paused": "lost", "failed": "failed"}
        purpose = rest.get(state, "overhead") if timeline.taken else timeline.until_taken
        self._add(number, timeline.fold, purpose, self._gap(timeline), timeline)
        for fold, seconds in timeline.epochs.items():
            self._add(number, fold, self._purpose_of(state), seconds, timeline)

    def lost(self, number: int) -> None:
        """A trial's slot or driver has died: what it did last is lost, and so is the wait for another worker."""
        self._lost.add(number)
        self.end(number, "paused")

    def reserve(self, n_slots: int) -> None:
        """Record how many slots are held from now on, and write the file if the last time was a while ago."""
        now = self._clock()
        elapsed = now - self._last
        self._last = now
        self._increase(NOBODY, NOBODY, "wall", elapsed, 0.0)
        self._increase(NOBODY, NOBODY, "reserved", self._n_slots * elapsed, self._devices_held * elapsed)
        self._n_slots, self._devices_held = n_slots, n_slots * self._devices() if n_slots else 0.0
        if now - self._last_written > _WRITE_SECONDS:
            self.write()

    @property
    def wall_seconds(self) -> float:
        """Of this run and all earlier ones."""
        return self._total("wall", "seconds", 0) + self._clock() - self._last

    @property
    def device_seconds(self) -> float:
        """Reserved by this run and all earlier ones."""
        since = self._clock() - self._last
        return self._total("reserved", "device_seconds", 1) + self.devices_held * since

    @property
    def devices_held(self) -> float:
        """By all slots together, now."""
        return self._devices_held

    def table(self) -> pd.DataFrame:
        """Return the account of all runs, with the columns of ledger.parquet.

        It is what holds if the driver is killed now: the next run goes on with the epochs of trials under way, which
        are useful, and what they have done since is lost.
        """
        rows = self._rows.copy()
        for number, timeline in self._timelines.items():
            open_rows: list[tuple[int, Purpose, float]] = [(f, self._useful, s) for f, s in timeline.epochs.items()]
            rest: Purpose = "lost" if timeline.taken else timeline.until_taken
            since = max(0.0, self._last - timeline.since)
            for fold, purpose, seconds in [*open_rows, (timeline.fold, rest, since)]:
                before, devices_before = rows.get((number, fold, purpose), (0.0, 0.0))
                rows[number, fold, purpose] = (before + seconds, devices_before + seconds * timeline.devices)
        here = [(self._run, *key, *amounts) for key, amounts in sorted(rows.items()) if amounts[0] > 0]
        earlier = list(self._earlier.itertuples(index=False, name=None))
        return pd.DataFrame([*earlier, *here], columns=list(_COLUMNS))

    def write(self) -> None:
        """Write the account; where the disk is full it stays in memory, and the next write tries again."""
        self._last_written = self._clock()
        if self._path is None:
            return
        table = self.table()
        try:
            write_atomically(self._path, lambda temporary: table.to_parquet(temporary, index=False))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            logger.warning("%s could not be written: %s", self._path, error)

    def _purpose_of(self, state: TrialState) -> Purpose:
        purpose = _PURPOSE_OF[state]
        return self._useful if purpose == "useful" else purpose

    def _gap(self, timeline: _Timeline) -> float:
        now = self._clock()
        gap, timeline.since = now - timeline.since, now
        return gap

    def _add(self, trial: int, fold: int, purpose: Purpose, seconds: float, timeline: _Timeline) -> None:
        self._increase(trial, fold, purpose, seconds, seconds * timeline.devices)

    def _increase(self, trial: int, fold: int, purpose: Purpose, seconds: float, device_seconds: float) -> None:
        if seconds <= 0:
            return
        before, devices_before = self._rows.get((trial, fold, purpose), (0.0, 0.0))
        self._rows[trial, fold, purpose] = (before + seconds, devices_before + device_seconds)

    def _total(self, purpose: Purpose, column: str, position: int) -> float:
        earlier = self._earlier.loc[self._earlier["purpose"] == purpose, column].sum()
        return float(earlier) + self._rows.get((NOBODY, NOBODY, purpose), (0.0, 0.0))[position]


def read_ledger(path: Path) -> pd.DataFrame:
    """Read ledger.parquet: run, trial, fold, purpose, seconds, device_seconds; trial and fold are -1 for all.

    Raises:
        StudyError: The file is damaged; names it.
    """
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise StudyError(f"{path} must be a readable Parquet file, but: {error}. Restore it, or delete it.") from error
    if list(table.columns) != list(_COLUMNS):
        raise StudyError(f"{path} must have the columns {', '.join(_COLUMNS)}, but has {list(table.columns)}.")
    return table


def seconds_by_purpose(table: pd.DataFrame) -> dict[str, float]:
    """Return the seconds of each purpose, over all runs and trials, and how much of `reserved` was idle."""
    totals = {str(name): float(seconds) for name, seconds in table.groupby("purpose")["seconds"].sum().items()}
    accounted = sum(seconds for name, seconds in totals.items() if name not in ("reserved", "wall"))
    return {**totals, "idle": max(0.0, totals.get("reserved", 0.0) - accounted)}


def device_seconds(table: pd.DataFrame) -> float:
    """Return the seconds of GPUs that slots held over all runs; of CPUs, where they held no GPU."""
    return float(table.loc[table["purpose"] == "reserved", "device_seconds"].sum())
