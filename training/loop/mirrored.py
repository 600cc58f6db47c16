"""What a network says of dual-pixel views, averaged over their mirror images."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor


@torch.no_grad()
def mirrored_mean(disparity: Callable[[Tensor], Tensor], views: Tensor) -> Tensor:
    """Mean disparity, (N, 1, h, w) px, of the views as they are, upside down, mirrored, and both.

    Mirrored, left and right trade places, and the disparity keeps its sign; nothing changes along y. So all four have one truth,
    and errors that differ are averaged away.

    Args:
        disparity: of views (N, 2, H, W), as (N, 1, h, w).
    """
    said = []
    for is_mirrored, is_upside_down in itertools.product((False, True), repeat=2):
        seen = views.flip(1, 3) if is_mirrored else views
        seen = seen.flip(2) if is_upside_down else seen
        axes = [axis for axis, is_turned in ((2, is_upside_down), (3, is_mirrored)) if is_turned]
        said.append(disparity(seen).flip(axes))
    return torch.stack(said).mean(0)
