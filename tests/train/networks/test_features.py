"""Features come out of the pass that gives the logits, on every architecture that ships."""

from pathlib import Path

import pytest
import torch
from torch import nn

from consilia.config.catalog import load, names
from consilia.config.space import Architecture, SearchSpace
from consilia.errors import PlanError
from consilia.train.networks.factory import ModelSpec, build_model
from consilia.train.networks.features import count_features, has_features, logits_and_features

ARCHITECTURES = {
    name: architecture
    for space in names("search_spaces")
    for name, architecture in load("search_spaces", space, SearchSpace, base=Path()).architectures.items()
}


def build(architecture: Architecture) -> nn.Module:
    torch.manual_seed(0)
    return build_model(ModelSpec(architecture=architecture, n_classes=3, channels=1)).eval()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_one_pass_gives_the_very_logits_and_the_means_of_two_stages(name):
    model = build(ARCHITECTURES[name])
    stages = [str(info["module"]) for info in model.feature_info]
    chosen = [stages[(len(stages) - 1) // 2], stages[-1]]
    outputs = {stage: [] for stage in chosen}
    inputs = torch.randn(2, 1, 64, 64)
    with torch.inference_mode():
        expected = model(inputs)
        for stage in chosen:
            model.get_submodule(stage).register_forward_hook(lambda _, __, out, to=outputs[stage]: to.append(out))
        logits, features = logits_and_features(model, inputs)
    assert torch.equal(logits, expected)
    assert [len(outputs[stage]) for stage in chosen] == [1, 1]  # a second pass would pass them twice
    assert torch.equal(features, torch.cat([outputs[stage][0].mean(dim=(2, 3)) for stage in chosen], dim=1))
    assert features.dtype == torch.float32
    assert features.shape == (2, count_features(model))


def test_a_network_that_shows_no_stages_is_refused_by_name():
    assert not has_features(nn.Linear(3, 2))
    with pytest.raises(PlanError, match="Linear does not show its stages"):
        count_features(nn.Linear(3, 2))


def test_a_network_with_more_features_than_a_bundle_keeps_is_refused():
    model = build(Architecture(timm="test_resnet"))
    model.feature_info = [{"num_chs": 2048}, {"num_chs": 2049}]
    assert not has_features(model)
