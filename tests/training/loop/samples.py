"""Small captures and a small student for tests of the loop."""

import numpy as np
import torch

from edge_dp.preprocessing import ExposureNormalisation
from edge_dp.training.labels import Samples
from edge_dp.training.loop.batches import BatchMaker
from edge_dp.training.loop.sources import InMemory
from edge_dp.training.recipe import FloatStageRecipe, TargetRecipe

CPU = torch.device("cpu")


class Linear(torch.nn.Module):
    """The smallest network with a student's interface."""

    def __init__(self):
        super().__init__()
        self.disparity = torch.nn.Conv2d(2, 1, 2, 2)
        self.confidence = torch.nn.Conv2d(2, 1, 2, 2)

    def forward(self, views):
        return self.disparity(views), self.confidence(views)


EXPOSURE = ExposureNormalisation()


def some_samples(count=12, size=16, seed=0):
    rng = np.random.default_rng(seed)
    views = rng.uniform(0.05, 0.3, (count, 2, size, size)).astype(np.float16)
    label = rng.normal(0, 1, (count, size // 2, size // 2)).astype(np.float16)
    sigma = rng.uniform(0.05, 0.3, label.shape).astype(np.float16)
    truth = (label + rng.normal(0, 0.1, label.shape)).astype(np.float16)
    return Samples(views=views, label=label, sigma=sigma, mask=rng.uniform(size=label.shape) < 0.8, truth=truth)


def maker(samples, seed=3, targets=None, exposure=EXPOSURE):
    targets = targets or TargetRecipe()
    return BatchMaker(InMemory(samples, use_mask=targets.use_mask), targets, exposure, seed, CPU)


def stage(batch, **settings):
    return FloatStageRecipe(steps=20, learning_rate=0.01, batch=batch, **settings)


def draw(samples, size, step=0, number=0, seed=3, targets=None, share=None, exposure=EXPOSURE, **settings):
    """The batch of one step."""
    make = maker(samples, seed, targets, exposure)
    return make(number, step, stage(size, **settings), share or range(size))
