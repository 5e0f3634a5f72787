"""What a network shows of itself, on every architecture that ships."""

from pathlib import Path

import pytest
import torch
from torch import nn

from consilia.config.catalog import load, names
from consilia.config.network import ModelSpec
from consilia.config.space import Architecture, SearchSpace
from consilia.errors import PlanError
from consilia.train.networks.factory import build_model
from consilia.train.networks.layers import (
    layer_groups,
    pooling_layer,
)

ARCHITECTURES = {
    name: architecture
    for space in names("search_spaces")
    for name, architecture in load("search_spaces", space, SearchSpace, base=Path()).architectures.items()
}


def build(architecture: Architecture) -> nn.Module:
    torch.manual_seed(0)
    return build_model(ModelSpec(architecture=architecture, n_classes=3, channels=1)).eval()


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", "densenet121", "efficientnet_b0", "tf_efficientnetv2_s", "test_resnet"]
)
def test_layer_groups_hold_each_parameter_once_with_the_stem_first_and_the_head_alone_last(name):
    with torch.device("meta"):
        model = build_model(ModelSpec(architecture=Architecture(timm=name), n_classes=3, channels=1))
    groups = layer_groups(model)
    names = [name for group in groups for name in group]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert next(model.named_parameters())[0] in groups[0]
    assert groups[-1] == [f"{model.default_cfg['classifier']}.{kind}" for kind in ("weight", "bias")]
    assert len(groups) > 5


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "densenet121", "resnet50", "efficientnet_b0"])
def test_the_pooling_layer_is_given_the_last_feature_map(name):
    model = build_model(ModelSpec(architecture=Architecture(timm=name), n_classes=2, channels=1)).eval()
    given = []
    pooling_layer(model).register_forward_pre_hook(lambda layer, inputs: given.append(inputs[0].clone()))
    image = torch.randn(1, 1, 64, 64)
    with torch.inference_mode():
        model(image)
        expected = model.forward_features(image)
    assert len(given) == 1
    assert expected.shape[1] == model.num_features
    torch.testing.assert_close(given[0], expected)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_a_network_whose_features_have_no_such_place_says_so(name):
    with torch.device("meta"):
        model = build_model(ModelSpec(architecture=Architecture(timm=name), n_classes=2, channels=3))
    with pytest.raises(PlanError, match="must pool feature maps"):
        pooling_layer(model)
