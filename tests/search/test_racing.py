"""Epoch halving: who goes on past the rung."""

import random

import pytest
from search_records import epoch

from consilia.plan.study import Halving
from consilia.search.racing import EpochHalving

EPOCHS = 12


def make(*, higher_is_better: bool = False, min_scores: int = 8, reduction: int = 3) -> EpochHalving:
    plan = Halving(reduction=reduction, min_scores=min_scores)
    return EpochHalving(plan, epochs=EPOCHS, higher_is_better=higher_is_better)


def stopped_trials(racing: EpochHalving, losses: list[float]) -> set[int]:
    return {number for number, loss in enumerate(losses) if racing.hear(epoch(number, 0, racing.rung, loss))}


def test_the_rung_lies_at_a_third_of_the_epochs():
    assert make().rung == EPOCHS / 3


def test_nobody_is_stopped_before_eight_scores():
    losses = [float(number) for number in range(7)]  # each worse than all before it
    assert stopped_trials(make(), losses) == set()


def test_the_eighth_score_is_stopped_if_it_is_the_worst():
    assert stopped_trials(make(), [float(number) for number in range(8)]) == {7}


def test_the_best_score_always_goes_on():
    rng = random.Random(0)
    losses = [rng.random() for _ in range(200)]
    stopped = stopped_trials(make(), losses)
    records = {number for number in range(200) if losses[number] == min(losses[: number + 1])}
    assert stopped.isdisjoint(records)


def test_about_a_third_go_on_in_the_long_run():
    rng = random.Random(1)
    losses = [rng.random() for _ in range(600)]
    went_on = 600 - len(stopped_trials(make(), losses))
    assert went_on / 600 == pytest.approx(1 / 3, abs=0.05)


def test_a_constant_added_to_every_score_changes_no_decision():
    rng = random.Random(2)
    losses = [rng.random() for _ in range(100)]
    assert stopped_trials(make(), losses) == stopped_trials(make(), [loss + 5 for loss in losses])


def test_a_metric_where_higher_is_better_mirrors_one_where_lower_is():
    rng = random.Random(3)
    losses = [rng.random() for _ in range(100)]
    negated = [-loss for loss in losses]
    assert stopped_trials(make(), losses) == stopped_trials(make(higher_is_better=True), negated)


def test_only_the_rung_of_the_first_fold_decides():
    racing = make(min_scores=2)
    for number in range(20):
        assert racing.hear(epoch(number, 1, racing.rung, float(number))) is None
        assert racing.hear(epoch(number, 0, racing.rung + 1, float(number))) is None


def test_hearing_the_same_report_again_counts_it_once():
    once, twice = make(), make()
    losses = [0.5, 0.4, 0.6, 0.3, 0.7, 0.2, 0.8]
    for number, loss in enumerate(losses):
        once.hear(epoch(number, 0, once.rung, loss))
        twice.hear(epoch(number, 0, twice.rung, loss))
        twice.hear(epoch(number, 0, twice.rung, loss))
    assert once.hear(epoch(9, 0, once.rung, 0.75)) == twice.hear(epoch(9, 0, twice.rung, 0.75))


def test_a_trial_that_resumes_is_not_judged_again_by_scores_that_came_later():
    racing = make()
    assert stopped_trials(racing, [0.5] * 3) == set()
    for number in range(3, 23):
        racing.hear(epoch(number, 0, racing.rung, 0.1))
    assert racing.hear(epoch(0, 0, racing.rung, 0.5)) is None


def test_one_epoch_folds_are_never_halved():
    racing = EpochHalving(Halving(min_scores=2), epochs=1, higher_is_better=False)
    assert racing.rung == 1
    assert all(racing.hear(epoch(number, 0, 1, float(number))) is None for number in range(20))
