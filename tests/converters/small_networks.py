"""Networks of a few hundred weights, and samples for them."""

import numpy as np
import torch
from torch import nn

LEFT, RIGHT = (1, 1, 16, 24), (1, 2, 8, 12)
SHAPE = (1, 2, 8, 12)


class TwoViews(nn.Module):
    """Two inputs of different shape, two outputs in a dict."""

    def __init__(self):
        super().__init__()
        self.left = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.right = nn.Conv2d(2, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 1, 3, padding=1)
        self.tail = nn.Conv2d(8, 2, 1)

    def forward(self, left, right):
        both = self.left(left) + self.right(right)
        return {"disparity": self.head(both), "confidence": torch.sigmoid(self.tail(both))}


class Small(nn.Module):
    """One input, one output."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 1, 1)

    def forward(self, x):
        return self.head(torch.relu(self.first(x)))


def samples(*shapes, count=3):
    rng = np.random.default_rng(0)
    return [tuple(rng.random(shape, np.float32) for shape in shapes) for _ in range(count)]
