import copy
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from consilia.config.network import ModelSpec
from consilia.config.space import Architecture, Hyperparameters
from consilia.train.networks.factory import build_model
from consilia.train.optimiser import WeightAverage, layer_scales, lr_factor, make_optimiser, parameter_groups, set_lr

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


def test_after_the_warm_up_the_factor_is_torchs_cosine():
    n_steps, n_warmup = 200, 20
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=n_steps - n_warmup)
    for step in range(n_warmup, n_steps):
        assert lr_factor(step, n_steps=n_steps, warmup=0.1) == pytest.approx(cosine.get_last_lr()[0], abs=1e-9)
        optimiser.step()
        cosine.step()


def test_the_warm_up_rises_by_equal_steps_to_the_peak():
    factors = [lr_factor(step, n_steps=200, warmup=0.1) for step in range(21)]
    rises = [later - earlier for earlier, later in pairwise(factors)]
    assert factors[0] > 0
    assert factors[20] == 1
    assert rises == pytest.approx([rises[0]] * 20)


@pytest.mark.parametrize(("n_steps", "warmup"), [(1, 0.0), (1, 0.9), (2, 0.5), (50, 0.05), (1000, 0.1)])
def test_every_step_has_a_positive_rate_and_the_last_is_the_smallest_after_the_peak(n_steps, warmup):
    factors = [lr_factor(step, n_steps=n_steps, warmup=warmup) for step in range(n_steps)]
    assert all(0 < factor <= 1 for factor in factors)
    if n_steps >= 50:
        assert factors[-1] < 0.005
        assert max(factors) == 1


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2))


def test_the_average_equals_torchs_averaged_model_with_the_same_decays():
    model = network()
    ours = WeightAverage(model, steps_per_epoch=5)
    taken = 0

    def lerp(averaged, current, _):
        for mine, theirs in zip(averaged, current, strict=True):
            if mine.is_floating_point():
                mine.lerp_(theirs, 1 - ours.decay(taken))
            else:
                mine.copy_(theirs)

    theirs = AveragedModel(model, multi_avg_fn=lerp, use_buffers=True)
    theirs.n_averaged += 1  # else the first update copies instead of averaging
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for taken in range(12):  # lerp reads it
        optimiser.zero_grad()
        model(torch.randn(8, 1, 8, 8)).pow(2).mean().backward()
        optimiser.step()
        ours.update(taken)
        theirs.update_parameters(model)
    for name, tensor in theirs.module.state_dict().items():
        torch.testing.assert_close(ours.module.state_dict()[name], tensor, msg=name)
    assert (ours.module[1].running_mean != model[1].running_mean).any()  # averaged, not copied


def test_a_short_training_forgets_its_random_first_weights():
    model = network()
    average = WeightAverage(model, steps_per_epoch=50)
    first = copy.deepcopy(average.module[3].weight)
    with torch.no_grad():
        model[3].weight.fill_(1.0)
    for step in range(100):
        average.update(step)
    left = (average.module[3].weight - 1).abs().max() / (first - 1).abs().max()
    assert left < 1e-6


def test_the_horizon_is_an_epoch_once_the_training_is_long_enough():
    average = WeightAverage(network(), steps_per_epoch=49)
    assert average.decay(10**6) == 1 - 1 / 50
    decays = [average.decay(step) for step in range(1000)]
    assert decays == sorted(decays)
