"""What a running trial has reported so far, how many slots it has lost, and how many trials have failed in a row."""

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from consilia.config.records import EpochReport, FoldResult, TrialRecord, TrialTask

_MAX_LOSSES = 3  # in a row, of slots in which a worker had begun with the trial
_MAX_FALSE_STARTS = 20  # in a row, of slots in which no worker had: not the trial's fault, but it must end
FIRST_FAILURES = 5  # with nothing else before them, that end a search
FAILURES_IN_A_ROW = 10  # that end it later on


@dataclass(slots=True)
class TrialProgress:
    """Folds and scores of one trial while it is in a slot; a repeated report counts once."""

    task: TrialTask
    was_taken: bool = False  # by a worker of its present slot
    place: tuple[int, int] = (-1, -1)  # the furthest (fold, epoch) heard of
    folds: dict[int, FoldResult] = field(default_factory=dict)  # finished ones, in order
    _last: tuple[int, float] = (-1, 0.0)  # fold and score of the last epoch that was scored
    _seconds: dict[int, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))  # by fold and epoch

    def heard(self, report: EpochReport) -> None:
        """Record an epoch."""
        self.place = max(self.place, (report.fold, report.epoch))
        if not math.isnan(report.score):
            self._last = (report.fold, report.score)
        self._seconds[report.fold][report.epoch] = report.seconds
        if report.fold_result is not None:
            self.folds[report.fold] = report.fold_result
            self._seconds[report.fold] = {0: report.fold_result.seconds}  # a repeat names the last epoch only

    def scores(self, metric: str) -> list[float]:
        """Return the finished folds' scores, and the last one of the fold under way."""
        scores = [result.metrics[metric] for result in self.folds.values()]
        fold, score = self._last
        return scores if fold < 0 or fold in self.folds else [*scores, score]

    @property
    def seconds(self) -> float:
        """Of all epochs, those that an earlier process computed among them."""
        return sum(sum(epochs.values()) for epochs in self._seconds.values())


@dataclass(slots=True)
class Totals:
    """What this run of a search has computed and lost, over all trials."""

    epochs: int = 0
    images: int = 0  # seen in training
    losses: Counter[str] = field(default_factory=Counter)  # by what was lost: "worker", "slot", "memory", "disk"

    def heard(self, report: EpochReport) -> None:
        """Count an epoch; one that an earlier process computed was counted then."""
        if not report.is_repeat:
            self.epochs += 1
            self.images += report.images


@dataclass(slots=True)
class Losses:
    """Slots that one trial has lost in a row, with no new epoch in between."""

    n_begun: int = 0
    n_not_begun: int = 0
    _place: tuple[int, int] = (-1, -1)  # how far the trial had come

    def add(self, progress: TrialProgress) -> None:
        """Count one more; a trial that has got on since starts at one again."""
        if progress.place > self._place:
            self._place = progress.place
            self.n_begun = self.n_not_begun = 0
        self.n_begun += progress.was_taken
        self.n_not_begun += not progress.was_taken

    @property
    def n(self) -> int:
        """Number of losses."""
        return self.n_begun + self.n_not_begun

    @property
    def are_too_many(self) -> bool:
        """Say whether another slot would bring nothing."""
        return self.n_begun > _MAX_LOSSES or self.n_not_begun > _MAX_FALSE_STARTS


@dataclass(slots=True)
class Failures:
    """Trials that have failed one after the other: then the machine or the data are at fault, not configurations."""

    any_other: bool  # whether a trial has ended that did not fail
    _reasons: list[str] = field(default_factory=list)  # of this run's last failures, with no other end among them

    def ended(self, record: TrialRecord) -> str:
        """Note how a trial ended; return why the search must stop, with the commonest reason, or ""."""
        if record.state != "failed":
            self.any_other = True
            self._reasons.clear()
            return ""
        self._reasons.append(record.reason)
        if len(self._reasons) < (FAILURES_IN_A_ROW if self.any_other else FIRST_FAILURES):
            return ""
        (reason, n), *_ = Counter(self._reasons).most_common()
        which = "The last" if self.any_other else "The first"
        return f"{which} {len(self._reasons)} trials failed, {n} of them like this: {reason}"
