"""Golden inputs: what an artifact is checked with, on any machine, without the model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_dp.preprocessing import ExposureNormalisation
from edge_dp.simulation.capture import SensorConfig, SimulationConfig, simulate_capture
from edge_dp.simulation.scenes import SceneConfig

_SEED = 20240511


def golden_views(height: int, width: int, exposure: ExposureNormalisation) -> dict[str, NDArray[np.float32]]:
    """Inputs (1, 2, H, W) by name: two typical captures, noise, and the extremes of what a camera can deliver.

    The typical ones are simulated, so that a bundle may be passed on without anybody's photographs in it.
    """
    rng = np.random.default_rng(_SEED)
    views = {}
    for index, name in enumerate(("typical_0", "typical_1")):
        scene = SceneConfig(height=height, width=width, margin=40, layers=(4, 8))
        capture = simulate_capture(_SEED, index, SimulationConfig(scene, SensorConfig()))
        views[name] = exposure(capture.views)[None]
    views["random"] = rng.uniform(0.0, 1.0, (1, 2, height, width)).astype(np.float32)
    black, white = np.zeros((height, width), np.float32), np.ones((height, width), np.float32)
    views["extreme_white"] = np.stack([white, white])[None]
    views["extreme_opposed"] = np.stack([black, white])[None]
    return views
