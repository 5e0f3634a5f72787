"""Who goes on: epoch halving, fold pruning over folds, and both."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from search_records import epoch

from consilia.config.card import DataCard, FolderSource
from consilia.config.recipe import BestSingle, EnsembleRecipe, Greedy, Selection, SoftVote
from consilia.config.records import EpochReport
from consilia.config.space import Architecture, SearchSpace
from consilia.config.study import (
    FoldPruning,
    FoldsPlan,
    Halving,
    NoStopping,
    SearchPlan,
    Stopping,
    StudyPlan,
    TrainingPlan,
)
from consilia.config.study import Racing as RacingPlan
from consilia.tune.racing import (
    BothStops,
    EpochHalving,
    EveryFold,
    FoldPruner,
    Racing,
    default_n_best,
    make_racing,
)

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


K = 4


def prune(*, n_best: int = 5, higher_is_better: bool = False) -> FoldPruner:
    return FoldPruner(k=K, n_best=n_best, eps=0.05, higher_is_better=higher_is_better)


def both(*, higher_is_better: bool = False) -> BothStops:
    return BothStops(make(higher_is_better=higher_is_better), prune(higher_is_better=higher_is_better))


def losses_of(seed: int, *, n: int = 40) -> np.ndarray:
    """Draw losses of trials in folds, (n, K)."""
    rng = np.random.default_rng(seed)
    return rng.normal(1.0, 0.3, (n, 1)) + rng.normal(0.0, 0.1, K) + rng.normal(0.0, 0.05, (n, K))


def reports_of(number: int, losses: Sequence[float]) -> list[EpochReport]:
    """Every epoch of a trial whose loss falls to `losses` at the end of each fold."""
    return [
        epoch(number, fold, at, float(loss) + 0.5 * (1 - at / EPOCHS), ends_fold=at == EPOCHS)
        for fold, loss in enumerate(losses)
        for at in range(1, EPOCHS + 1)
    ]


def run(racing: Racing, trials: dict[int, Sequence[float]]) -> dict[int, tuple[int, int, str]]:
    """Let trials race one after the other; return where and why each was stopped."""
    stops: dict[int, tuple[int, int, str]] = {}
    for number, losses in trials.items():
        for report in reports_of(number, losses):
            reason = racing.hear(report)
            if reason is not None:
                stops[number] = (report.fold, report.epoch, reason)
                break
    return stops


def test_a_hopeless_trial_is_stopped_after_its_first_fold_and_told_why():
    racing = prune()
    assert run(racing, dict(enumerate(losses_of(0, n=6)))) == {}
    stops = run(racing, {6: [9.0] * K})
    assert stops[6][:2] == (0, EPOCHS)
    assert "after 1 of 4 folds, adjusted for the folds; rank 5 has" in stops[6][2]


def test_nobody_is_pruned_before_n_best_trials_are_complete():
    racing = prune(n_best=7)
    assert run(racing, {number: [float(number)] * K for number in range(7)}) == {}
    assert 7 in run(racing, {7: [7.0] * K})


def test_trials_under_way_are_not_complete():
    racing = prune()
    for number, losses in enumerate(losses_of(1, n=9)):
        n_folds = K if number < 4 else K - 1
        assert all(racing.hear(report) is None for report in reports_of(number, losses[:n_folds]))
    assert run(racing, {9: [9.0] * K}) == {}  # four are complete, and it becomes the fifth
    assert 10 in run(racing, {10: [9.5] * K})


def test_epochs_within_a_fold_and_the_last_fold_decide_nothing():
    racing = prune()
    run(racing, dict(enumerate(losses_of(0, n=6))))
    assert racing.hear(epoch(6, 0, EPOCHS - 1, 9.0)) is None
    good = losses_of(0, n=6)[0]
    trial = reports_of(7, [*good[: K - 1], 99.0])
    assert [racing.hear(report) for report in trial] == [None] * len(trial)


def test_a_trial_cannot_skip_a_fold():
    racing = prune()
    racing.hear(epoch(0, 0, EPOCHS, 0.5, ends_fold=True))
    with pytest.raises(AssertionError, match="trial 0: fold 2 came after 1 folds"):
        racing.hear(epoch(0, 2, EPOCHS, 0.5, ends_fold=True))


@pytest.mark.parametrize("make_one", [prune, both])
def test_the_same_reports_bring_the_same_decisions(make_one):
    trials = dict(enumerate(losses_of(2)))
    stops = run(make_one(), trials)
    assert 5 < len(stops) < 40
    assert run(make_one(), trials) == stops


@pytest.mark.parametrize("make_one", [prune, both])
def test_a_metric_where_higher_is_better_mirrors_the_decisions(make_one):
    trials = dict(enumerate(losses_of(3)))
    mirrored = make_one(higher_is_better=True)
    stops: dict[int, tuple[int, int]] = {}
    for number, losses in trials.items():
        for report in reports_of(number, losses):
            negated = epoch(number, report.fold, report.epoch, -report.score, ends_fold=report.fold_result is not None)
            if mirrored.hear(negated) is not None:
                stops[number] = (report.fold, report.epoch)
                break
    assert stops == {number: stop[:2] for number, stop in run(make_one(), trials).items()}
    assert mirrored.adjusted([-0.9]) == pytest.approx(-_after(make_one(), trials).adjusted([0.9]))


def _after(racing: Racing, trials: dict[int, Sequence[float]]) -> Racing:
    run(racing, trials)
    return racing


@pytest.mark.parametrize("make_one", [prune, both])
def test_what_is_heard_again_by_number_after_a_restart_restores_the_later_decisions(make_one):
    losses = losses_of(4)
    order = random.Random(4).sample(range(25), 25)  # slots end their trials in any order
    undisturbed = make_one()
    stops = run(undisturbed, {number: losses[number] for number in order})
    heard = {}
    for number in order:
        fold, at = stops[number][:2] if number in stops else (K, 0)
        heard[number] = [each for each in reports_of(number, losses[number]) if (each.fold, each.epoch) <= (fold, at)]
    restarted = make_one()
    for number in sorted(heard):
        for report in heard[number]:
            restarted.hear(report)
    later = {number: losses[number] for number in range(25, 40)}
    assert run(restarted, later) == run(undisturbed, later)
    assert restarted.adjusted([0.9, 1.1]) == undisturbed.adjusted([0.9, 1.1])


@pytest.mark.parametrize("make_one", [prune, both])
def test_what_a_resumed_trial_says_again_decides_nothing_and_counts_once(make_one):
    losses = losses_of(5)
    once, again = make_one(), make_one()
    first = dict(enumerate(losses[:20]))
    stops = run(once, first)
    assert run(again, first) == stops
    for number in first:  # as if every trial had lost its worker at its end, those that were stopped among them
        fold, at = stops[number][:2] if number in stops else (K, 0)
        for report in reports_of(number, losses[number]):
            if (report.fold, report.epoch) <= (fold, at):
                assert again.hear(report) is None
    later = {number: losses[number] for number in range(20, 40)}
    assert run(again, later) == run(once, later)


def test_both_stops_take_the_halves_of_the_work():
    trials = dict(enumerate(losses_of(6)))
    stops = run(both(), trials)
    rung = make().rung
    in_first_fold = {number for number, (fold, at, _) in stops.items() if (fold, at) == (0, rung)}
    after_folds = {number for number, (_, at, _) in stops.items() if at == EPOCHS}
    assert in_first_fold
    assert after_folds
    assert in_first_fold | after_folds == set(stops)
    assert in_first_fold == set(run(make(), trials))


def test_a_trial_that_halving_stops_is_no_row_of_the_matrix():
    halved, only_finished = both(), prune()
    trials = dict(enumerate(losses_of(7)))
    stops = run(halved, trials)
    run(only_finished, {number: losses for number, losses in trials.items() if number not in stops})
    assert halved.adjusted([0.7]) == only_finished.adjusted([0.7])


def test_the_adjusted_score_is_the_mean_without_the_folds_effects():
    racing = prune()
    losses = losses_of(8, n=5)  # all complete: nobody is stopped before
    run(racing, dict(enumerate(losses)))
    effect = losses[:, 0].mean() - losses.mean()
    assert racing.adjusted([0.9]) == pytest.approx(0.9 - effect)
    assert racing.adjusted(list(losses[2])) == pytest.approx(losses[2].mean())


def test_every_fold_stops_nobody():
    racing = EveryFold()
    assert run(racing, dict(enumerate(losses_of(9)))) == {}
    assert racing.adjusted([0.2, 0.4]) == pytest.approx(0.3)


def study(
    stopping: Stopping, *, selection: Selection | None = None, trials: int = 50, metric: str = "log_loss"
) -> StudyPlan:
    space = SearchSpace(
        family="f", architectures={"a": Architecture(timm="test_resnet")}, start_with=("a",), parameters={}
    )
    return StudyPlan(
        name="study",
        data=DataCard(name="card", source=FolderSource(), path="/one/place"),
        spaces=(space,),
        folds=FoldsPlan(k=K),
        search=SearchPlan.model_validate({"trials": trials, "metric": metric, "stopping": stopping}),
        training=TrainingPlan(epochs=EPOCHS),
        ensemble=EnsembleRecipe(name="recipe", selection=selection or Greedy()),
    )


@pytest.mark.parametrize(
    ("stopping", "kind"),
    [
        (RacingPlan(), BothStops),
        (Halving(), EpochHalving),
        (FoldPruning(), FoldPruner),
        (NoStopping(), EveryFold),
    ],
)
def test_the_plan_names_the_racing(stopping: Stopping, kind: type):
    assert type(make_racing(study(stopping))) is kind


@pytest.mark.parametrize("metric", ["log_loss", "macro_auc"])
def test_the_racing_of_a_plan_decides_like_one_made_by_hand(metric: str):
    higher = metric == "macro_auc"
    trials = {number: -losses if higher else losses for number, losses in enumerate(losses_of(10))}
    made = make_racing(study(RacingPlan(), trials=20, metric=metric))
    by_hand = BothStops(make(higher_is_better=higher), prune(n_best=5, higher_is_better=higher))
    stops = run(made, trials)
    assert stops
    assert stops == run(by_hand, trials)


def test_settings_of_the_plan_reach_the_racing():
    first_two = {number: [float(number)] * K for number in range(2)}
    assert 1 in run(make_racing(study(Halving(min_scores=2, reduction=2))), first_two)
    few = make_racing(study(FoldPruning(keep=1)))
    run(few, dict(enumerate(losses_of(11, n=4))))
    assert 4 in run(few, {4: [9.0] * K})
    certain, risky = (make_racing(study(FoldPruning(keep=1, eps=eps))) for eps in (1e-6, 0.49))
    trials = dict(enumerate(losses_of(12)))
    assert len(run(certain, trials)) < len(run(risky, trials))


@pytest.mark.parametrize(
    ("selection", "trials", "n_best"),
    [
        (Greedy(), 200, 12),  # a pool of 50
        (Greedy(), 24, 6),  # no more trials than that
        (Greedy(pool=8), 200, 5),
        (BestSingle(), 200, 5),
        (SoftVote(members=3), 200, 5),
        (SoftVote(members=9), 200, 9),
    ],
)
def test_the_stopping_must_not_harm_what_the_ensemble_takes(selection: Selection, trials: int, n_best: int):
    assert default_n_best(study(FoldPruning(), selection=selection, trials=trials)) == n_best


@pytest.mark.parametrize(("reduction", "trials", "n_best"), [(3, 50, 5), (3, 72, 6), (3, 200, 12), (2, 72, 9)])
def test_the_pool_is_of_those_that_halving_lets_through(reduction: int, trials: int, n_best: int):
    stopping = RacingPlan(halving=Halving(reduction=reduction))
    assert default_n_best(study(stopping, trials=trials)) == n_best
