import copy
import statistics
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from consilia.config.network import ModelSpec
from consilia.config.space import Architecture, Hyperparameters
from consilia.train.networks.factory import build_model
from consilia.train.optimiser import (
    WeightAverage,
    average_decay,
    layer_scales,
    lr_factor,
    parameter_groups,
    restore_optimiser,
)

OPTIONS = Hyperparameters(
    architecture="densenet121", lr=1e-3, smallest_layer_lr=0.3, head_lr_factor=3.0, weight_decay=0.02
)


@pytest.fixture(scope="module")
def densenet():
    spec = ModelSpec(architecture=Architecture(timm="densenet121"), n_classes=2, channels=1)
    with torch.device("meta"):
        return build_model(spec)


def test_scales_of_a_densenet_rise_in_three_levels_by_one_ratio_and_the_head_has_its_factor(densenet):
    scales = [scale for scale, _ in layer_scales(densenet, OPTIONS)]
    assert len(scales) > 50
    assert scales[-1] == 3.0
    body = scales[:-1]
    levels = sorted(set(body))
    assert body == sorted(body)
    assert all(abs(body.count(level) - len(body) / 3) < 1 for level in levels)
    # Each level has the geometric mean of what its layers would have had one by one.
    one_by_one = [0.3 ** ((len(body) - depth) / len(body)) for depth in range(len(body))]
    for level in levels:
        members = [each for each, mine in zip(one_by_one, body, strict=True) if mine == level]
        assert level == pytest.approx(statistics.geometric_mean(members))


@pytest.mark.parametrize("name", ["densenet121", "resnet18", "efficientnet_b0", "test_resnet"])
def test_no_network_has_more_than_eight_groups(name):
    spec = ModelSpec(architecture=Architecture(timm=name), n_classes=2, channels=1)
    with torch.device("meta"):
        assert 4 < len(parameter_groups(build_model(spec), OPTIONS)) <= 8


def test_scales_of_a_small_network_by_hand():
    spec = ModelSpec(architecture=Architecture(timm="test_resnet"), n_classes=2, channels=1)
    with torch.device("meta"):
        scales = [scale for scale, _ in layer_scales(build_model(spec), OPTIONS)]
    # Five layers below the head: powers 1, .8, .6, .4 and .2 in three levels.
    assert scales == pytest.approx([0.3**0.9, 0.3**0.9, 0.3**0.5, 0.3**0.5, 0.3**0.2, 3.0])


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


def test_a_checkpoints_moments_are_gone_on_from_and_its_options_are_not():
    model = network()
    first, second = (make_optimiser_of(model, lr) for lr in (0.1, 0.2))
    model(torch.randn(8, 1, 8, 8)).pow(2).mean().backward()
    first.step()
    stored = first.state_dict()
    stored["param_groups"][0]["capturable"] = True  # as on a GPU
    restore_optimiser(second, stored)
    assert [group["lr"] for group in second.param_groups] == [0.2]
    assert not second.param_groups[0]["capturable"]
    for parameter in model.parameters():
        assert torch.equal(second.state[parameter]["exp_avg"], first.state[parameter]["exp_avg"])
        assert second.state[parameter]["step"] == 1


def make_optimiser_of(model: nn.Module, lr: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=lr, fused=True)


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


@pytest.mark.parametrize("numbers", [True, False])
def test_the_average_equals_torchs_averaged_model_with_the_same_decays(numbers: bool):
    model = network()
    ours = WeightAverage(model)
    decay = partial(average_decay, steps_per_epoch=5)
    taken = 0

    def lerp(averaged, current, _):
        for mine, theirs in zip(averaged, current, strict=True):
            if mine.is_floating_point():
                mine.lerp_(theirs, 1 - decay(taken))
            else:
                mine.copy_(theirs)

    theirs = AveragedModel(model, multi_avg_fn=lerp, use_buffers=True)
    theirs.n_averaged += 1  # else the first update copies instead of averaging
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for taken in range(12):  # lerp reads it
        optimiser.zero_grad()
        model(torch.randn(8, 1, 8, 8)).pow(2).mean().backward()
        optimiser.step()
        ours.update(1 - decay(taken) if numbers else torch.tensor(1 - decay(taken)))
        theirs.update_parameters(model)
    ours.copy_counts()
    for name, tensor in theirs.module.state_dict().items():
        torch.testing.assert_close(ours.module.state_dict()[name], tensor, msg=name)
    assert (ours.module[1].running_mean != model[1].running_mean).any()  # averaged, not copied


def test_a_short_training_forgets_its_random_first_weights():
    model = network()
    average = WeightAverage(model)
    first = copy.deepcopy(average.module[3].weight)
    with torch.no_grad():
        model[3].weight.fill_(1.0)
    for step in range(100):
        average.update(1 - average_decay(step, steps_per_epoch=50))
    left = (average.module[3].weight - 1).abs().max() / (first - 1).abs().max()
    assert left < 1e-6


def test_the_horizon_is_an_epoch_once_the_training_is_long_enough():
    assert average_decay(10**6, steps_per_epoch=49) == 1 - 1 / 50
    decays = [average_decay(step, steps_per_epoch=49) for step in range(1000)]
    assert decays == sorted(decays)
