"""Configurations of earlier studies, fitted to another space."""

import functools
import math
from pathlib import Path

import optuna
import pytest

from consilia.config.catalog import load
from consilia.config.records import TrialRecord
from consilia.config.space import Architecture, Choice, FloatRange, Hyperparameters, IntRange, SearchSpace
from consilia.tune.space import JointSpace, join_spaces
from consilia.tune.suggester import OptunaSuggester
from consilia.tune.warm_start import TOP, EarlierStudy, Start, warm_start

LR = FloatRange(low=1e-4, high=2e-2, log=True, default=1e-3)
MIXUP = FloatRange(low=0, high=0.4, default=0.1)
IMBALANCE = Choice(values=("cross_entropy", "logit_adjustment"), default="cross_entropy")
TAU = FloatRange(low=0, high=1, default=0.25, when={"imbalance": ("logit_adjustment",)})


def space(*architectures: str, **parameters: FloatRange | IntRange | Choice) -> JointSpace:
    one = SearchSpace(
        family="own",
        architectures={name: Architecture(timm=name) for name in architectures},
        start_with=architectures[:1],
        parameters=parameters,
    )
    return join_spaces([one], weights="none")


def study(old: JointSpace, *trials: dict, name: str = "old") -> EarlierStudy:
    """An earlier study whose best trials are these, numbered 10, 11, ..."""
    records = [
        TrialRecord(
            number=10 + rank,
            state="finished",
            hyperparameters=Hyperparameters.model_validate({"architecture": "x", **values}),
            objective=0.1 + rank / 10,
        )
        for rank, values in enumerate(trials)
    ]
    return EarlierStudy(name=name, space=old, trials=records)


def test_values_that_fit_are_taken_over_as_they_are_and_only_scores_stay_behind():
    both = space("x", "y", lr=LR, mixup=MIXUP)
    result = warm_start([study(both, {"lr": 3e-3, "mixup": 0.3})], both, n_trials=9)
    assert result.starts == (
        Start(values={"architecture": "x", "lr": 3e-3, "mixup": 0.3}, origin="warm start: old trial 10"),
    )
    assert result.remarks == ("warm start: trial 10 of old, after the defaults",)


def test_a_number_out_of_range_is_clipped_and_both_values_are_said():
    old = space("x", lr=LR.model_copy(update={"high": 1.0}), mixup=MIXUP)
    new = space("x", lr=LR, mixup=FloatRange(low=0.2, high=0.4, default=0.3))
    result = warm_start([study(old, {"lr": 0.03, "mixup": 0.1})], new, n_trials=9)
    assert result.starts[0].values == {"architecture": "x", "lr": 2e-2, "mixup": 0.2}
    assert result.remarks[1:] == ("trial 10 of old: lr 0.03 clipped to 0.02, mixup 0.1 clipped to 0.2",)


def test_a_range_of_whole_numbers_gets_the_nearest_one():
    old = space("x", lr=LR, head_lr_factor=FloatRange(low=1, high=10, default=3))
    new = space("x", lr=LR, head_lr_factor=IntRange(low=1, high=5, default=3))
    trials = ({"lr": 2e-3, "head_lr_factor": 3.6}, {"lr": 3e-3, "head_lr_factor": 8.2})
    result = warm_start([study(old, *trials)], new, n_trials=9)
    assert [start.values["head_lr_factor"] for start in result.starts] == [4, 5]
    assert all(isinstance(start.values["head_lr_factor"], int) for start in result.starts)
    assert "head_lr_factor 3.6 rounded to 4" in result.remarks[1]
    assert "head_lr_factor 8.2 clipped to 5" in result.remarks[2]


