"""Deletes files of trials as soon as nobody needs them: only the best keep weights, and only open ones checkpoints.

Out-of-fold predictions are always kept.
"""

from collections.abc import Mapping

from consilia.config.records import TrialRecord
from consilia.config.study_folder import StudyFolder
from consilia.tune.stored import leaderboard


class CheckpointCleanup:
    """Deletes weights and checkpoints that no ensemble and no trial will need.

    Args:
        folder: Of the study.
        n_folds: Of a trial.
        n_best: Finished trials whose weights stay.
        metric: Which decides who is best.
        records: Of trials that earlier runs have left.
    """

    def __init__(
        self, folder: StudyFolder, *, n_folds: int, n_best: int, metric: str, records: Mapping[int, TrialRecord]
    ) -> None:
        self._folder = folder
        self._n_folds = n_folds
        self._n_best = n_best
        self._metric = metric
        self._with_weights = {number: record for number, record in records.items() if record.state == "finished"}

    def ended(self, record: TrialRecord) -> None:
        """Delete what the end of a trial makes superfluous: its own files, or those of a trial that is worse."""
        if record.state == "finished":
            self._with_weights[record.number] = record
            for worse in leaderboard(self._with_weights, metric=self._metric)[self._n_best :]:
                self._delete(worse.number, weights=True)
                del self._with_weights[worse.number]
        else:  # what its worker writes before it notices, the worker deletes
            self._delete(record.number, weights=True)

    def sweep(self, records: Mapping[int, TrialRecord]) -> None:
        """Delete what ended trials have left all the same, since a worker or a driver was killed; none is at work."""
        for number, record in records.items():
            if record.has_ended:
                self._delete(number, weights=record.state != "finished")

    def _delete(self, number: int, *, weights: bool) -> None:
        for fold in range(self._n_folds):
            files = self._folder.trial(number).fold(fold)
            files.checkpoint.unlink(missing_ok=True)
            if weights:
                files.weights.unlink(missing_ok=True)
