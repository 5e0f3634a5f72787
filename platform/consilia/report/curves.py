"""Curves for TensorBoard: the study's metric and the training loss of every epoch, by trial and fold.

An epoch is one write to the end of its fold's event file, which is closed again: a search of thousands of trials holds
no file open, and readers have the epoch at once. tensorboardX's SummaryWriter is not used: it holds a thread and three
files for each fold, and when the disk is full its thread dies and the eleventh `add_scalar` after that never returns.

tensorboardX imports torch where it is installed, so `report.event_files` is imported with the first epoch.
"""

import math
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from consilia.config.records import EpochReport, TrialRecord, TrialTask
from consilia.config.study_folder import StudyFolder
from consilia.errors import StudyError
from consilia.train.tables import read_history


class Curves:
    """Writes what a search reports into the study's `tensorboard` folder; a SearchObserver.

    An error never ends a search: the first one is reported, and nothing is written after it.

    Args:
        folder: The study's.
        metric: Name of the study's metric, which is the name of its curve.
        noted: Called with a message if writing fails.
    """

    def __init__(self, folder: StudyFolder, *, metric: str, noted: Callable[[str], None]) -> None:
        self._folder = folder
        self._metric = metric
        self._noted = noted
        self._failed = False
        self._runs: dict[int, Path] = {}  # by running trial
        self._files: dict[tuple[int, int], tuple[Path, int]] = {}  # by trial and fold: event file, last epoch in it

    def search_started(self, *, n_trials: int, n_slots: int, records: tuple[TrialRecord, ...]) -> None:
        """Write nothing yet."""

    def trial_started(self, task: TrialTask) -> None:
        """Name the trial's folder."""
        architecture = re.sub(r"[^\w.-]", "_", task.hyperparameters.architecture)
        self._runs[task.number] = self._folder.tensorboard / f"trial-{task.number}-{architecture}"

    def epoch_ended(self, report: EpochReport) -> None:
        """Append an epoch, unless it is on the curve already."""
        if report.number in self._runs:
            self._try(partial(self._write_epoch, report))

    def trial_ended(self, record: TrialRecord) -> None:
        """Write the trial's hyperparameters and objective, which TensorBoard compares under "HParams"."""
        run = self._runs.pop(record.number, None)
        self._files = {key: file for key, file in self._files.items() if key[0] != record.number}
        if run is not None:
            self._try(partial(self._write_configuration, run, record))

    def noted(self, text: str) -> None:
        """Write nothing: a note is not a curve."""

    def _try(self, write: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            write()
        except Exception as error:  # whatever it is, a search must not end for its curves
            self._failed = True
            self._noted(f"TensorBoard's curves end here, the search goes on: {error}")

    def _write_epoch(self, report: EpochReport) -> None:
        from consilia.report import event_files

        key = (report.number, report.fold)
        values = self._values(report.score, report.train_loss)
        events = [event_files.scalars(report.epoch, values)]
        if key in self._files:
            file, last = self._files[key]
            if report.epoch <= last:
                return
        else:
            file = event_files.new_file(self._runs[report.number] / f"fold-{report.fold}")
            earlier = (event_files.scalars(epoch, values) for epoch, values in self._earlier(report))
            events = [*event_files.opening(1), *earlier, *events]
        event_files.append(file, events)
        self._files[key] = file, report.epoch

    def _earlier(self, report: EpochReport) -> Iterator[tuple[int, dict[str, float]]]:
        """Yield the epochs before the first one that this process hears, from the files of the fold."""
        path = self._folder.trial(report.number).fold(report.fold).history
        if report.epoch == 1 or not path.is_file():
            return
        try:
            rows = read_history(path).to_dict("records")
        except StudyError:
            return  # damaged: the curve starts late, and training reports the damage
        for row in rows:
            if row["epoch"] < report.epoch:
                yield row["epoch"], self._values(row[self._metric], row["train_loss"])

    def _values(self, score: float, train_loss: float) -> dict[str, float]:
        """Return the points of an epoch, which may not have been scored."""
        return {"train_loss": train_loss} if math.isnan(score) else {self._metric: score, "train_loss": train_loss}

    def _write_configuration(self, run: Path, record: TrialRecord) -> None:
        from consilia.report import event_files

        values = record.hyperparameters.model_dump(exclude_none=True)
        score = {} if record.objective is None else {self._metric: record.objective}
        events = [*event_files.opening(0), *event_files.configuration(values, score)]
        if score:
            events.append(event_files.scalars(record.n_folds, score))
        event_files.append(event_files.new_file(run), events)
