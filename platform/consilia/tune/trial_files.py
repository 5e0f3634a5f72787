"""A trial's files on the node that trains it, and the same on the driver's disk, where they are kept.

What a trial goes on from is fetched before it starts. A fold's files are sent when it is finished, before anybody hears
of it; the checkpoint of an open one now and then while the training goes on, and once more when the trial is left.
Nothing of it stays on the node.
"""

import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from consilia.config.records import ALL_FOLDS, EpochReport
from consilia.config.study_folder import FoldFolder, TrialFolder
from consilia.train.pace import Pace
from consilia.tune.driver_disk import Disk, fetch_file, send_file


class TrialFiles:
    """Files of one trial, or of its refit, for as long as this process trains it.

    Args:
        here: Its folder on this node; there is none yet.
        there: Its folder on the driver's.
        disk: The driver's.
        folds: What it trains: fold numbers, or ALL_FOLDS alone.
        clock: Seconds; never jumps.
    """

    def __init__(
        self,
        here: TrialFolder,
        there: TrialFolder,
        disk: Disk,
        *,
        folds: tuple[int, ...],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._disk = disk
        self._folds = {fold: (_folder(here, fold), _folder(there, fold)) for fold in folds}
        self._root = here.root
        self._pace = Pace(clock)
        self._known: dict[Path, int] = {}  # files that the driver has as they are here: time of change, ns
        self._background = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._sending: Future[None] | None = None

    def fetch(self, alive: Callable[[], object]) -> None:
        """Fetch what earlier workers have left, weights and predictions apart.

        Args:
            alive: Called again and again.

        Raises:
            OSError: It cannot be read there, or not be written here.
        """
        shutil.rmtree(self._root, ignore_errors=True)
        pairs = {
            there: here
            for mine, theirs in self._folds.values()
            for there, here in (
                (theirs.history, mine.history),
                (theirs.checkpoint, mine.checkpoint),
                (theirs.result, mine.result),
            )
        }
        for there, size in self._disk.sizes(pairs).items():
            here = pairs[there]
            here.parent.mkdir(parents=True, exist_ok=True)
            fetch_file(self._disk, there, here, size=size, alive=alive)
            self._known[here] = here.stat().st_mtime_ns

    def before(self, report: Callable[[EpochReport], None]) -> Callable[[EpochReport], None]:
        """Return a listener that sends an epoch's files, where it is time to, before `report` hears of it."""

        def send_and_report(message: EpochReport) -> None:
            self._send_epoch(message.fold)
            report(message)

        return send_and_report

    def leave(self, *, is_over: bool = False) -> None:
        """Send what has not been sent, so that any worker can go on from here, and delete all of it.

        Args:
            is_over: No worker will: histories are kept there, checkpoints and weights are not.

        Raises:
            DiskFullError: The driver's disk is full.
            OSError: It cannot be written.
        """
        try:
            self._await_background()
            for fold, (mine, theirs) in self._folds.items():
                if is_over:
                    self._send(mine.history, theirs.history)
                    self._disk.remove(theirs.checkpoint)
                    self._disk.remove(theirs.weights)
                elif mine.root.exists():
                    self._send_fold(fold)
        finally:
            self._background.shutdown()
            shutil.rmtree(self._root, ignore_errors=True)

    def _send_epoch(self, fold: int) -> None:
        mine, _ = self._folds[fold]
        if self._is_new(mine.result):
            self._await_background()
            self._send_fold(fold)
            shutil.rmtree(mine.root)
        elif self._pace.is_due and (self._sending is None or self._sending.done()):
            self._await_background()
            self._sending = self._background.submit(self._send_open, fold)

    def _await_background(self) -> None:
        """Wait for the checkpoint that is being sent, and raise what kept it from being."""
        sending, self._sending = self._sending, None
        if sending is not None:
            sending.result()

    def _send_fold(self, fold: int) -> None:
        """Send what is new: the result last, since a fold that has it is finished."""
        mine, theirs = self._folds[fold]
        if mine.result.exists():
            for here, there in ((mine.weights, theirs.weights), (mine.oof, theirs.oof), (mine.history, theirs.history)):
                self._send(here, there)
            self._send(mine.result, theirs.result)
        else:
            self._send_open(fold)
        if mine.checkpoint in self._known and not mine.checkpoint.exists():
            self._disk.remove(theirs.checkpoint)

    def _send_open(self, fold: int) -> None:
        """Send how far a fold is; where it is finished meanwhile, its checkpoint is gone."""
        mine, theirs = self._folds[fold]
        with self._pace.taken(), suppress(FileNotFoundError):
            self._send(mine.history, theirs.history)
            self._send(mine.checkpoint, theirs.checkpoint)

    def _send(self, here: Path, there: Path) -> None:
        from consilia.train.faults import writing  # with torch, which workers have imported

        if self._is_new(here):
            changed = here.stat().st_mtime_ns
            with writing(there):
                send_file(self._disk, here, there, upload=uuid4().hex[:12])
            self._known[here] = changed

    def _is_new(self, here: Path) -> bool:
        return here.exists() and self._known.get(here) != here.stat().st_mtime_ns


def _folder(trial: TrialFolder, fold: int) -> FoldFolder:
    return trial.refit if fold == ALL_FOLDS else trial.fold(fold)
