"""What a network shows of itself."""

import pytest
import torch

from consilia.config.network import ModelSpec
from consilia.config.space import Architecture
from consilia.train.networks.factory import build_model
from consilia.train.networks.layers import layer_groups


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
