"""What other folds and seeds say of the best trials: in numbers, and in words."""

import numpy as np
import pytest
from scipy import stats

from consilia.config.records import Confirmation
from consilia.report.confirmations import confirmation_lines, confirmations_to_json, optimism


def confirmation(number: int, searched: float, *folds: float) -> Confirmation:
    return Confirmation(number=number, searched=searched, folds=folds)


THREE = [confirmation(7, 0.066, 0.06, 0.082), confirmation(2, 0.07, 0.07, 0.08), confirmation(4, 0.071, 0.069, 0.071)]


def test_optimism_is_the_mean_difference_with_the_t_interval_of_scipy():
    found = optimism(THREE, metric="log_loss")
    differences = [0.071 - 0.066, 0.075 - 0.07, 0.07 - 0.071]
    interval = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(differences), interval.low, interval.high))


def test_where_higher_is_better_a_lower_score_is_what_flatters():
    lower, higher = (optimism(THREE, metric=metric) for metric in ("log_loss", "macro_auc"))
    assert (higher.value, higher.low, higher.high) == pytest.approx((-lower.value, -lower.high, -lower.low))


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_have_no_interval(n):
    assert optimism(THREE[:n], metric="log_loss") is None
    assert confirmations_to_json(THREE[:n], metric="log_loss")["optimism"] is None
    assert len(confirmation_lines(THREE[:n], metric="log_loss")) == n


def test_a_trial_is_said_with_both_scores_and_all_of_them_with_their_mean():
    first, *_, last = confirmation_lines(THREE, metric="log_loss")
    assert first == (
        "trial 7: log loss 0.0660 in the search, 0.0710 with other folds and seeds (0.0600 to 0.0820 over the folds)"
    )
    assert last == "on average of these 3, the search flatters by +0.0030 log loss (95 %: -0.0056 to +0.0116)"


def test_json_has_every_number():
    (first, *_) = confirmations_to_json(THREE, metric="log_loss")["trials"]
    assert first == {
        "trial": 7,
        "search": 0.066,
        "confirmed": pytest.approx(0.071),
        "difference": pytest.approx(0.005),
        "fold_scores": [0.06, 0.082],
        "fold_sd": pytest.approx(np.std([0.06, 0.082], ddof=1)),
    }
