"""Procedural textures, (H, W) float32 in [0, 1], gamma-encoded as images are. No picture is read, so that training needs no data.

Dead leaves (overlapping shapes with power-law sizes) have the edges and scale invariance of natural images; noise, stripes, text
and gradients add what they lack; repeated texture what matching confuses, and textureless surfaces what it cannot see.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Texture = NDArray[np.float32]
GAMMA = 2.2
"""Linear light = texture ** GAMMA."""


def dead_leaves(rng: np.random.Generator, height: int, width: int) -> Texture:
    """Ellipses and polygons with sizes from a power law r^-3, each of one grey, on half of the draws with noise on them."""
    image = np.full((height, width), round(255 * rng.uniform()), np.uint8)  # OpenCV anti-aliases on 8-bit images only
    largest = rng.uniform(0.1, 0.5) * min(height, width)
    smallest = np.exp(rng.uniform(np.log(1.5), np.log(max(2.0, 0.06 * min(height, width)))))
    smallest = min(smallest, largest)
    # A small image is covered by fewer leaves.
    count = int(rng.uniform(60, 250) * np.clip(np.sqrt(height * width) / 250, 0.25, 1.0))
    # Inverse transform of a density ~ r^-3 between the two radii.
    radii = np.sort(smallest / np.sqrt(1.0 - rng.uniform(size=count) * (1.0 - (smallest / largest) ** 2)))[::-1]
    centres = rng.uniform(size=(count, 2)) * (width, height)
    greys = rng.integers(0, 256, count).tolist()
    turns = np.sort(rng.uniform(0, 2 * np.pi, (count, 6)), axis=1)
    sides = rng.integers(3, 7, count)
    flatness = rng.uniform(0.2, 1.0, count)
    round_ones = rng.uniform(size=count) < 0.5
    rings = np.stack([np.cos(turns), np.sin(turns)], -1) * radii[:, None, None] + centres[:, None]
    rings_16 = np.round(16 * rings).astype(np.int32)  # in sixteenths of a px, see ``shift`` below
    for index in range(count):
        if round_ones[index]:
            centre = (int(centres[index, 0]), int(centres[index, 1]))
            axes = (max(1, int(radii[index])), max(1, int(radii[index] * flatness[index])))
            degrees = float(np.degrees(turns[index, 0]))
            cv2.ellipse(image, centre, axes, degrees, 0, 360, greys[index], -1, cv2.LINE_AA)
        else:
            cv2.fillPoly(image, [rings_16[index, : sides[index]]], greys[index], cv2.LINE_AA, shift=4)
    leaves = np.multiply(image, np.float32(1 / 255), dtype=np.float32)
    if rng.uniform() < 0.5:
        leaves *= 1.0 + rng.uniform(0.1, 0.6) * (fractal_noise(rng, height, width) - 0.5)
        leaves.clip(0.0, 1.0, out=leaves)
    return leaves


def fractal_noise(rng: np.random.Generator, height: int, width: int) -> Texture:
    """Noise with an amplitude spectrum of about 1 / f^beta, beta in [0.5, 1.8], on half of the draws stretched along an axis.

    White noise is added at every octave, from coarse to fine: an octave at cells of s px has a standard deviation of
    s^(beta - 1), as its band of the spectrum has.
    """
    beta = rng.uniform(0.5, 1.8)
    # Stretched as wood, cloth and grass are.
    stretch = np.exp(rng.uniform(-1.0, 1.0)) if rng.uniform() < 0.5 else 1.0
    rows, columns = max(1, round(height * min(1.0, stretch))), max(1, round(width * min(1.0, 1 / stretch)))
    coarsest = max(1, max(rows, columns).bit_length() - 2)
    noise: Texture = np.zeros((1, 1), np.float32)
    for octave in range(coarsest, -1, -1):
        size = -(-rows >> octave), -(-columns >> octave)
        noise = _white(rng, *size, 2.0 ** (octave * (beta - 1))) + _resized(noise, *size)
    mean, deviation = cv2.meanStdDev(noise)
    noise = noise if stretch == 1 else _resized(noise, height, width, cv2.INTER_CUBIC)
    scale = 0.2 / (float(deviation[0, 0]) + 1e-9)
    image: Texture = noise * np.float32(scale) + np.float32(0.5 - scale * float(mean[0, 0]))
    return image.clip(0.0, 1.0, out=image)


def stripes(rng: np.random.Generator, height: int, width: int) -> Texture:
    """A periodic pattern at any angle: waves, bars, a grid or a checkerboard."""
    angle, period = rng.uniform(0, np.pi), np.exp(rng.uniform(np.log(4.0), np.log(60.0)))
    x = np.arange(width, dtype=np.float32) * np.float32(2 * np.pi / period)
    y = np.arange(height, dtype=np.float32)[:, None] * np.float32(2 * np.pi / period)
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    wave = np.sin(x * cosine + (y * sine + np.float32(rng.uniform(0, 2 * np.pi))))
    if rng.uniform() < 0.5:
        wave = np.clip(wave * np.float32(rng.uniform(2.0, 10.0)), -1.0, 1.0)
    if rng.uniform() < 0.4:
        wave *= np.sign(np.sin(y * cosine - x * sine))
    return np.asarray(0.5 + 0.5 * wave, np.float32)


def repeated(rng: np.random.Generator, height: int, width: int) -> Texture:
    """Texture that repeats exactly along x, the dual-pixel axis, where matching is ambiguous: bars, slats, tiles, weaves.

    The period is 4 to 48 px (at most a third of the width, so that it is seen to repeat); along y it is constant, or
    periodic too, or drifts slowly in brightness.
    """
    longest = max(4.0, min(48.0, width / 3))
    period = np.exp(rng.uniform(np.log(4.0), np.log(longest)))
    across = _periodic(rng, width, period)
    along = np.ones(height, np.float32)
    if rng.uniform() < 0.5:
        along = _periodic(rng, height, np.exp(rng.uniform(np.log(6.0), np.log(60.0))))
    elif rng.uniform() < 0.5:
        along = np.linspace(rng.uniform(0.4, 1.0), rng.uniform(0.4, 1.0), height, dtype=np.float32)
    return 0.5 + 0.5 * along[:, None] * across


def text(rng: np.random.Generator, height: int, width: int) -> Texture:
    """Lines of random characters, dark on light or light on dark."""
    image = np.full((height, width), 255, np.uint8)
    size = float(rng.uniform(0.3, 1.2))
    step = int(34 * size) + 2
    letters_in_line = int(width / (10 * size)) + 4
    for y in range(step // 2, height + step, step):
        letters = "".join(map(chr, rng.integers(48, 123, letters_in_line).tolist()))
        start, font, thickness = -int(rng.integers(0, 20)), int(rng.integers(0, 4)), int(rng.integers(1, 3))
        cv2.putText(image, letters, (start, y), font, size, 0, thickness, cv2.LINE_AA)
    if rng.uniform() >= 0.6:
        np.subtract(255, image, out=image)
    return np.multiply(image, np.float32(1 / 255), dtype=np.float32)


def gradient(rng: np.random.Generator, height: int, width: int) -> Texture:
    """A linear ramp: shading without texture."""
    angle, rise = rng.uniform(0, 2 * np.pi), 0.35 * rng.uniform(0.0, 1.0)
    x = np.linspace(-1, 1, width, dtype=np.float32) * np.float32(rise * np.cos(angle))
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None] * np.float32(rise * np.sin(angle))
    return np.clip(x + (np.float32(0.5) + y), 0.0, 1.0)


def textureless(rng: np.random.Generator, height: int, width: int) -> Texture:
    """A plain wall or smooth surface: one grey with a slow ramp and, on half of the draws, faint mottling."""
    image = np.float32(rng.uniform(0.15, 0.9)) + np.float32(rng.uniform(0.0, 0.4)) * (
        gradient(rng, height, width) - 0.5
    )
    if rng.uniform() < 0.5:
        coarse = rng.standard_normal((4, 5), np.float32) * np.float32(0.02)
        image += _resized(coarse, height, width, cv2.INTER_CUBIC)
    return np.clip(image, 0.0, 1.0)


TEXTURES: dict[str, tuple[float, Callable[[np.random.Generator, int, int], Texture]]] = {
    "dead_leaves": (0.5, dead_leaves),
    "fractal_noise": (0.27, fractal_noise),
    "stripes": (0.05, stripes),
    "text": (0.08, text),
    "gradient": (0.10, gradient),
}
"""How often ``random_texture`` draws each kind, and the function that draws it."""


def random_texture(rng: np.random.Generator, height: int, width: int) -> Texture:
    """One texture of a random kind of ``TEXTURES``, contrast and brightness, with soft shading and sometimes fine grain."""
    name = _draw_name(rng)
    image = TEXTURES[name][1](rng, height, width)
    image = with_contrast(rng, image)
    if name != "gradient" and rng.uniform() < 0.5:
        image *= np.float32(0.6) + np.float32(0.8) * gradient(rng, height, width)
    if rng.uniform() < 0.4:  # the fine grain that most real surfaces have
        grain = cv2.GaussianBlur(_white(rng, height, width, rng.uniform(0.01, 0.15)), (0, 0), rng.uniform(0.5, 1.5))
        image += np.asarray(grain, np.float32)
    return image.clip(0.0, 1.0, out=image)


def with_contrast(rng: np.random.Generator, texture: Texture) -> Texture:
    """A texture in [0, 1] squeezed into a random stretch of that, narrow ones more often than wide ones."""
    contrast = 0.05 + 0.95 * rng.uniform() ** 1.5 if rng.uniform() < 0.8 else rng.uniform(0.0, 0.1)
    return texture * np.float32(contrast) + np.float32(rng.uniform(0.0, 1.0 - contrast))


def to_light(rng: np.random.Generator, texture: Texture, channels: int) -> NDArray[np.float32]:
    """A gamma-encoded texture (H, W) as linear light (C, H, W).

    With 3 channels (red, green, blue) the surface gets two tints, mixed slowly over it and by brightness; green, which
    dual-pixel planes mostly are, stays the texture itself.
    """
    light = np.asarray(cv2.pow(texture, GAMMA), np.float32)
    if channels == 1:
        return light[None]
    tints = np.exp(rng.normal(0.0, 0.3, (2, 2))).astype(np.float32)
    height, width = texture.shape
    mix = _resized(rng.uniform(-0.3, 0.8, (3, 4)).astype(np.float32), height, width)
    mix += np.float32(rng.uniform(0.0, 0.5)) * texture
    coloured = np.empty((3, height, width), np.float32)
    coloured[1] = light
    for channel, (one, other) in zip((0, 2), tints, strict=True):
        np.multiply(mix, other - one, out=coloured[channel])
        coloured[channel] += one
        coloured[channel] *= light
    return coloured.clip(0.0, None, out=coloured)


def add_highlights(
    rng: np.random.Generator, light: NDArray[np.float32], mask: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Light (C, H, W) with one to four white lamps or highlights, two to eight times as bright as white, where ``mask`` > 0.

    Their middle lies on what is most opaque of the mask, so that something is saturated wherever anything is seen.
    """
    height, width = mask.shape
    opaque = np.flatnonzero(mask == mask.max())
    widest = max(2.0, 0.3 * min(height, width))
    for index in rng.integers(0, len(opaque), int(rng.integers(1, 5))):
        y, x = divmod(int(opaque[index]), width)
        axes = np.maximum(1, np.exp(rng.uniform(0.0, np.log(widest), 2))).astype(int)
        spread = rng.uniform(0.6, 2.0)
        reach = int(axes.max() + 4 * spread) + 1
        spot = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
        cv2.ellipse(spot, (reach, reach), axes.tolist(), float(rng.uniform(0, 180)), 0, 360, 1.0, -1)
        spot = np.asarray(cv2.GaussianBlur(spot, (0, 0), spread), np.float32)
        spot *= np.float32(rng.uniform(2.0, 8.0)) / spot[reach, reach]
        top, left = max(0, y - reach), max(0, x - reach)
        bottom, right = min(height, y + reach + 1), min(width, x + reach + 1)
        oy, ox = reach - y, reach - x
        light[:, top:bottom, left:right] += spot[top + oy : bottom + oy, left + ox : right + ox]
    return light


