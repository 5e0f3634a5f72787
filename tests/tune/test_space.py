"""Several families as one space."""

from pathlib import Path

import pytest

from consilia.config.catalog import load
from consilia.config.space import Architecture, Choice, FloatRange, IntRange, SearchSpace
from consilia.errors import PlanError
from consilia.tune.space import join_spaces

LR = FloatRange(low=1e-4, high=1e-2, log=True, default=1e-3)


def space(family: str, *architectures: str, **parameters: FloatRange | IntRange | Choice) -> SearchSpace:
    return SearchSpace(
        family=family,
        architectures={name: Architecture(timm=name) for name in architectures},
        start_with=architectures[:1],
        parameters=parameters,
    )


def shipped(*names: str) -> list[SearchSpace]:
    return [load("search_spaces", name, SearchSpace, base=Path.cwd()) for name in names]


def test_architecture_is_one_choice_over_all_families():
    joint = join_spaces([space("a", "x", "y", lr=LR), space("b", "z", lr=LR)], weights="none")
    asked = {}
    joint.draw(lambda name, range_: asked.setdefault(name, range_).default)
    assert asked["architecture"].values == ("x", "y", "z")


def test_a_parameter_of_one_family_is_not_asked_of_another():
    only_a = FloatRange(low=0, high=0.2, default=0.1)
    joint = join_spaces([space("a", "x", lr=LR, drop_path=only_a), space("b", "z", lr=LR)], weights="none")
    assert joint.defaults("x") == {"architecture": "x", "lr": 1e-3, "drop_path": 0.1}
    assert joint.defaults("z") == {"architecture": "z", "lr": 1e-3}


def test_a_condition_on_another_parameter_is_followed():
    imbalance = Choice(values=("cross_entropy", "logit_adjustment"), default="cross_entropy")
    tau = FloatRange(low=0, high=1, default=1, when={"imbalance": ("logit_adjustment",)})
    joint = join_spaces([space("a", "x", imbalance=imbalance, tau=tau)], weights="none")
    assert "tau" not in joint.defaults("x")
    chosen = {"architecture": "x", "imbalance": "logit_adjustment", "tau": 0.5}
    assert joint.draw(lambda name, _: chosen[name]) == chosen


def test_ranges_for_training_from_scratch_replace_the_others_only_without_weights():
    both = space("a", "x", lr=LR).model_copy(
        update={"from_scratch": {"lr": FloatRange(low=1e-3, high=1e-1, log=True, default=5e-2)}}
    )
    assert join_spaces([both], weights="none").defaults("x")["lr"] == 5e-2
    assert join_spaces([both], weights="imagenet").defaults("x")["lr"] == 1e-3


def test_a_shared_name_with_two_ranges_is_refused_with_both_families():
    wider = LR.model_copy(update={"high": 1.0})
    with pytest.raises(PlanError, match=r"lr has another range in b than in a"):
        join_spaces([space("a", "x", lr=LR), space("b", "z", lr=wider)], weights="none")


def test_a_condition_on_what_is_not_drawn_before_is_refused():
    tau = FloatRange(low=0, high=1, default=1, when={"imbalanced": ("logit_adjustment",)})
    with pytest.raises(PlanError, match=r"tau.when names 'imbalanced'"):
        join_spaces([space("a", "x", tau=tau)], weights="none")


@pytest.mark.parametrize("weights", ["none", "imagenet"])
def test_the_shipped_families_can_be_searched_together(weights: str):
    joint = join_spaces(shipped("resnet", "densenet", "efficientnet"), weights=weights)
    assert {"resnet18", "densenet121", "efficientnet_b0"} <= set(joint.start_with)
    for name in joint.architectures:
        assert joint.restore(joint.defaults(name)) is not None


def test_a_half_drawn_configuration_is_not_restored():
    joint = join_spaces([space("a", "x", lr=LR)], weights="none")
    assert joint.restore({"architecture": "x"}) is None
    assert joint.restore({}) is None
