import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edge_dp.srgb import LIGHT_OF_LEVEL, linear_to_srgb, srgb_to_linear


def test_curve_at_published_values():
    """IEC 61966-2-1: the knee at 0.04045, and 8-bit levels 0, 10, 128, 188, 255 as commonly tabulated."""
    encoded = np.array([0, 10 / 255, 0.04045, 128 / 255, 188 / 255, 1], np.float32)
    light = [0, 0.00303527, 0.00313080, 0.21586050, 0.50288646, 1]
    np.testing.assert_allclose(srgb_to_linear(encoded), light, rtol=1e-5)
    np.testing.assert_allclose(linear_to_srgb(np.array(light)), encoded, rtol=1e-5)
    np.testing.assert_allclose(LIGHT_OF_LEVEL[[0, 10, 128, 188, 255]], np.delete(light, 2), rtol=1e-5)


@given(encoded=st.floats(0, 1))
def test_curve_is_that_of_the_standard(encoded):
    expected = encoded / 12.92 if encoded <= 0.04045 else ((encoded + 0.055) / 1.055) ** 2.4
    assert srgb_to_linear(encoded) == pytest.approx(expected, abs=1e-12)


@given(value=st.floats(0, 1))
def test_both_ways_are_inverse(value):
    assert linear_to_srgb(srgb_to_linear(value)) == pytest.approx(value, abs=4e-8)
    assert srgb_to_linear(linear_to_srgb(value)) == pytest.approx(value, abs=4e-8)


@pytest.mark.parametrize("highest", [255, 65535])
def test_levels_of_files_come_back_exactly(highest):
    levels = np.arange(highest + 1)
    encoded = (levels / highest).astype(np.float32)
    for there, back in ((srgb_to_linear, linear_to_srgb), (linear_to_srgb, srgb_to_linear)):
        again = back(there(encoded))
        assert again.dtype == np.float32
        np.testing.assert_array_equal(np.round(again * highest), levels)


@pytest.mark.parametrize("curve", [srgb_to_linear, linear_to_srgb])
def test_tensors_are_as_arrays(curve):
    values = np.linspace(0, 1, 5000, dtype=np.float32)
    tensor = curve(torch.from_numpy(values), torch)
    assert tensor.dtype == torch.float32
    np.testing.assert_allclose(tensor.numpy(), curve(values), atol=3e-7)


def test_light_of_levels_indexed_by_an_image():
    image = np.array([[0, 255], [128, 10]], np.uint8)
    np.testing.assert_array_equal(LIGHT_OF_LEVEL[image], srgb_to_linear(image.astype(np.float32) / np.float32(255)))
