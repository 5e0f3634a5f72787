from itertools import pairwise

import pytest
import torch

from consilia.config.hyperparameters import Hyperparameters
from consilia.config.space import Architecture
from consilia.train.networks.factory import ModelSpec, build_model
from consilia.train.optimiser import layer_scales, make_optimiser, parameter_groups, set_lr

OPTIONS = Hyperparameters(
    architecture="densenet121", lr=1e-3, smallest_layer_lr=0.3, head_lr_factor=3.0, weight_decay=0.02
)


@pytest.fixture(scope="module")
def densenet():
    spec = ModelSpec(architecture=Architecture(timm="densenet121"), n_classes=2, channels=1)
    with torch.device("meta"):
        return build_model(spec)


def test_scales_of_a_densenet_rise_by_one_ratio_from_the_smallest_to_the_heads_factor(densenet):
    scales = [scale for scale, _ in layer_scales(densenet, OPTIONS)]
    assert len(scales) > 50
    assert scales[0] == pytest.approx(0.3)
    assert scales[-1] == pytest.approx(3.0)
    body = scales[:-1]
    ratios = [later / earlier for earlier, later in pairwise(body)]
    assert ratios == pytest.approx([0.3 ** (-1 / (len(scales) - 1))] * len(ratios))


def test_every_parameter_is_optimised_once_and_only_matrices_decay(densenet):
    groups = parameter_groups(densenet, OPTIONS)
    members = [parameter for group in groups for parameter in group["params"]]
    assert sorted(map(id, members)) == sorted(map(id, densenet.parameters()))
    for group in groups:
        decays = {0.02 if parameter.ndim > 1 else 0.0 for parameter in group["params"]}
        assert decays == {group["weight_decay"]}


def test_equal_scales_share_a_group(densenet):
    options = OPTIONS.model_copy(update={"smallest_layer_lr": 1.0, "head_lr_factor": 1.0})
    assert len(parameter_groups(densenet, options)) == 2


def test_a_scheduled_rate_reaches_every_group_at_its_scale():
    spec = ModelSpec(architecture=Architecture(timm="test_resnet"), n_classes=2, channels=1)
    optimiser = make_optimiser(build_model(spec), OPTIONS)
    set_lr(optimiser, 0.01)
    rates = sorted({group["lr"] for group in optimiser.param_groups})
    assert rates[0] == pytest.approx(0.003)
    assert rates[-1] == pytest.approx(0.03)
