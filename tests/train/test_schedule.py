from itertools import pairwise

import pytest
import torch

from consilia.train.schedule import lr_factor


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
