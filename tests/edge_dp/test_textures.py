import itertools
import re

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_dp.errors import InputError
from edge_dp.simulation.texture_folder import folder_texture, texture_files
from edge_dp.simulation.textures import (
    TEXTURES,
    add_highlights,
    random_texture,
    repeated,
    textureless,
    to_light,
    with_contrast,
)

DRAWN = {name: draw for name, (_, draw) in TEXTURES.items()} | {
    "random_texture": random_texture,
    "repeated": repeated,
    "textureless": textureless,
}


@pytest.fixture(params=DRAWN, scope="module")
def draw(request):
    return DRAWN[request.param]


@pytest.mark.parametrize("size", [(48, 64), (37, 53), (8, 200), (1, 1), (3, 1), (1, 40)])
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


@pytest.mark.parametrize("name", [*sorted(set(TEXTURES) - {"gradient"}), "repeated"])
def test_textures_have_something_to_match_and_gradients_and_plain_surfaces_do_not(name):
    draws = [local_contrast(DRAWN[name](np.random.default_rng(seed), 64, 96)) for seed in range(20)]
    for smooth in ("gradient", "textureless"):
        plain = [local_contrast(DRAWN[smooth](np.random.default_rng(seed), 64, 96)) for seed in range(20)]
        assert np.median(draws) > 3 * max(plain)


def test_textureless_surface_has_a_tiny_gradient_everywhere_but_not_one_grey():
    for seed in range(40):
        image = textureless(np.random.default_rng(seed), 200, 300)
        assert max(abs(np.diff(image, axis=axis)).max() for axis in (0, 1)) < 2 / 255
    assert np.std([textureless(np.random.default_rng(seed), 8, 8).mean() for seed in range(40)]) > 0.1


def slope_of_amplitude(image):
    """Exponent of the radially averaged amplitude spectrum, by least squares between 4 and 1 / 4 cycles per px."""
    window = np.outer(np.hanning(image.shape[0]), np.hanning(image.shape[1]))
    power = abs(np.fft.fft2((image - image.mean()) * window)) ** 2
    radius = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) for n in image.shape), indexing="ij"))
    edges = np.geomspace(4 / min(image.shape), 0.25, 10)
    rings = [(radius >= low) & (radius < high) for low, high in itertools.pairwise(edges)]
    amplitude = [np.sqrt(power[ring].mean()) for ring in rings]
    return np.polyfit(np.log([radius[ring].mean() for ring in rings]), np.log(amplitude), 1)[0]


def test_fractal_noise_has_a_falling_power_law_spectrum_and_spans_its_range():
    """Amplitude ~ 1 / f^beta, beta within [0.5, 1.8]: natural images have about 1, white noise 0."""
    slopes = []
    for seed in range(30):
        image = DRAWN["fractal_noise"](np.random.default_rng(seed), 256, 256).astype(float)
        assert image.std() == pytest.approx(0.2, abs=0.03)
        slopes.append(-slope_of_amplitude(image))
    assert min(slopes) > 0.3 and max(slopes) < 2.4
    assert np.median(slopes) == pytest.approx(1.15, abs=0.35)


def test_random_textures_vary_in_brightness_and_contrast():
    images = [random_texture(np.random.default_rng(seed), 32, 32) for seed in range(150)]
    means, contrasts = [image.mean() for image in images], [image.std() for image in images]
    assert min(means) < 0.2 and max(means) > 0.7
    assert min(contrasts) < 0.03 and max(contrasts) > 0.2


