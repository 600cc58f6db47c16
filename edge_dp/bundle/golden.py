"""Golden inputs: what an artifact is checked with, on any machine, without the model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_dp.preprocessing import ExposureNormalisation
from edge_dp.simulation.capture import SimulationConfig, simulate_capture
from edge_dp.simulation.scenes import SceneConfig

_SEED = 10
"""Chosen so that the typical captures are textured nearly everywhere: golden vectors are there to compare arithmetic, and where
there is nothing to match a network guesses, which turns the smallest rounding into a large difference."""
_TYPICAL = {"far": (0.5, 4.5), "near": (-4.0, -0.5), "both": (-3.0, 4.0)}
"""Disparities of the typical captures, px: focus in front of the scene, as phones have it mostly, behind it, and within."""


def golden_views(height: int, width: int, exposure: ExposureNormalisation) -> dict[str, NDArray[np.float32]]:
    """Inputs (1, 2, H, W) by name: three typical captures, noise, and the extremes of what a camera can deliver.

    The typical ones are simulated, so that a bundle may be passed on without anybody's photographs in it.
    """
    rng = np.random.default_rng(_SEED)
    views = {}
    for index, (name, disparity) in enumerate(_TYPICAL.items()):
        scene = SceneConfig(height, width, margin=40, layers=(4, 8), disparity=disparity, one_sided_share=0.0)
        views[name] = exposure(simulate_capture(_SEED, index, SimulationConfig(scene)).views[:, 0])[None]
    views["random"] = rng.uniform(0.0, 1.0, (1, 2, height, width)).astype(np.float32)
    black, white = np.zeros((height, width), np.float32), np.ones((height, width), np.float32)
    views["extreme_white"] = np.stack([white, white])[None]
    views["extreme_opposed"] = np.stack([black, white])[None]
    return views
