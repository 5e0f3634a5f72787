"""The names that are read from timm's source are those that timm itself knows."""

import timm

from consilia.config.catalog import load, names
from consilia.config.space import SearchSpace
from consilia.train.networks.names import _models, is_surely_known


def test_every_name_that_is_found_is_known_to_timm():
    assert _models()
    assert [name for name in _models() if not timm.is_model(name)] == []


def test_every_architecture_of_a_shipped_search_space_is_found(tmp_path):
    for name in names("search_spaces"):
        space = load("search_spaces", name, SearchSpace, base=tmp_path)
        assert is_surely_known(each.timm.partition(".")[0] for each in space.architectures.values())


def test_of_several_names_a_single_unknown_one_is_enough_to_ask_timm_itself():
    assert is_surely_known(["resnet18"])
    assert not is_surely_known(["resnet18", "resnet_18"])
    assert not is_surely_known(["resnet18.a1_in1k"])  # of its weights, timm knows
