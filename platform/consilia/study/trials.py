"""A study's trials as its files show them, while a search may be writing: nothing is asked of any process."""

import errno
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from consilia.config.record_files import read_fold_result, read_trial
from consilia.config.records import FoldResult, TrialRecord
from consilia.config.study import StudyPlan
from consilia.config.study_folder import FoldFolder, StudyFolder
from consilia.errors import StudyError
from consilia.metrics.scores import METRICS
from consilia.report.trials import Place, TrialBoard, TrialRow, board_columns, board_rows
from consilia.study.folder import is_held
from consilia.train.tables import read_history
from consilia.tune.stored import leaderboard, read_confirmations

if TYPE_CHECKING:
    import pandas as pd

Content = TypeVar("Content")


class TrialReader:
    """Reads a study's trials again and again; a file that has not been replaced is not read twice.

    Writers rename whole files into place, so a file is read as it was before or as it is after, never half.

    Args:
        plan: The study's.
        folder: Where it lies.
        elsewhere: Says whether a process on another machine works in it; None: none can.
    """

    def __init__(self, plan: StudyPlan, folder: StudyFolder, *, elsewhere: Callable[[], bool] | None = None) -> None:
        self._plan = plan
        self._folder = folder
        self._elsewhere = elsewhere or (lambda: False)
        self._read: dict[Path, tuple[tuple[int, ...], object]] = {}  # by file: what told its version, its content

    def __call__(self) -> TrialBoard:
        """Return all trials as they stand now.

        Raises:
            StudyError: A trial.json is damaged; names it.
        """
        # Asked before files are read: a search that ends in between has written them all.
        held = is_held(self._folder) or self._elsewhere()
        paths = self._folder.trials.glob("*/trial.json")
        found = [record for record in (self._fresh(path, read_trial) for path in paths) if record is not None]
        records = {record.number: record for record in sorted(found, key=lambda record: record.number)}
        best = leaderboard(records, metric=self._plan.search.metric)
        ranked = {record.number for record in best}
        others = [record for record in records.values() if record.number not in ranked]
        return TrialBoard(
            study=self._plan.name,
            metric=self._plan.search.metric,
            n_trials=self._plan.search.trials,
            n_folds=self._plan.folds.k,
            epochs=self._plan.training.epochs,
            is_held=held,
            rows=tuple(self._row(record, held) for record in (*best, *others)),
            confirmations=tuple(read_confirmations(self._folder, best, plan=self._plan)),
        )

    def _row(self, record: TrialRecord, held: bool) -> TrialRow:
        if record.has_ended:
            return TrialRow(record=record, state=record.state)
        folds = [self._folder.trial(record.number).fold(fold) for fold in range(self._plan.folds.k)]
        results = tuple(self._results(folds))
        state = "interrupted" if record.state == "running" and not held else record.state
        place = self._place(len(results), folds[len(results)]) if len(results) < len(folds) else None
        return TrialRow(record=replace(record, folds=results), state=state, place=place)

    def _results(self, folds: Iterable[FoldFolder]) -> Iterable[FoldResult]:
        for fold in folds:
            result = self._fresh(fold.result, read_fold_result)
            if result is None:
                return
            yield result

    def _place(self, number: int, fold: FoldFolder) -> Place:
        try:
            history = self._fresh(fold.history, lambda path: (read_history(path), path.stat().st_mtime))
        except StudyError:
            history = None  # a damaged history is replaced when the fold is trained again
        if history is None:
            return Place(fold=number)
        epochs, updated = history
        scores = epochs[self._plan.search.metric].dropna()
        score = None if scores.empty else float(scores.iloc[-1])
        return Place(fold=number, epoch=int(epochs["epoch"].iloc[-1]), score=score, updated=updated)

    def _fresh(self, path: Path, read: Callable[[Path], Content]) -> Content | None:
        """Return what `path` holds, or None if it is not there, not yet or not any more."""
        try:
            status = path.stat()
            version = (status.st_ino, status.st_mtime_ns, status.st_size)
            if path not in self._read or self._read[path][0] != version:
                self._read[path] = version, read(path)
        except (OSError, StudyError) as error:
            reason = error if isinstance(error, OSError) else error.__cause__
            if isinstance(reason, OSError) and reason.errno in (errno.ENOENT, errno.ESTALE):
                return None
            raise
        return self._read[path][1]  # type: ignore[return-value] # one path is always read by the same function


def trials_frame(board: TrialBoard) -> "pd.DataFrame":
    """Return one row a trial, in the board's order, with the columns of `report.trials.board_columns`."""
    import pandas as pd

    return pd.DataFrame(board_rows(board), columns=board_columns(board))


def history_frame(plan: StudyPlan, folder: StudyFolder, number: int) -> "pd.DataFrame":
    """Return one row an epoch and fold of a trial; see `Study.history`.

    Raises:
        StudyError: There is no such trial, or a history is damaged; names it.
    """
    import pandas as pd

    trial = folder.trial(number)
    if not trial.record.is_file():
        known = sorted(int(path.parent.name) for path in folder.trials.glob("*/trial.json"))
        found = f"its trials are {known[0]} ... {known[-1]}" if known else "it has no trials yet"
        raise StudyError(f"{folder.root} has no trial {number}; {found}.")
    files = {fold: trial.fold(fold).history for fold in range(plan.folds.k)}
    tables = [read_history(file).assign(fold=fold) for fold, file in files.items() if file.is_file()]
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    return table.reindex(columns=HISTORY_COLUMNS)


HISTORY_COLUMNS = ["fold", "epoch", "train_loss", "lr", "seconds", "images", *METRICS]
"""Of `history_frame`; the metrics are those of the validation fold."""
