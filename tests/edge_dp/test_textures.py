import numpy as np
import pytest

from edge_dp.simulation.textures import TEXTURES, random_texture

DRAWN = {name: draw for name, (_, draw) in TEXTURES.items()} | {"random_texture": random_texture}


@pytest.fixture(params=DRAWN, scope="module")
def draw(request):
    return DRAWN[request.param]


@pytest.mark.parametrize("size", [(48, 64), (37, 53), (8, 200)])
def test_texture_has_the_size_asked_for_and_lies_within_black_and_white(draw, size):
    for seed in range(12):
        image = draw(np.random.default_rng(seed), *size)
        assert image.shape == size
        assert image.dtype == np.float32
        assert np.isfinite(image).all()
        assert image.min() >= 0 and image.max() <= 1


def test_texture_depends_on_the_generator_alone(draw):
    np.random.seed(1)  # the global generator must not matter
    first = [draw(np.random.default_rng(seed), 40, 56) for seed in range(4)]
    np.random.seed(2)
    second = [draw(np.random.default_rng(seed), 40, 56) for seed in reversed(range(4))][::-1]
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert len({image.tobytes() for image in first}) == 4


def test_every_texture_has_a_share_of_the_draws():
    shares = [share for share, _ in TEXTURES.values()]
    assert all(share > 0 for share in shares)
    assert sum(shares) == pytest.approx(1)


def local_contrast(image):
    """Mean absolute difference of horizontal neighbours: what matching along x lives on."""
    return np.abs(np.diff(image, axis=1)).mean()


@pytest.mark.parametrize("name", sorted(set(TEXTURES) - {"gradient"}))
def test_textures_have_something_to_match_and_gradients_do_not(name):
    draws = [local_contrast(DRAWN[name](np.random.default_rng(seed), 64, 96)) for seed in range(10)]
    smooth = [local_contrast(DRAWN["gradient"](np.random.default_rng(seed), 64, 96)) for seed in range(10)]
    assert np.median(draws) > 3 * max(smooth)


def test_fractal_noise_is_coarser_than_white_noise_and_spans_its_range():
    """Amplitude 1 / f^beta with beta >= 0.5: neighbours are alike, which white noise's are not."""
    for seed in range(10):
        image = DRAWN["fractal_noise"](np.random.default_rng(seed), 64, 64).astype(float)
        centred = image - image.mean()
        neighbours = (centred[:, 1:] * centred[:, :-1]).mean() + (centred[1:] * centred[:-1]).mean()
        assert neighbours > 0.4 * centred.var()
        assert image.std() == pytest.approx(0.2, abs=0.03)


def test_random_textures_vary_in_brightness_and_contrast():
    images = [random_texture(np.random.default_rng(seed), 32, 32) for seed in range(150)]
    means, contrasts = [image.mean() for image in images], [image.std() for image in images]
    assert min(means) < 0.2 and max(means) > 0.7
    assert min(contrasts) < 0.03 and max(contrasts) > 0.2
