"""Fixtures of the simulator's tests: scenes made by hand, a matcher to look at what was rendered, a small data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, shift, spline_filter1d
from scipy.optimize import minimize_scalar

from edge_dp.simulation.scenes import Layer, Scene

from .simulated_sets import write

CANVAS = (96, 160)


def _smooth_texture(seed: int, shape: tuple[int, ...] = CANVAS, sigma: Any = 3.0) -> np.ndarray:
    """Band-limited texture in [0.1, 0.9]; sigma of the low pass, px, or (sigma_y, sigma_x)."""
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), sigma, mode="wrap")
    return (0.5 + 0.4 * noise / abs(noise).max()).astype(np.float32)


def _plane(texture: np.ndarray, disparity: float, dx: float = 0.0, dy: float = 0.0, opacity: Any = None) -> Layer:
    """A layer of a texture (H, W) or (C, H, W), opaque unless told."""
    radiance = texture if texture.ndim == 3 else texture[None]
    return Layer(radiance, np.ones_like(radiance[0]) if opacity is None else opacity, (disparity, dx, dy))


def _scene_of(*layers: Layer) -> Scene:
    return Scene(layers, -6.0, 6.0)


def _measured_disparity(
    left: np.ndarray, right: np.ndarray, limit: float = 8.0, rows: slice = slice(None), columns: slice = slice(None)
) -> float:
    """D with left(x) = right(x + d), from the least squared difference after a cubic-spline shift of the right view.

    ``columns`` count from the matcher's own border of ``limit`` + 2 px.
    """
    edge = int(limit) + 2
    left, coefficients = left[rows], spline_filter1d(right[rows].astype(np.float64), axis=1)

    def difference(d: float) -> float:
        error = left - shift(coefficients, (0, -d), order=3, mode="nearest", prefilter=False)
        return float(np.mean(error[:, edge:-edge][:, columns] ** 2))

    coarse = min(np.arange(-limit, limit + 0.1, 0.5), key=difference)
    return minimize_scalar(difference, bounds=(coarse - 0.6, coarse + 0.6), method="bounded", options={"xatol": 1e-4}).x


@pytest.fixture(scope="session")
def smooth_texture() -> Callable[..., np.ndarray]:
    return _smooth_texture


@pytest.fixture(scope="session")
def plane() -> Callable[..., Layer]:
    return _plane


@pytest.fixture(scope="session")
def scene_of() -> Callable[..., Scene]:
    return _scene_of


@pytest.fixture(scope="session")
def measured_disparity() -> Callable[..., float]:
    return _measured_disparity


@pytest.fixture(scope="session")
def simulated_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished set of captures with their rig, written by two processes. Do not write into it."""
    path = tmp_path_factory.mktemp("simulated") / "set"
    write(path, workers=2)
    return path