def autocorrelation(image):
    """(W / 2,) correlation of an image with itself moved along x by 0, 1, ... px, of what both show."""
    width = image.shape[1]
    values = [np.corrcoef(image[:, : width - k].ravel(), image[:, k:].ravel())[0, 1] for k in range(width // 2)]
    return np.array(values)


def test_repeated_texture_repeats_along_x():
    periods = []
    for seed in range(40):
        image = repeated(np.random.default_rng(seed), 60, 240).astype(float)
        correlation = autocorrelation(image)
        peaks = [k for k in range(3, 119) if correlation[k] > max(correlation[k - 1], correlation[k + 1], 0.7)]
        assert peaks, "no move along x brings it back onto itself"
        assert correlation[4:].max() > 0.97  # some whole number of px is near a multiple of the period
        periods.append(peaks[0])
    assert min(periods) <= 8 and max(periods) >= 25


def test_dead_leaves_do_not_repeat():
    for seed in range(10):
        image = DRAWN["dead_leaves"](np.random.default_rng(seed), 60, 240).astype(float)
        assert autocorrelation(image)[60:].max() < 0.7


def test_contrast_is_squeezed_within_the_range():
    ramp = np.linspace(0, 1, 101, dtype=np.float32)[None]
    spans = []
    for seed in range(100):
        image = with_contrast(np.random.default_rng(seed), ramp)
        assert image.min() >= 0 and image.max() <= 1 + 1e-6
        spans.append(np.ptp(image))
    assert min(spans) < 0.05 and max(spans) > 0.9


def test_light_is_gamma_decoded_and_green_is_the_texture_whatever_the_tint():
    texture = random_texture(np.random.default_rng(1), 40, 60)
    grey = to_light(np.random.default_rng(2), texture, 1)
    np.testing.assert_allclose(grey, texture.astype(np.float64)[None] ** 2.2, atol=1e-5)
    spreads = []
    for seed in range(20):
        colour = to_light(np.random.default_rng(seed), texture, 3)
        assert colour.shape == (3, 40, 60) and colour.dtype == np.float32 and colour.min() >= 0
        np.testing.assert_array_equal(colour[1], grey[0])
        ratio = colour[[0, 2]] / np.maximum(colour[1], 1e-4)
        spreads.append((ratio.mean(axis=(1, 2)), ratio.std(axis=(1, 2)).max()))
    assert np.std([mean for mean, _ in spreads], axis=0).min() > 0.05, "surfaces share one tint"
    assert np.median([spread for _, spread in spreads]) > 0.02, "a surface has one tint all over"


@pytest.mark.parametrize("channels", [1, 3])
def test_highlights_saturate_what_is_seen_and_only_brighten(channels):
    mask = np.zeros((60, 90), np.uint8)
    mask[20:30, 50:52] = 200
    for seed in range(30):
        before = np.full((channels, 60, 90), 0.1, np.float32)
        after = add_highlights(np.random.default_rng(seed), before.copy(), mask)
        assert (after >= before).all() and np.isfinite(after).all() and after.max() < 40
        assert (after[:, mask > 0] > 1).any()
        assert (after == before).any(), "the whole surface is a lamp"


# ---- a folder of images ----


def ramp_image(height, width):
    """8-bit BGR: blue rises along x, green along y, red falls along x."""
    x, y = np.linspace(0, 255, width), np.linspace(0, 255, height)
    image = np.stack(np.broadcast_arrays(x, y[:, None], 255 - x), -1)
    return np.round(image).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "b.PNG"), ramp_image(70, 90))
    cv2.imwrite(str(tmp_path / "deep" / "a.jpg"), ramp_image(300, 1500))
    cv2.imwrite(str(tmp_path / "deep" / "er" / "grey16.png"), ramp_image(64, 64)[..., 1].astype(np.uint16) * 257)
    cv2.imwrite(str(tmp_path / "tiny.png"), np.full((1, 1, 4), 128, np.uint8))
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "._b.png").write_bytes(b"what some systems leave beside a file")
    return tmp_path


def test_folder_is_searched_recursively_in_order_and_hidden_files_are_passed_over(folder):
    names = [path.relative_to(folder).as_posix() for path in texture_files(str(folder))]
    assert names == ["b.PNG", "deep/a.jpg", "deep/er/grey16.png", "tiny.png"]


@given(
    seed=st.integers(0, 2**32), height=st.integers(1, 150), width=st.integers(1, 150), channels=st.sampled_from([1, 3])
)
@settings(max_examples=60)
def test_folder_texture_is_linear_light_and_depends_on_the_generator_alone(
    tmp_path_factory, seed, height, width, channels
):
    folder = tmp_path_factory.getbasetemp() / "folder_texture"
    if not folder.is_dir():
        folder.mkdir()
        cv2.imwrite(str(folder / "a.png"), ramp_image(70, 90))
        cv2.imwrite(str(folder / "b.png"), ramp_image(9, 5))
    draws = [
        folder_texture(np.random.default_rng(seed), str(folder), height, width, channels),
        folder_texture(np.random.default_rng(seed), str(folder), height, width, channels),
    ]
    assert draws[0].shape == (channels, height, width) and draws[0].dtype == np.float32
    assert draws[0].min() >= 0 and draws[0].max() <= 1
    np.testing.assert_array_equal(*draws)


