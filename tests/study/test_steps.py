"""The study's largest steps, of which the most demanding are measured."""

import pytest

from consilia.config.space import Choice, IntRange
from consilia.config.study import StudyPlan
from consilia.study.opened import OpenStudy
from consilia.study.plan import read_plan
from consilia.study.slots import largest_image_size, largest_steps
from consilia.train.memory_probe import most_demanding
from consilia.train.step_case import StepCase


@pytest.fixture
def study(trained) -> OpenStudy:
    return study_of(trained, trained.plan)


def study_of(trained, plan: StudyPlan) -> OpenStudy:
    return OpenStudy(plan=plan, folder=trained.folder, stores=trained.stores)


def names(steps: tuple[StepCase, ...]) -> list[str]:
    return [each.hyperparameters.architecture for each in steps]


def test_of_large_and_small_networks_only_the_large_ones_are_measured_largest_last(trained):
    plan = read_plan(trained.file, settings=["spaces=[efficientnet_lite, densenet, resnet]"], networks=False)
    measured = names(most_demanding(largest_steps(study_of(trained, plan))))
    assert measured[-1] == "resnet50"
    assert not {"resnet18", "efficientnet_lite0"} & set(measured)


def test_each_architecture_of_all_spaces_has_a_step(trained):
    plan = read_plan(trained.file, settings=["spaces=[resnet, densenet]"], networks=False)
    expected = [name for space in plan.spaces for name in space.architectures]
    assert names(largest_steps(study_of(trained, plan))) == expected


def test_a_step_is_the_studys_own(study):
    for step in largest_steps(study):
        assert (step.batch_size, step.preprocessing.image_size, step.preprocessing.size) == (16, 32, 32)
        assert step.spec.n_classes == len(study.store.classes)


def test_a_worker_takes_its_share_of_the_batch(trained):
    plan = trained.plan.model_copy(update={"cluster": trained.plan.cluster.model_copy(update={"workers_per_trial": 3})})
    step = largest_steps(study_of(trained, plan))[0]
    assert (step.batch_size, step.n_workers) == (6, 3)


def test_what_makes_a_step_larger_is_at_its_largest(study):
    options = largest_steps(study)[0].hyperparameters
    assert (options.mixup, options.head_dropout, options.augmentation) == (0.4, 0.4, 1)


@pytest.mark.parametrize(
    ("range_", "largest"),
    [
        (None, 32),
        (Choice(values=(24, 96, 64), default=64), 96),
        (IntRange(low=16, high=48, default=32), 48),
        (Choice(values=(96,), default=96, when={"architecture": ("test_efficientnet",)}), 32),  # not this one's
        (Choice(values=(24,), default=24, when={"imbalance": ("focal",)}), 32),  # else the study's
    ],
)
def test_the_largest_image_size_is_that_of_the_space_where_it_searches_one(trained, range_, largest):
    space = trained.plan.spaces[0]
    if range_ is not None:
        space = space.model_copy(update={"parameters": {**space.parameters, "image_size": range_}})
    plan = trained.plan.model_copy(update={"spaces": (space,)})
    assert largest_image_size(study_of(trained, plan), "test_resnet") == largest