def test_an_architecture_or_a_named_value_that_is_not_there_leaves_the_trial_out():
    wide = Choice(values=("cross_entropy", "focal"), default="cross_entropy")
    old = space("x", "gone", lr=LR, imbalance=wide)
    trials = ({"architecture": "gone"}, {"lr": 2e-3, "imbalance": "focal"}, {"lr": 3e-3})
    result = warm_start([study(old, *trials)], space("x", lr=LR, imbalance=IMBALANCE), n_trials=9)
    assert [start.origin for start in result.starts] == ["warm start: old trial 12"]
    gone, focal = result.remarks[1:]
    assert gone == "trial 10 of old is left out: architecture gone does not exist in this study, which has x"
    assert "trial 11 of old is left out: imbalance focal does not exist" in focal
    assert "cross_entropy, logit_adjustment" in focal


def test_what_the_old_study_did_not_search_takes_the_new_default():
    new = space("x", lr=LR, mixup=FloatRange(low=0, high=1, default=0.7))
    (start,) = warm_start([study(space("x", lr=LR), {"lr": 5e-3, "mixup": 0.1})], new, n_trials=9).starts
    assert start.values == {"architecture": "x", "lr": 5e-3, "mixup": 0.7}


def test_conditional_parameters_follow_the_new_space():
    old = space("x", lr=LR, imbalance=IMBALANCE, tau=TAU)
    trials = (
        {"lr": 2e-3, "imbalance": "logit_adjustment", "tau": 0.5},
        {"lr": 3e-3, "imbalance": "cross_entropy", "tau": 0.5},
    )
    drawn, not_drawn = warm_start([study(old, *trials)], old, n_trials=9).starts
    assert drawn.values["tau"] == 0.5
    assert "tau" not in not_drawn.values
    without = space("x", lr=LR, imbalance=IMBALANCE)
    (start, _) = warm_start([study(without, *trials)], old, n_trials=9).starts
    assert start.values["tau"] == 0.25


def test_what_equals_a_default_or_another_is_dropped_and_the_twin_named():
    both = space("x", "y", lr=LR)
    trials = ({"lr": 1e-3}, {"lr": 2e-2}, {"lr": 2e-2})
    result = warm_start([study(both, *trials)], both, n_trials=9)
    assert [start.values["lr"] for start in result.starts] == [2e-2]
    assert result.remarks[1:] == (
        "trial 10 of old is left out: it equals the defaults of x",
        "trial 12 of old is left out: it equals trial 11 of old",
    )


def test_the_best_of_every_study_comes_first_and_five_of_each_are_taken():
    both = space("x", lr=LR)
    first = study(both, *({"lr": 1e-2 + rank / 1e4} for rank in range(TOP + 2)), name="a")
    second = study(both, {"lr": 2e-4}, {"lr": 3e-4}, name="b")
    result = warm_start([first, second], both, n_trials=50)
    origins = [start.origin.removeprefix("warm start: ") for start in result.starts]
    assert origins == [
        *("a trial 10", "b trial 10", "a trial 11", "b trial 11"),
        *("a trial 12", "a trial 13", "a trial 14"),
    ]


@pytest.mark.parametrize(("n_trials", "n_starts"), [(1, 0), (2, 0), (4, 2), (5, 3), (50, 3)])
def test_the_budget_of_trials_holds_the_defaults_first_and_says_who_has_no_room(n_trials, n_starts):
    both = join_spaces(
        [
            SearchSpace(
                family="own",
                architectures={name: Architecture(timm=name) for name in "xy"},
                start_with=("x", "y"),
                parameters={"lr": LR},
            )
        ],
        weights="none",
    )
    result = warm_start([study(both, {"lr": 2e-3}, {"lr": 3e-3}, {"lr": 4e-3})], both, n_trials=n_trials)
    assert len(result.starts) == n_starts
    left = [f"trial {10 + rank} of old" for rank in range(n_starts, 3)]
    said = [f"{', '.join(left)}: left out, since {n_trials} trials leave room for {n_starts} beside 2 defaults"]
    assert list(result.remarks[1:]) == (said if left else [])
    assert ("no trial of old can be tried here" in result.remarks[0]) == (n_starts == 0)


