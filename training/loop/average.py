"""Exponential moving average of weights: steadier than the weights of any one step, and usually a little better."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class MovingAverage:
    """Average of a module's parameters and of the statistics of its batch-norms.

    a <- a + (1 - d_t) (w - a), d_t = min(decay, (1 + t) / (10 + t)): over few steps at first, so that a short training does not
    end with its beginning.

    Args:
        module: whose weights are followed.
        decay: in [0, 1); 0 follows nothing, and the average is the module itself.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.followed = _followed(module) if decay else {}
        self.values = {name: tensor.detach().clone() for name, tensor in self.followed.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after ``step`` steps."""
        if self.values:
            weight = 1.0 - min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(self.values.values()), list(self.followed.values()), weight)

    @torch.no_grad()
    def put_in(self) -> None:
        """Give the module the average."""
        for name, tensor in self.followed.items():
            tensor.copy_(self.values[name])

    @contextlib.contextmanager
    def instead(self) -> Iterator[None]:
        """The module holds the average within the block, and its own weights again after it."""
        own = {name: tensor.detach().clone() for name, tensor in self.followed.items()}
        self.put_in()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in self.followed.items():
                    tensor.copy_(own[name])


def _followed(module: nn.Module) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = dict(module.named_parameters())
    for path, norm in module.named_modules():
        if isinstance(norm, nn.BatchNorm2d):
            tensors |= {f"{path}.{name}": buffer for name, buffer in norm.named_buffers() if buffer.is_floating_point()}
    return tensors
