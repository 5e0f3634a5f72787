"""When a search has had enough: hours, device-hours, and trials without a gain beyond the noise.

Source of the last: Makarova et al., Automatic Termination for Hyperparameter Optimization, AutoML 2022, whose threshold
is the error of the cross-validation itself; here it is the patient bootstrap's (docs/methods.md section 2.3).
"""

import logging
import math
import statistics
from collections import deque
from collections.abc import Callable

import numpy as np
import pandas as pd

from consilia.config.records import EpochReport, Labels, Probabilities, TrialRecord
from consilia.config.study import Budget
from consilia.config.study_folder import StudyFolder
from consilia.metrics.bootstrap import bootstrap_standard_error, patient_bootstrap
from consilia.metrics.scores import image_log_loss, softmax
from consilia.train.tables import read_fold_logits
from consilia.tune.ledger import Ledger

logger = logging.getLogger(__name__)

Noise = Callable[[TrialRecord], float]
"""Standard error of a finished trial's objective over patients."""

_NORMAL_WIDTH = 3.92  # of a 95 % interval, in standard errors
_DRAWS = 500  # enough for a stopping rule

_REMEMBERED_FOLDS = 50  # whose seconds tell how long a fold takes


def no_noise(record: TrialRecord) -> float:
    """Return 0: any gain counts."""
    return 0.0


class Limits:
    """Watches a budget.

    Args:
        budget: What may be spent; None in a field sets no limit.
        ledger: Knows what was spent, over all runs of the study.
        higher_is_better: Direction of the objective.
        noise: Tells which gain could be chance.
    """

    def __init__(
        self, budget: Budget, ledger: Ledger, *, higher_is_better: bool = False, noise: Noise = no_noise
    ) -> None:
        self.ledger = ledger
        self._budget = budget
        self._sign = 1.0 if higher_is_better else -1.0
        self._noise = noise
        self._best = -math.inf  # the last objective that gained more than noise; higher is better
        self._noise_of_best = 0.0
        self._n_without_gain = 0
        self._fold_seconds: deque[float] = deque(maxlen=_REMEMBERED_FOLDS)
        self._has_heard = False  # a fold of this run

    def heard(self, report: EpochReport) -> None:
        """Learn from a finished fold how long one takes."""
        if report.fold_result is not None and not report.is_repeat:
            self._fold_seconds.append(report.fold_result.seconds)
            self._has_heard = True

    def ended(self, record: TrialRecord) -> None:
        """Count a trial that brought no gain beyond noise.

        One that failed says nothing, nor does one that was stopped before any has finished: nothing is there yet that
        could have been improved on.
        """
        if not self._has_heard:  # a trial of an earlier run, whose folds nobody reports again
            self._fold_seconds.extend(result.seconds for result in record.folds)
        if self._budget.patience is None or record.objective is None or record.state == "failed":
            return
        if record.state != "finished" and self._best == -math.inf:
            return
        self._n_without_gain += 1
        gain = self._sign * record.objective - self._best
        if record.state == "finished" and gain > self._noise_of_best:
            self._best = self._sign * record.objective
            self._noise_of_best = self._noise(record)
            self._n_without_gain = 0

    def over(self) -> str:
        """Return which budget of time is used up, so that all trials must leave now; "" while none is."""
        if self._budget.hours is not None and self.ledger.wall_seconds >= 3600 * self._budget.hours:
            return f"the budget of {self._budget.hours:g} hours is used up"
        if self._budget.device_hours is not None and self.ledger.device_seconds >= 3600 * self._budget.device_hours:
            return f"the budget of {self._budget.device_hours:g} device-hours is used up"
        return ""

    def enough(self) -> str:
        """Return why no fold may begin, although those under way may end; "" while one may begin.

        A new fold must fit into what is left, going by the median of the last folds.
        """
        patience = self._budget.patience
        if patience is not None and self._n_without_gain >= patience:
            return f"no gain beyond the noise of {self._noise_of_best:.4f} over patients in {patience} trials"
        return self.over() or self._too_short_for_a_fold()

    def _too_short_for_a_fold(self) -> str:
        if not self._fold_seconds:
            return ""
        fold, left = statistics.median(self._fold_seconds), self._seconds_left()
        if left >= fold:
            return ""
        return f"a fold takes {fold:.0f} s, and the budget leaves {max(0.0, left):.0f} s"

    def _seconds_left(self) -> float:
        budget, left = self._budget, math.inf
        if budget.hours is not None:
            left = 3600 * budget.hours - self.ledger.wall_seconds
        if budget.device_hours is not None and self.ledger.devices_held:
            left = min(left, (3600 * budget.device_hours - self.ledger.device_seconds) / self.ledger.devices_held)
        return left


def objective_noise(record: TrialRecord, *, folder: StudyFolder, metric: str) -> float:
    """Return the standard error over patients of a finished trial's objective, by bootstrap.

    Args:
        record: A finished trial; its out-of-fold predictions are in its folder.
        folder: Of the study, whose folds name the patients.
        metric: The study's. Of the log loss the error is that of the images' mean loss, of any other metric that of
            all out-of-fold predictions together, from its 95 % interval.

    Raises:
        StudyError: A prediction file is missing or damaged.
    """
    table = pd.read_parquet(folder.folds).set_index("image_id")
    parts = [read_fold_logits(folder.trial(record.number).fold(result.fold).oof) for result in record.folds]
    ids = np.concatenate([image_ids for image_ids, _ in parts])
    probabilities: Probabilities = softmax(np.concatenate([logits for _, logits in parts]))
    labels: Labels = table.loc[ids, "label"].to_numpy(np.int64)
    patients = table.loc[ids, "patient_id"].to_numpy(str)
    if metric == "log_loss":
        return bootstrap_standard_error(image_log_loss(probabilities, labels), patients, draws=_DRAWS)
    interval = patient_bootstrap([metric], probabilities, labels, patients, draws=_DRAWS)[metric]
    return (interval.high - interval.low) / _NORMAL_WIDTH