def test_no_earlier_study_is_no_remark():
    assert warm_start([], space("x", lr=LR), n_trials=9).remarks == ()


def test_every_start_is_a_configuration_that_the_shipped_spaces_can_draw():
    """From a search of fine-tuning on GPUs to tiny networks and back: whatever is enqueued lies in its range."""

    def shipped(weights: str, *names: str) -> JointSpace:
        return join_spaces(
            [load("search_spaces", name, SearchSpace, base=Path.cwd()) for name in names], weights=weights
        )

    spaces = [
        shipped("imagenet", "resnet", "densenet"),
        shipped("none", "resnet", "efficientnet"),
        shipped("none", "tiny"),
    ]
    for old in spaces:
        trials = [old.draw(functools.partial(corner, which)) for which in range(4)]
        for new in spaces:
            for start in warm_start([study(old, *trials)], new, n_trials=99).starts:
                assert new.draw(functools.partial(inside, start.values)) == start.values


def corner(which: int, name: str, each: FloatRange | IntRange | Choice) -> object:
    if isinstance(each, Choice):
        return each.values[which % len(each.values)]
    return (each.low, each.high, each.default, math.sqrt(each.low * each.high))[which]


def inside(values: dict, name: str, each: FloatRange | IntRange | Choice) -> object:
    if isinstance(each, Choice):
        assert values[name] in each.values
    else:
        assert each.low <= values[name] <= each.high
    return values[name]


# --- with Optuna


def open_suggester(path: Path, joint: JointSpace, starts: tuple[Start, ...]) -> OptunaSuggester:
    return OptunaSuggester(path, joint, name="study", seed=0, higher_is_better=False, starts=starts)


@pytest.mark.filterwarnings("error::UserWarning")
def test_optuna_tries_the_starts_after_the_defaults_with_their_origin_and_without_a_score(tmp_path: Path):
    joint = space("x", "y", lr=LR, imbalance=IMBALANCE, tau=TAU)
    trials = ({"architecture": "y", "lr": 3e-3}, {"lr": 2e-2, "imbalance": "logit_adjustment", "tau": 1.0})
    starts = warm_start([study(joint, *trials)], joint, n_trials=9).starts
    suggester = open_suggester(tmp_path / "journal", joint, starts)
    asked = [suggester.ask().hyperparameters.model_dump() for _ in range(4)]
    for values, found in zip([joint.defaults("x"), *(start.values for start in starts)], asked, strict=False):
        assert {name: found[name] for name in values} == values
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "journal")))
    stored = optuna.load_study(study_name="study", storage=storage).trials
    origins = [trial.user_attrs.get("origin") for trial in stored]
    assert origins == ["defaults", "warm start: old trial 10", "warm start: old trial 11", None]
    assert all(trial.values is None for trial in stored)


def test_a_journal_that_is_not_new_takes_no_starts(tmp_path: Path):
    joint = space("x", lr=LR)
    open_suggester(tmp_path / "journal", joint, ()).ask()
    again = open_suggester(
        tmp_path / "journal", joint, (Start(values={"architecture": "x", "lr": 2e-2}, origin="late"),)
    )
    assert again.ask().hyperparameters.lr != 2e-2


def test_a_study_that_starts_from_one_of_the_same_seed_does_not_draw_the_same_again(tmp_path: Path):
    joint = space("x", lr=LR)
    before = open_suggester(tmp_path / "before", joint, ())
    drawn = [before.ask().hyperparameters.lr for _ in range(6)]
    starts = warm_start([study(joint, {"lr": drawn[1]}, {"lr": drawn[2]})], joint, n_trials=9).starts
    after = open_suggester(tmp_path / "after", joint, starts)
    again = [after.ask().hyperparameters.lr for _ in range(8)]
    assert again[1:3] == drawn[1:3]
    assert not set(again[3:]) & set(drawn)
