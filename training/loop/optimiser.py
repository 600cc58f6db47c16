"""AdamW, and Muon: a step's direction in the space of all convolutions, with no weight's step larger because others' are small.

A kernel (C_out, C_in, k, k) is a matrix of C_out rows. Muon follows its momentum, but with all singular values made about 1, so
that what few captures have in common is learned as fast as what all of them do. Sources: Jordan et al., Muon, 2024
(https://kellerjordan.github.io/posts/muon, whose coefficients these are); Bernstein and Newhouse, 2024, for why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edge_dp.training.recipe import StageRecipe

_QUINTIC = 3.4445, -4.7750, 2.0315
"""Of an odd polynomial that moves whatever is in (0, 1] to between 0.7 and 1.2, within five turns."""
_TURNS = 5
_MOMENTUM = 0.95


def optimiser(parameters: Sequence[nn.Parameter], recipe: StageRecipe) -> torch.optim.Optimizer:
    """The stage's: AdamW, or Muon for kernels where the recipe gives their rate.

    Each of its groups has ``per_rate``, its rate in units of that of the schedule.
    """
    if recipe.kernel_rate is None:
        groups: list[dict[str, Any]] = [{"params": list(parameters), "per_rate": 1.0}]
        return torch.optim.AdamW(groups, weight_decay=recipe.weight_decay, fused=True)
    return Muon(parameters, recipe.weight_decay, recipe.kernel_rate / recipe.learning_rate)


class Muon(torch.optim.Optimizer):
    """Muon for kernels of more than one output channel, AdamW for everything else: heads, biases, batch-norms.

    With Nesterov's momentum, whatever the schedule says of AdamW's, and a rate that grows as the square root of rows per column
    where there are more rows. Kernels have no weight decay: batch-norm follows them.

    Args:
        parameters: all of them.
        weight_decay: of AdamW.
        per_rate: rate of kernels in units of that of the others.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], weight_decay: float, per_rate: float) -> None:
        kernels = [parameter for parameter in parameters if _is_kernel(parameter)]
        others = [parameter for parameter in parameters if not _is_kernel(parameter)]
        super().__init__([{"params": kernels}], {"lr": 0.0, "betas": (0.0, 0.0), "per_rate": per_rate})
        self._others = torch.optim.AdamW([{"params": others, "per_rate": 1.0}], weight_decay=weight_decay, fused=True)
        # One state and one list of groups, as every optimiser has.
        self._others.state = self.state
        self.param_groups += self._others.param_groups

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # no closure, no loss
        """Move all parameters that have a gradient."""
        group = self.param_groups[0]
        for kernel in group["params"]:
            if kernel.grad is None:
                continue
            state = self.state[kernel]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(kernel)
            momentum = state["momentum"]
            momentum.lerp_(kernel.grad, 1.0 - _MOMENTUM)
            matrix = kernel.grad.lerp(momentum, _MOMENTUM).flatten(1)
            rate = group["lr"] * math.sqrt(max(1.0, matrix.shape[0] / matrix.shape[1]))
            kernel.add_(orthogonalised(matrix).view(kernel.shape), alpha=-rate)
        self._others.step()


def _is_kernel(parameter: nn.Parameter) -> bool:
    return parameter.ndim == 4 and parameter.shape[0] > 1


def orthogonalised(matrix: Tensor) -> Tensor:
    """U V^T, roughly, of a matrix U S V^T (rows, columns): singular values between 0.7 and 1.2, but those that are almost 0.

    Source: Newton-Schulz iteration with ``_QUINTIC``; in the matrix's precision rather than bfloat16, as students' are small.
    """
    a, b, c = _QUINTIC
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(_TURNS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if is_tall else x
