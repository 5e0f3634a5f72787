"""Deletes files of trials: only the best keep their weights and only open ones their checkpoints.

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

    def finished(self, record: TrialRecord) -> None:
        """Keep the weights of the best trials only, now that one more is finished."""
        self._with_weights[record.number] = record
        for worse in leaderboard(self._with_weights, metric=self._metric)[self._n_best :]:
            for fold in range(self._n_folds):
                self._folder.trial(worse.number).fold(fold).weights.unlink(missing_ok=True)
            del self._with_weights[worse.number]

    def sweep(self, records: Mapping[int, TrialRecord]) -> None:
        """Delete checkpoints of ended trials: a stopped worker may write one more before it notices."""
        for number, record in records.items():
            if record.has_ended:
                for fold in range(self._n_folds):
                    self._folder.trial(number).fold(fold).checkpoint.unlink(missing_ok=True)
