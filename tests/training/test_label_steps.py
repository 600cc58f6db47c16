import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import maximum_filter, minimum_filter

from edge_dp.training.labels.steps import WINDOW, unsure_at_steps


@given(st.integers(0, 2**32 - 1), st.floats(0, 2), st.integers(1, 12), st.integers(1, 12))
def test_sigma_grows_by_the_range_of_the_known_labels_around(seed, share, height, width):
    """Oracle: SciPy's filters, of labels where they are known."""
    rng = np.random.default_rng(seed)
    label, mask = rng.normal(0, 3, (2, height, width)).astype(np.float16), rng.uniform(size=(2, height, width)) < 0.6
    sigma = rng.uniform(0.02, 1, label.shape).astype(np.float16)
    found = unsure_at_steps(label, sigma, mask, share)
    for i in range(2):
        values = label[i].astype(float)
        highest = maximum_filter(np.where(mask[i], values, -np.inf), WINDOW, mode="constant", cval=-np.inf)
        lowest = minimum_filter(np.where(mask[i], values, np.inf), WINDOW, mode="constant", cval=np.inf)
        known = mask[i]
        expected = np.hypot(sigma[i].astype(float)[known], share * (highest - lowest)[known])
        np.testing.assert_allclose(found[i][known], expected, rtol=1e-5)
        np.testing.assert_array_equal(found[i][~known], sigma[i][~known])


def test_half_the_step_is_added_beside_it_and_nothing_far_from_it():
    label = np.where(np.arange(20) < 10, -1.0, 3.0)[None, None].repeat(8, 1)
    found = unsure_at_steps(label, np.full(label.shape, 0.1), np.ones(label.shape, bool), 0.5)
    assert found[0, 4, 8:12] == pytest.approx(np.hypot(0.1, 2.0))
    assert found[0, 4, :8] == pytest.approx(0.1) and found[0, 4, 12:] == pytest.approx(0.1)
