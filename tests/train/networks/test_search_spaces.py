"""The shipped search spaces, against the plan's types and against timm."""

from pathlib import Path

import pytest

from consilia.config.catalog import load, names
from consilia.config.network import ModelSpec
from consilia.config.space import Hyperparameters, SearchSpace
from consilia.train.networks.factory import check_architecture, check_image_size

NAMES = names("search_spaces")
FULL = ["resnet", "densenet", "efficientnet", "efficientnet_lite"]


def read(name: str) -> SearchSpace:
    return load("search_spaces", name, SearchSpace, base=Path())


def defaults(space: SearchSpace, architecture: str, *, from_scratch: bool) -> Hyperparameters:
    values = {"architecture": architecture}
    for name, parameter in {**space.parameters, **(space.from_scratch if from_scratch else {})}.items():
        if all(values.get(key) in allowed for key, allowed in parameter.when.items()):
            values[name] = parameter.default
    return Hyperparameters.model_validate(values)


def test_all_families_ship():
    assert sorted([*FULL, "tiny", "tiny_augmented"]) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_architecture_exists_and_takes_its_defaults(name):
    space = read(name)
    for key, architecture in space.architectures.items():
        check_architecture(architecture)
        for from_scratch in (False, True):
            options = defaults(space, key, from_scratch=from_scratch)
            spec = ModelSpec(
                architecture=architecture,
                n_classes=2,
                channels=1,
                drop_path=options.drop_path,
                head_dropout=options.head_dropout,
            )
            check_image_size(spec, 28 if name.startswith("tiny") else 64)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_a_hyperparameter_and_every_condition_stands_after_what_it_asks(name):
    space = read(name)
    assert set(space.parameters) | set(space.from_scratch) <= set(Hyperparameters.model_fields)
    assert set(space.from_scratch) <= set(space.parameters)
    seen = {"architecture": set(space.architectures)}
    for key, parameter in space.parameters.items():
        for asked, allowed in parameter.when.items():
            assert set(allowed) <= seen[asked]
        seen[key] = set(getattr(parameter, "values", ()))


def test_shared_parameters_have_one_range_in_all_families():
    for section in ("parameters", "from_scratch"):
        spaces = [getattr(read(name), section) for name in (FULL if section == "from_scratch" else [*FULL, "tiny"])]
        for key in set.union(*(set(space) for space in spaces)):
            ranges = [space[key].model_copy(update={"when": {}}) for space in spaces if key in space]
            assert all(other == ranges[0] for other in ranges), key


def test_the_augmented_space_is_tiny_but_for_where_augmentation_begins():
    tiny, augmented = (read(name).model_dump() for name in ("tiny", "tiny_augmented"))
    assert augmented["parameters"]["augmentation"].pop("low") == 0.5
    assert tiny["parameters"]["augmentation"].pop("low") == 0
    assert {**augmented, "family": "tiny"} == tiny
