"""Labels beside depth steps: what the teacher says there holds for either side, and its sigma does not say so."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

WINDOW = 5
"""Side of the window that steps are looked for in, px of the output: about a block matcher's own, on both sides."""
_FAR = np.float32(1e4)  # px: beyond any label


def unsure_at_steps(
    label: NDArray[np.floating], sigma: NDArray[np.floating], mask: NDArray[np.bool_], share: float
) -> NDArray[np.float32]:
    """Sigma with what a matcher cannot know: which side of a step a pixel is on that its window straddles.

    sigma'^2 = sigma^2 + (share * (highest - lowest label within ``WINDOW`` that the mask holds))^2. All cameras of a rig see the
    nearer surface widened by the same window, so that their agreement is no evidence. Half the range is the standard deviation
    of one or the other with even chances.

    Args:
        label, sigma: (N, H, W) px.
        mask: as ``label``, where it holds.
        share: of the range, at least 0.

    Returns:
        (N, H, W) float32 px; as given outside the mask.
    """
    window = np.ones((WINDOW, WINDOW), np.uint8)
    widened = np.empty(sigma.shape, np.float32)
    for i, (values, known) in enumerate(zip(label.astype(np.float32), mask, strict=True)):
        highest = cv2.dilate(np.where(known, values, -_FAR), window)
        lowest = cv2.erode(np.where(known, values, _FAR), window)
        widened[i] = np.where(known, np.hypot(sigma[i], share * (highest - lowest)), sigma[i])
    return widened
