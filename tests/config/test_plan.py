"""What the frozen plans accept, refuse and keep."""

import math

import pytest
from pydantic import ValidationError

from consilia.config.card import DataCard, FolderSource
from consilia.config.recipe import BestSingle, EnsembleRecipe
from consilia.config.space import Architecture, Choice, FloatRange, Hyperparameters, IntRange, SearchSpace
from consilia.config.study import ClusterProfile, StudyPlan, TrainingPlan

SPACE = SearchSpace(
    family="f",
    architectures={"a": Architecture(timm="test_resnet")},
    start_with=("a",),
    parameters={"lr": FloatRange(low=1e-4, high=1e-1, log=True, default=1e-3)},
)


def plan(**changes) -> StudyPlan:
    values = {
        "name": "study",
        "data": DataCard(name="card", source=FolderSource(), path="/one/place"),
        "spaces": (SPACE,),
        "ensemble": EnsembleRecipe(name="best", selection=BestSingle()),
    }
    return StudyPlan(**{**values, **changes})


def test_a_plan_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        plan().seed = 3


@pytest.mark.parametrize(
    ("epochs", "score_every", "scored"),
    [
        (5, None, [1, 2, 3, 4, 5]),
        (39, None, list(range(1, 40))),
        (50, None, list(range(2, 51, 2))),
        (101, None, [*range(5, 101, 5), 101]),
        (7, 3, [3, 6, 7]),
        (4, 9, [4]),
    ],
)
def test_about_twenty_epochs_are_scored_and_always_the_last(epochs: int, score_every: int | None, scored: list[int]):
    training = TrainingPlan(epochs=epochs, score_every=score_every)
    assert [epoch for epoch in range(1, epochs + 1) if training.is_scored(epoch)] == scored


def test_the_digest_is_of_what_decides_the_result():
    digest = plan().digest
    assert plan().digest == digest
    assert plan(seed=1).digest != digest
    assert plan(training=TrainingPlan(epochs=3)).digest != digest
    assert plan(data=DataCard(name="card", source=FolderSource(), path="/one/place", size=64)).digest != digest


def test_the_digest_is_not_of_where_it_runs_or_where_the_data_lie():
    digest = plan().digest
    assert plan(cluster=ClusterProfile(address="auto", max_slots=2)).digest == digest
    assert plan(data=DataCard(name="card", source=FolderSource(), path="/another")).digest == digest
    assert plan(data=DataCard(name="card", source=FolderSource(), path="/another", positive="b")).digest == digest


def test_networks_see_the_stored_size_unless_the_plan_says_otherwise():
    assert plan().image_size == 224
    assert plan(training=TrainingPlan(image_size=96)).image_size == 96


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b", "-a", "a\nb"])
def test_a_name_that_could_not_be_a_folder_is_refused(name):
    with pytest.raises(ValidationError, match="name"):
        plan(name=name)
    with pytest.raises(ValidationError, match="name"):
        EnsembleRecipe(name=name, selection=BestSingle())
    with pytest.raises(ValidationError, match="name"):
        DataCard(name=name, source=FolderSource())


@pytest.mark.parametrize("kind", [FloatRange, IntRange])
@pytest.mark.parametrize(
    ("range_", "message"),
    [
        ({"low": 2, "high": 1, "default": 1}, "the range is empty"),
        ({"low": 0, "high": 1, "default": 1, "log": True}, "low > 0 must hold for log: true, but got low=0"),
        ({"low": -1, "high": 1, "default": 1, "log": True}, "low > 0 must hold for log: true, but got low=-1"),
        ({"low": 0, "high": 1, "default": 2}, "default must lie in"),
    ],
)
def test_a_range_that_cannot_be_drawn_from_is_refused(kind, range_, message):
    with pytest.raises(ValidationError, match=message):
        kind(**range_)


@pytest.mark.parametrize("bound", [math.inf, math.nan])
def test_a_range_without_a_finite_end_is_refused(bound):
    with pytest.raises(ValidationError, match="must be finite"):
        FloatRange(low=0, high=bound, default=0)


def test_a_range_of_one_value_is_a_constant():
    assert FloatRange(low=1, high=1, default=1).default == 1


def test_a_choice_holds_its_default_and_at_least_one_value():
    with pytest.raises(ValidationError, match="default must be one of"):
        Choice(values=("a", "b"), default="c")
    with pytest.raises(ValidationError, match="at least 1 item"):
        Choice(values=(), default="c")


def test_a_space_starts_with_its_own_architectures():
    with pytest.raises(ValidationError, match=r"start_with must name architectures of this file, but got 'b'"):
        SearchSpace(family="f", architectures=SPACE.architectures, start_with=("b",), parameters={})


def test_classes_must_differ():
    with pytest.raises(ValidationError, match="classes must differ"):
        DataCard(name="x", source=FolderSource(), classes=("a", "b", "a"))


@pytest.mark.parametrize("values", [{"lr": 0}, {"warmup": 1}, {"imbalance": "none"}, {"mixup": -1}, {"image_size": 4}])
def test_a_hyperparameter_outside_its_meaning_is_refused(values):
    with pytest.raises(ValidationError, match=next(iter(values))):
        Hyperparameters(architecture="a", **values)
