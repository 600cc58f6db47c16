"""What the confidence output means: an affine code of the log of the expected absolute disparity error.

    b = B_MAX * (B_MIN / B_MAX) ** confidence        b: mean absolute error of a Laplace distribution, px of the input

so that confidence 1 promises 0.05 px, confidence 0 promises 5 px, and each 0.15 halves the error. The code is affine in log b,
hence the head stays a plain convolution: no exponential, sigmoid or clamp has to agree between engines.
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

B_MIN = 0.05
"""Expected error at confidence 1, px."""
B_MAX = 5.0
"""Expected error at confidence 0, px."""
LOG_RATIO = math.log(B_MIN / B_MAX)

Number = TypeVar("Number", float, NDArray[np.float32])


def expected_error(confidence: Number) -> Number:
    """Mean absolute error in px that ``confidence`` promises; elementwise, same shape."""
    return np.exp(math.log(B_MAX) + confidence * LOG_RATIO)
