"""What a running trial has said so far."""

from collections import defaultdict
from dataclasses import dataclass, field

from consilia.records import EpochReport, FoldResult, TrialTask


@dataclass(slots=True)
class TrialProgress:
    """Folds and scores of one trial while it is in a slot; what it says again counts once."""

    task: TrialTask
    place: tuple[int, int] = (-1, -1)  # the furthest (fold, epoch) heard of
    folds: dict[int, FoldResult] = field(default_factory=dict)  # finished ones, in order
    _last: tuple[int, float] = (-1, 0.0)  # fold and score of the last epoch heard of
    _seconds: dict[int, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))  # by fold and epoch

    def heard(self, report: EpochReport) -> None:
        """Take an epoch down."""
        self.place = max(self.place, (report.fold, report.epoch))
        self._last = (report.fold, report.score)
        self._seconds[report.fold][report.epoch] = report.seconds
        if report.fold_result is not None:
            self.folds[report.fold] = report.fold_result
            self._seconds[report.fold] = {0: report.fold_result.seconds}  # a repeat names the last epoch only

    def scores(self, metric: str) -> list[float]:
        """Return the finished folds' scores, and that of the last epoch of the fold under way."""
        scores = [result.metrics[metric] for result in self.folds.values()]
        fold, score = self._last
        return scores if fold < 0 or fold in self.folds else [*scores, score]

    @property
    def seconds(self) -> float:
        """Of all epochs, those that an earlier process computed among them."""
        return sum(sum(epochs.values()) for epochs in self._seconds.values())
