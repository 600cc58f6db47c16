"""The network that tests of portable graphs are about, and what a rewrite must keep."""

import torch
from torch import nn

SHAPE = (1, 8, 8, 12)


class Network(nn.Module):
    """A convolution ``stem``, further layers, parameters and buffers by name, and a function of the network and its input."""

    def __init__(self, function, **parts):
        super().__init__()
        self.stem = nn.Conv2d(8, 8, 3, padding=1)
        self.function = function
        for name, part in parts.items():
            if isinstance(part, nn.Module | nn.Parameter):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part)
        self.eval()

    def forward(self, x):
        return self.function(self, x)


def assert_same(module, graph, example):
    with torch.no_grad():
        torch.testing.assert_close(graph(*example), module(*example), atol=2e-5, rtol=1e-5)
