"""Training on a node that need not see the driver's disk: what a search, or its refits, let workers run.

The trainer itself works on files, as it does in one process. Here it is given this node's: a copy of the images and of
the pretrained weights, which all workers of the node share, and a folder for its trials.
"""

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consilia.config.record_files import read_weights_notes
from consilia.config.records import TrialOutcome, TrialTask
from consilia.config.study import WeightsSource
from consilia.config.study_folder import StudyFolder
from consilia.data.store.image_store import INDEX, MANIFEST, PIXELS, read_manifest
from consilia.errors import DataError, NodeFault
from consilia.files import sha256_of_json
from consilia.train.context import TrainingContext
from consilia.train.networks.weights import find_weights, fingerprint
from consilia.train.tasks import prove
from consilia.tune.broker import StopCause
from consilia.tune.driver_disk import Disk
from consilia.tune.scratch import SCRATCH, Scratch
from consilia.tune.trial_files import TrialFiles

if TYPE_CHECKING:
    from consilia.train.distributed import Group

logger = logging.getLogger(__name__)

Alive = Callable[[], object]  # called again and again by what takes long


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A file of pretrained weights on the driver's node."""

    path: Path
    size: int  # bytes
    changed: int  # ns
    fingerprint: str  # as of `train.networks.weights.fingerprint`

    def is_here(self) -> bool:
        """Say whether this node has the same file at the same path."""
        try:
            found = self.path.stat()
        except OSError:
            return False
        is_same = (found.st_size, found.st_mtime_ns) == (self.size, self.changed)
        return is_same or fingerprint(self.path) == self.fingerprint


@dataclass(slots=True, kw_only=True, eq=False)
class FarTraining:
    """A trainer and its context, carried to the workers.

    Args:
        train: `train.tasks.train_trial` or `train_refit`.
        context: The driver's: its paths are of the driver's node.
        folds: What a task trains: fold numbers, or ALL_FOLDS alone.
        weights: The files of pretrained weights that networks may start from.
        disk: The driver's.
    """

    train: Callable[..., TrialOutcome]
    context: TrainingContext
    folds: tuple[int, ...]
    weights: tuple[WeightsFile, ...]
    disk: Disk
    _here: TrainingContext | None = field(default=None, init=False)  # with paths of this node

    def prove(self, alive: Alive) -> None:
        """Fetch what this node does not have, and try what every trial takes for granted.

        Args:
            alive: Called again and again.

        Raises:
            NodeFault: No trial can run on this node; says what failed.
        """
        self._here = self._on_this_node(alive)
        prove(context=self._here)

    def run(
        self,
        task: TrialTask,
        *,
        report: Callable[..., None],
        stopped: Callable[[], StopCause | None],
        group: "Group | None" = None,
    ) -> TrialOutcome:
        """Train a task on this node, and send its files to the driver's disk.

        Args:
            task: Of the trial.
            report: As of the trainer; it hears of a fold once the driver has its files.
            stopped: Why the trial is to be left, or None; of one that is over, nothing is kept but what its finished
                folds and epochs have told.
            group: The workers that train it together; None: this one alone.

        Raises:
            NodeFault: This node's disk is full.
        """
        here = self._here = self._here or self._on_this_node(stopped)
        named: dict[str, Any] = {"context": here, "stopped": lambda: bool(stopped())}
        if group is not None:
            named["group"] = group
        if group is not None and group.rank > 0:  # it writes no file
            return _of_this_node(self.train(task, report=report, **named))
        there = self.context.trial(task.number)
        files = TrialFiles(here.trial(task.number), there, self.disk, folds=self.folds)
        try:
            files.fetch(stopped)
            outcome = self.train(task, report=files.before(report), **named)
        except BaseException:
            _leave(files, task)
            raise
        return _of_this_node(_leave(files, task, is_over=stopped() == "over") or outcome)

    def _on_this_node(self, alive: Alive) -> TrainingContext:
        scratch, trials = _scratch()
        store, digest = self.context.store_folder, self.context.folds.store_digest
        if not _is_store(store, digest):
            store = _copy(scratch, digest, {name: store / name for name in (MANIFEST, INDEX, PIXELS)}, self.disk, alive)
        weights = self.context.weights
        if not all(file.is_here() for file in self.weights):
            files = {file.path.name: file.path for file in self.weights}
            prints = sha256_of_json({file.path.name: file.fingerprint for file in self.weights})
            weights = WeightsSource(kind="folder", path=_copy(scratch, prints, files, self.disk, alive))
        return replace(self.context, store_folder=store, weights=weights, trials=trials)


def weights_files(context: TrainingContext, folder: StudyFolder) -> tuple[WeightsFile, ...]:
    """Return the files that a study's networks start from, as the study has noted them."""
    if context.weights.path is None:
        return ()
    notes = read_weights_notes(folder.weights)
    found = {name: find_weights(name, context.weights) for name in sorted(notes)}
    stats = [(path, path.stat(), notes[name]) for name, path in found.items() if path is not None]
    return tuple(WeightsFile(path, stat.st_size, stat.st_mtime_ns, note) for path, stat, note in stats)


@functools.cache
def _scratch() -> tuple[Scratch, Path]:
    """Return this process's scratch, and the folder of its trials."""
    scratch = Scratch()
    return scratch, scratch.make_trials()


def _is_store(folder: Path, digest: str) -> bool:
    try:
        return read_manifest(folder / MANIFEST).digest == digest
    except DataError:
        return False


def _copy(scratch: Scratch, digest: str, files: Mapping[str, Path], disk: Disk, alive: Alive) -> Path:
    sizes = disk.sizes(files.values())
    if missing := [str(path) for path in files.values() if path not in sizes]:
        raise NodeFault(f"neither this node nor the driver's has {', '.join(missing)}")
    try:
        return scratch.copy(digest, {name: (path, sizes[path]) for name, path in files.items()}, disk, alive=alive)
    except OSError as error:
        raise NodeFault(f"{', '.join(map(str, files.values()))} cannot be fetched: {error}") from error


def _leave(files: TrialFiles, task: TrialTask, *, is_over: bool = False) -> TrialOutcome | None:
    """Send the rest of a trial's files; where that fails, return the outcome that the trial has for it."""
    from consilia.train.faults import DiskFullError

    try:
        files.leave(is_over=is_over)
    except DiskFullError as error:
        return TrialOutcome(number=task.number, state="paused", reason=str(error), fault="disk")
    return None


def _of_this_node(outcome: TrialOutcome) -> TrialOutcome:
    """Return the outcome, unless this node's disk is full, which is no reason for others to halt.

    Raises:
        NodeFault: It is.
    """
    if outcome.fault == "disk" and SCRATCH in outcome.reason:
        raise NodeFault(outcome.reason)
    return outcome
