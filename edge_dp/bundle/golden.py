"""Golden inputs: what an artifact is checked with, on any machine, without the model."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_dp.preprocessing import ExposureNormalisation
from edge_dp.simulation.capture import SimulationConfig, simulate_capture
from edge_dp.simulation.scenes import SceneConfig
from edge_dp.simulation.sensor import DAYLIGHT

_SEED = 10
_TYPICAL = {"far": ((0.5, 4.5), 4), "near": ((-4.0, -0.5), 73), "both": ((-3.0, 4.0), 57)}
"""Disparities of the typical captures, px: focus in front of the scene, as phones have it mostly, behind it, and within. And
where the search for a textured one starts: at 384x512 there it ends."""
_SCENE = SceneConfig(
    margin=40, layers=(4, 8), one_sided_share=0.0, textureless_share=0.0, repeated_share=0.0, saturated_share=0.0
)
_LEAST_CONTRAST = 0.15
"""Of nine tenths of a typical capture: about every fortieth has it. Golden vectors are there to compare arithmetic: where there
is nothing to match a network guesses, which turns the smallest rounding into a large difference."""
_DARK = 0.002
_WINDOW = 15  # px, over which contrast is measured


def golden_views(height: int, width: int, exposure: ExposureNormalisation | None) -> dict[str, NDArray[np.float32]]:
    """Inputs (1, 2, H, W) by name: three typical captures, noise, and the extremes of what a camera can deliver.

    The typical ones are simulated, so that a bundle may be passed on without anybody's photographs in it.

    Args:
        exposure: what they go through; None leaves them linear light.
    """
    rng = np.random.default_rng(_SEED)
    views = {}
    for name, (disparity, first) in _TYPICAL.items():
        scene = replace(_SCENE, height=height, width=width, disparity=disparity)
        config = SimulationConfig(scene, sensor=DAYLIGHT)
        captures = (simulate_capture(_SEED, index, config).views[:, 0] for index in count(first))
        light = next(capture for capture in captures if is_textured(capture[0]))
        views[name] = (light if exposure is None else exposure(light))[None]
    views["random"] = rng.uniform(0.0, 1.0, (1, 2, height, width)).astype(np.float32)
    black, white = np.zeros((height, width), np.float32), np.ones((height, width), np.float32)
    if exposure is None:
        # So dark that the gain ends at its limit. White, brought to the mean, would be as smooth as nothing else.
        views["extreme_dark"] = views["far"] * np.float32(_DARK)
    else:
        views["extreme_white"] = np.stack([white, white])[None]
    views["extreme_opposed"] = np.stack([black, white])[None]
    return views


def is_textured(view: NDArray[np.float32]) -> bool:
    """Whether nine tenths of a view (H, W) have at least the least contrast: local standard deviation over local mean.

    For views without much noise, which the measure would take for texture.
    """
    mean, square = (cv2.boxFilter(plane, -1, (_WINDOW, _WINDOW)) for plane in (view, view * view))
    deviation = np.sqrt(np.maximum(square - mean * mean, 0.0))
    return bool(np.quantile(deviation / (mean + 1e-3), 0.1) >= _LEAST_CONTRAST)
