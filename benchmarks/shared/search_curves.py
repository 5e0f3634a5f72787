"""Read from a study's folder what a search had found, and when."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from consilia.config.study_folder import StudyFolder
from consilia.data.folds import load_folds
from consilia.train.tables import read_history
from consilia.tune.stored import read_trials

Point = tuple[float, float]  # seconds since the start, and a value


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchCurve:
    """What a search had found at each time until it ended or reached its limit."""

    scores: tuple[Point, ...]  # of fully evaluated trials, as they became known; lower is better
    epochs: tuple[Point, ...]  # every complete epoch, by its end, with the seconds that it took
    n_stopped: int
    n_failed: int
    n_unfinished: int
    seconds: float  # until the last trial ended, or the limit
    folds_digest: str

    @property
    def best_so_far(self) -> tuple[Point, ...]:
        """The scores that were better than all before them."""
        points: list[Point] = []
        for seconds, score in self.scores:
            if not points or score < points[-1][1]:
                points.append((seconds, score))
        return tuple(points)

    @property
    def best(self) -> float | None:
        """The best score; None if no trial was fully evaluated."""
        return self.best_so_far[-1][1] if self.scores else None

    def seconds_until(self, target: float) -> float | None:
        """Return when a trial at least as good as `target` was known; None if none was."""
        return next((seconds for seconds, score in self.best_so_far if score <= target), None)

    def epochs_until(self, seconds: float) -> int:
        """Return the number of epochs that were complete by then."""
        return sum(end <= seconds for end, _ in self.epochs)


def read_curve(folder: StudyFolder, *, k: int, metric: str, started: float, limit: float | None) -> SearchCurve:
    """Read the folder of a search.

    A trial's score is known when its last fold's result is written; an epoch's end is that of the fold's history file
    less the seconds of the epochs after it.

    Args:
        folder: The study's.
        k: Number of folds.
        metric: Whose mean over the folds is the score; lower is better.
        started: When the search's process was started, as time.time().
        limit: Seconds after the start at which it was ended; what came later does not count. None: it ended by itself.
    """
    horizon = float("inf") if limit is None else limit
    records = read_trials(folder).values()
    ends = {each.number: _written(folder.trial(each.number).record) - started for each in records}
    ended = [each for each in records if each.has_ended and ends[each.number] <= horizon]
    scores = []
    for each in ended:
        if each.state == "finished":
            known = max(_written(folder.trial(each.number).fold(fold).result) for fold in range(k)) - started
            scores.append((known, sum(fold.metrics[metric] for fold in each.folds) / k))
    return SearchCurve(
        scores=tuple(sorted(scores)),
        epochs=tuple(sorted(point for point in _epochs(folder, started) if point[0] <= horizon)),
        n_stopped=sum(each.state == "stopped" for each in ended),
        n_failed=sum(each.state == "failed" for each in ended),
        n_unfinished=len(list(folder.trials.iterdir())) - len(ended),
        seconds=max((ends[each.number] for each in ended), default=0.0) if limit is None else limit,
        folds_digest=load_folds(folder.folds).digest,
    )


def read_ledger_share(path: Path) -> float | None:
    """Return the share of the slots' time that trained: useful, stopped or failed; None without a ledger."""
    if not path.is_file():
        return None
    seconds = pd.read_parquet(path).groupby("purpose")["seconds"].sum()
    training = sum(float(seconds.get(purpose, 0.0)) for purpose in ("useful", "stopped", "failed"))
    reserved = float(seconds.get("reserved", 0.0))
    return training / reserved if reserved > 0 else None


def _epochs(folder: StudyFolder, started: float) -> Iterator[Point]:
    for path in folder.trials.glob("*/fold-*/history.parquet"):
        end = _written(path) - started
        for seconds in reversed(read_history(path)["seconds"].tolist()):
            yield end, seconds
            end -= seconds


def _written(path: Path) -> float:
    return path.stat().st_mtime
