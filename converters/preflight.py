"""What can be refused before the slow work starts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from edge_dp.errors import ExportError
from edge_dp.quantization.ranges import ActivationRange


def check_weights(module: nn.Module) -> None:
    """Raise ExportError naming the first weight that holds NaN or infinity."""
    for name, value in module.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ExportError(f"{name}: expected finite weights, found NaN or infinity. The training diverged; train again.")


def check_ranges(ranges: Sequence[ActivationRange]) -> None:
    """Raise ExportError naming the first activation whose quantisation cannot be executed."""
    for entry in ranges:
        if not math.isfinite(entry.scale) or entry.scale <= 0 or not -128 <= entry.zero_point <= 127:
            raise ExportError(
                f"{entry.tensor}: expected a positive scale and a zero point in [-128, 127], found {entry.scale} and "
                f"{entry.zero_point}. The activation was never observed; train the quantisation-aware stage again."
            )