def test_folder_texture_keeps_colour_order_and_varies_in_place_scale_contrast_and_direction(folder):
    """On the ramp red falls where blue rises, green along the other axis; one channel is green."""
    directions, means, falls = set(), [], []
    for path in texture_files(str(folder)):
        if path.name not in ("b.PNG", "a.jpg"):
            path.unlink()
    texture_files.cache_clear()
    for seed in range(40):
        red, green, blue = folder_texture(np.random.default_rng(seed), str(folder), 40, 60, 3)
        falls.append(np.cov(red.mean(0), blue.mean(0))[0, 1])
        assert np.ptp(green.mean(0)) < 0.2 * np.ptp(green.mean(1))
        directions.add((np.sign(blue[:, -1].mean() - blue[:, 0].mean()), np.sign(green[-1].mean() - green[0].mean())))
        means.append(green.mean())
        single = folder_texture(np.random.default_rng(seed), str(folder), 40, 60, 1)
        np.testing.assert_allclose(single[0], green, atol=1e-6)
    assert {(x, y) for x, y in directions if x and y} == {(-1, -1), (-1, 1), (1, -1), (1, 1)}
    assert max(falls) < 1e-6 and np.mean(np.array(falls) < -1e-4) > 0.6  # elsewhere one of the two is white or black
    assert np.std(means) > 0.05


def test_channels_are_red_green_and_blue_whatever_the_kind_of_image(tmp_path):
    """OpenCV keeps blue first; a fourth plane is transparency."""
    for name, image, expected in (
        ("orange.png", [0, 100, 250], (True, True)),
        ("with_alpha.png", [0, 100, 250, 7], (True, True)),
        ("grey.png", [90], (False, False)),
    ):
        folder = tmp_path / name.split(".")[0]
        folder.mkdir()
        cv2.imwrite(str(folder / name), np.full((20, 20, len(image)), image, np.uint8))
        red, green, blue = folder_texture(np.random.default_rng(0), str(folder), 6, 6, 3).mean(axis=(1, 2))
        assert (red > green + 0.02, green > blue + 0.02) == expected
        assert green > 0.01


def test_image_that_is_uniform_becomes_one_light_between_exposures_and_contrasts(tmp_path):
    """sRGB code 118 is linear 0.181: within 0.4 to 1.4 times that, as contrast turns around middle grey."""
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((50, 50, 3), 118, np.uint8))
    for seed in range(20):
        light = folder_texture(np.random.default_rng(seed), str(tmp_path), 20, 20, 1)
        assert np.ptp(light) < 1e-6
        assert 0.395 * 0.18 < light.mean() < 1.42 * 0.18


def test_reading_many_images_keeps_few_in_memory(tmp_path):
    from edge_dp.simulation import texture_folder

    for index in range(40):
        cv2.imwrite(str(tmp_path / f"{index:02}.png"), ramp_image(20, 2100))
    for seed in range(200):
        folder_texture(np.random.default_rng(seed), str(tmp_path), 8, 8, 1)
    info = texture_folder._read.cache_info()
    assert info.currsize <= 16 and info.misses > 20
    assert max(texture_folder._read(path).shape[1] for path in texture_files(str(tmp_path))[:3]) <= 1024


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "float"])
def test_unreadable_image_is_named(tmp_path, damage):
    path = tmp_path / ("bad.tiff" if damage == "float" else "bad.png")
    if damage == "float":
        cv2.imwrite(str(path), np.ones((8, 8), np.float32))
    else:
        cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
        whole = path.read_bytes()
        path.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"hello" * 50}[damage])
    with pytest.raises(InputError, match=re.escape(str(path)) + ": expected an image"):
        folder_texture(np.random.default_rng(0), str(tmp_path), 8, 8, 1)


def test_folder_that_is_absent_a_file_or_without_images_is_named(tmp_path):
    (tmp_path / "readme.txt").write_text("no image here")
    for path, found in (
        (tmp_path / "absent", "found none"),
        (tmp_path / "readme.txt", "found none"),
        (tmp_path, "no such file"),
    ):
        with pytest.raises(InputError, match=f"textures: {re.escape(str(path))}: expected .*{found}"):
            folder_texture(np.random.default_rng(0), str(path), 8, 8, 1)


def test_real_images_serve_as_textures(data_root):
    folder = str(data_root / "textures")
    assert len(texture_files(folder)) >= 7
    draws = [folder_texture(np.random.default_rng(seed), folder, 96, 128, 3) for seed in range(14)]
    assert np.median([local_contrast(draw[1]) for draw in draws]) > 0.003
    assert len({draw.tobytes() for draw in draws}) == 14
