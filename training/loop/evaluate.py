"""What a student says of captures, and how far that is from the truth."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.fx import GraphModule

from edge_dp.preprocessing import ExposureNormalisation
from edge_dp.training.labels import Samples

_AT_ONCE = 16


@torch.no_grad()
def predict(
    module: nn.Module, views: NDArray[np.float16], exposure: ExposureNormalisation, device: torch.device
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Disparity, px of the views, and confidence's code, each (N, H/2, W/2), exposed as the deployed model sees the views.

    Args:
        module: a student, in evaluation mode or not; a prepared graph works the same in both.
        views: (N, 2, H, W) linear light.
        exposure: of the deployed model.
    """
    was_training, dtype = module.training, next(module.parameters()).dtype
    if not isinstance(module, GraphModule):
        module.eval()
    maps: list[tuple[NDArray[np.float32], ...]] = []
    for start in range(0, len(views), _AT_ONCE):
        exposed = exposure(views[start : start + _AT_ONCE].astype(np.float32))
        outputs = module(torch.from_numpy(exposed).to(device, dtype, memory_format=torch.channels_last))
        maps.append(tuple(output[:, 0].float().cpu().numpy() for output in outputs))
    if not isinstance(module, GraphModule):
        module.train(was_training)
    disparity, confidence = (np.concatenate(parts) for parts in zip(*maps, strict=True))
    return disparity, confidence


def end_point_error(
    module: nn.Module, samples: Samples, exposure: ExposureNormalisation, device: torch.device
) -> float:
    """Mean absolute disparity error against the simulated truth, px of the input, over every output pixel."""
    disparity, _ = predict(module, samples.views, exposure, device)
    errors = np.abs(disparity - samples.truth.astype(np.float32))
    return float(errors.mean(axis=(1, 2)).mean())


def teacher_error(samples: Samples) -> float | None:
    """The same of the labels, where the mask holds; None where it holds nowhere."""
    errors = np.abs(samples.label.astype(np.float32) - samples.truth.astype(np.float32))[samples.mask]
    return float(errors.mean()) if errors.size else None
