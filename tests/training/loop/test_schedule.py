import math

import numpy as np
import pytest
import torch

from edge_dp.training.loop.schedule import rates


def test_cosine_rises_for_the_warmup_and_falls_as_half_a_cosine():
    pairs = [rates("cosine", 0.02, 0.1, 100, step) for step in range(100)]
    rate = [pair[0] for pair in pairs]
    assert rate[:10] == pytest.approx([0.002 * k for k in range(1, 11)])
    assert rate[10] == pytest.approx(0.02)
    assert rate[55] == pytest.approx(0.01)  # half way down
    assert rate[40] == pytest.approx(0.02 * math.cos(math.pi / 6) ** 2)  # a third of the way: cos^2 of half the angle
    assert 0 < rate[99] < 1e-5
    assert (np.diff(rate[10:]) < 0).all()
    assert {pair[1] for pair in pairs} == {0.9}


@pytest.mark.parametrize("warmup", [0.3, 0.1])
def test_one_cycle_is_that_of_pytorch(warmup):
    optimiser = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.02, betas=(0.9, 0.999))
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.02, total_steps=60, pct_start=warmup)
    for step in range(60):
        group = optimiser.param_groups[0]
        rate, momentum = rates("one_cycle", 0.02, warmup, 60, step)
        assert rate == pytest.approx(group["lr"], rel=1e-9)
        assert momentum == pytest.approx(group["betas"][0], rel=1e-9)
        optimiser.step()
        if step < 59:
            theirs.step()


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_every_step_of_a_short_stage_has_a_rate(schedule, warmup, steps):
    for step in range(steps):
        rate, momentum = rates(schedule, 0.02, warmup, steps, step)
        assert 0 <= rate <= 0.02 and 0.85 <= momentum <= 0.95
    assert max(rates(schedule, 0.02, warmup, steps, step)[0] for step in range(steps)) > 0
