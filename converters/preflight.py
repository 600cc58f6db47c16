"""What can be refused before the slow work starts."""

from __future__ import annotations

import torch
from torch import nn

from edge_dp.errors import ExportError


def check_weights(module: nn.Module) -> None:
    """Raise ExportError naming the first weight that holds NaN or infinity."""
    for name, value in module.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ExportError(
                f"{name}: expected finite weights, found NaN or infinity. The training diverged; train again."
            )
