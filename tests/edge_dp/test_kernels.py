"""Kernels of a varying point-spread function: few principal ones stand for all of them."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RegularGridInterpolator

from edge_dp.errors import InputError
from edge_dp.optics.psf import Butterworth, HalfAperture
from edge_dp.simulation.kernels import FIELD_GRID, FieldWindow, plane_kernels, round_disparity

ROWS, COLUMNS = (np.linspace(-1, 1, count) for count in FIELD_GRID)


@dataclass(frozen=True)
class Uneven:
    """Kernels shrink from left to right and grow from top to bottom, by ``growth`` to either side of the middle."""

    growth: float = 0.06
    step: ClassVar[float] = 1 / 8
    varies: ClassVar[bool] = True

    def kernel(self, disparity, side, x=0.0, y=0.0):
        return HalfAperture(0.8, 0.22 * (1 + self.growth * (x - 0.5 * y))).kernel(disparity, side)


def separations(grid):
    """Distance of the centroids along x of (rows, columns, 2, K, K)."""
    offsets = np.arange(grid.shape[-1]) - grid.shape[-1] // 2
    left, right = np.moveaxis(grid.sum(axis=3) @ offsets, 2, 0)
    return right - left


def compared(model, disparity):
    """What each place's kernel is and what it is rebuilt as, (rows, columns, 2, K, K) each, for both views."""
    expected, found = [], []
    for side in (-1, 1):
        kernels = plane_kernels(model, disparity, side)
        assert kernels.basis.dtype == kernels.coefficients.dtype == np.float32
        assert 1 <= len(kernels.basis) == len(kernels.coefficients) <= 8
        assert kernels.coefficients.shape[1:] == FIELD_GRID
        assert (kernels.coefficients[0] == 1).all()
        size = kernels.basis.shape[-1]
        grid = [[model.kernel(disparity, side, x, y).astype(float) for x in COLUMNS] for y in ROWS]
        expected.append([[np.pad(kernel, (size - len(kernel)) // 2) for kernel in row] for row in grid])
        found.append(np.einsum("rij,rkl->ijkl", kernels.coefficients.astype(float), kernels.basis.astype(float)))
    return np.stack(expected, axis=2), np.stack(found, axis=2)


@pytest.mark.parametrize("disparity", [-4.0, -0.5, 0.0, 1.0, 2.5, 5.0])
def test_few_kernels_stand_for_the_whole_grid(disparity):
    expected, found = compared(Uneven(), disparity)
    error = np.linalg.norm(found - expected, axis=(3, 4)) / np.linalg.norm(expected, axis=(3, 4))
    assert error.max() < 0.03
    assert np.sqrt(np.mean(error**2)) < 0.012
    np.testing.assert_allclose(found.sum(axis=(3, 4)), 1, atol=1e-5)
    np.testing.assert_allclose(separations(found), disparity, atol=0.005)


@pytest.mark.parametrize("disparity", [-4.0, 1.0, 5.0])
def test_field_too_varied_for_few_kernels_keeps_light_disparity_and_likeness(disparity):
    """The largest kernels are over twice as large as the smallest."""
    expected, found = compared(Uneven(0.25), disparity)
    np.testing.assert_allclose(found.sum(axis=(3, 4)), 1, atol=1e-5)
    flat_expected, flat_found = (array.reshape(-1, array.shape[-1] ** 2) for array in (expected, found))
    correlations = [np.corrcoef(*pair)[0, 1] for pair in zip(flat_expected, flat_found, strict=True)]
    assert min(correlations) > 0.85 and np.mean(correlations) > 0.95
    np.testing.assert_allclose(separations(found), disparity, atol=0.02)


@pytest.mark.parametrize("model", [HalfAperture(0.4, 0.21), Butterworth()])
def test_kernel_that_does_not_vary_is_taken_as_it_is(model):
    kernels = plane_kernels(model, 1.25, -1)
    np.testing.assert_array_equal(kernels.basis, model.kernel(1.25, -1)[None])
    assert (kernels.coefficients == 1).all() and kernels.coefficients.shape == (1, *FIELD_GRID)


@given(
    low=st.tuples(st.floats(-1, 0.8), st.floats(-1, 0.8)),
    size=st.tuples(st.floats(0.05, 2), st.floats(0.05, 2)),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 99),
)
@settings(max_examples=80)
def test_window_interpolates_the_grid_linearly_at_pixel_centres(low, size, shape, seed):
    left, top = low
    window = FieldWindow(left, top, min(left + size[0], 1.0), min(top + size[1], 1.0))
    grid = np.random.default_rng(seed).normal(size=FIELD_GRID)
    along_y, along_x = window.interpolation(*shape)
    height, width = shape
    y = window.top + (np.arange(height) + 0.5) / height * (window.bottom - window.top)
    x = window.left + (np.arange(width) + 0.5) / width * (window.right - window.left)
    expected = RegularGridInterpolator((ROWS, COLUMNS), grid)(np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1))
    np.testing.assert_allclose(along_y @ grid @ along_x.T, expected, atol=1e-5)
    assert along_y.dtype == along_x.dtype == np.float32


@pytest.mark.parametrize(
    "edges", [(-1.1, -1, 1, 1), (-1, -1, 1.01, 1), (0.5, -1, 0.5, 1), (-1, 0.2, 1, -0.2), (float("nan"), -1, 1, 1)]
)
def test_window_beyond_the_field_is_refused(edges):
    with pytest.raises(
        InputError, match="field window: expected -1 <= left < right <= 1 and top < bottom alike, found"
    ):
        FieldWindow(*edges)


@given(disparity=st.floats(-70, 70), step=st.sampled_from([1 / 64, 1 / 8, 0.1]))
def test_rounded_disparity_is_the_nearest_multiple(disparity, step):
    rounded = round_disparity(disparity, step)
    assert abs(rounded - disparity) <= step / 2 + 1e-9
    assert rounded / step == pytest.approx(round(rounded / step), abs=1e-6)