def _draw_name(rng: np.random.Generator) -> str:
    shares = np.cumsum([share for share, _ in TEXTURES.values()])
    return list(TEXTURES)[int(np.searchsorted(shares, rng.uniform(0, shares[-1]), side="right"))]


def _resized(image: Texture, height: int, width: int, interpolation: int = cv2.INTER_LINEAR) -> Texture:
    return np.asarray(cv2.resize(image, (width, height), interpolation=interpolation), np.float32)


def _white(rng: np.random.Generator, height: int, width: int, deviation: float) -> Texture:
    """White noise, uniformly distributed, of mean 0; from bytes, which are drawn ten times as fast as normal numbers."""
    levels = np.frombuffer(rng.bytes(height * width), np.uint8).reshape(height, width)
    scale = np.float32(deviation * np.sqrt(12) / 256)
    noise: Texture = np.multiply(levels, scale, dtype=np.float32)
    noise -= np.float32(127.5) * scale
    return noise


def _periodic(rng: np.random.Generator, length: int, period: float) -> NDArray[np.float32]:
    """(length,) in [-1, 1] with this period: as many harmonics as pixels resolve, falling off as in an edge."""
    order = np.arange(1, max(2, int(period / 2.5)) + 1)
    amplitude = rng.uniform(0.2, 1.0, len(order)) / order
    angle = 2 * np.pi * (np.arange(length)[:, None] * order / period + rng.uniform(size=len(order)))
    wave = np.sin(angle) @ amplitude
    return (wave / (amplitude.sum())).astype(np.float32)
