import copy

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from consilia.train.average import WeightAverage


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
