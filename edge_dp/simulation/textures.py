"""Procedural textures, (H, W) float32 in [0, 1], gamma-encoded as images are. No picture is read, so that training needs no data.

Dead leaves (overlapping shapes with power-law sizes) have the edges and scale invariance of natural images; noise, stripes, text
and gradients add what they lack, flat textures what matching cannot see.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Texture = NDArray[np.float32]


def dead_leaves(rng: np.random.Generator, height: int, width: int) -> Texture:
    """Discs, ellipses and polygons with sizes from a power law r^-3, each of one grey and some with a gradient or noise."""
    image = np.full((height, width), round(255 * rng.uniform()), np.uint8)  # OpenCV anti-aliases on 8-bit images only
    largest = rng.uniform(0.1, 0.5) * min(height, width)
    smallest = rng.uniform(1.5, 5.0)
    count = int(rng.integers(60, 250))
    uniform = rng.uniform(size=count)
    # Inverse transform of a density ~ r^-3 between the two radii.
    radii = smallest / np.sqrt(1.0 - uniform * (1.0 - (smallest / largest) ** 2))
    for radius in sorted(radii, reverse=True):
        centre = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        grey = round(255 * rng.uniform())
        if rng.uniform() < 0.5:
            axes = (max(1, int(radius)), max(1, int(radius * rng.uniform(0.2, 1.0))))
            cv2.ellipse(image, centre, axes, float(rng.uniform(0, 180)), 0, 360, grey, -1, cv2.LINE_AA)
        else:
            angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 7))))
            corners = np.stack([np.cos(angles), np.sin(angles)], 1) * radius + centre
            cv2.fillPoly(image, [np.round(corners).astype(np.int32)], grey, cv2.LINE_AA)
    return image.astype(np.float32) / 255.0


def fractal_noise(rng: np.random.Generator, height: int, width: int) -> Texture:
    """Gaussian noise with a 1 / f^beta amplitude spectrum, beta in [0.5, 1.8]."""
    fy = np.fft.fftfreq(height)[:, None]
    fx = np.fft.rfftfreq(width)[None, :]
    stretch = np.exp(rng.uniform(-1.0, 1.0))  # anisotropic, as wood, cloth and grass are
    frequency = np.hypot(fx * stretch, fy / stretch)
    frequency[0, 0] = 1.0
    amplitude = frequency ** -rng.uniform(0.5, 1.8)
    amplitude[0, 0] = 0.0
    spectrum = amplitude * np.exp(2j * np.pi * rng.uniform(size=amplitude.shape))
    noise = np.fft.irfft2(spectrum, s=(height, width))
    noise = noise / (noise.std() + 1e-9)
    return np.clip(0.5 + 0.2 * noise, 0.0, 1.0).astype(np.float32)


def stripes(rng: np.random.Generator, height: int, width: int) -> Texture:
    """A periodic pattern at any angle, along the dual-pixel axis too, where matching is ambiguous."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle, period = rng.uniform(0, np.pi), np.exp(rng.uniform(np.log(4.0), np.log(60.0)))
    phase = (x * np.cos(angle) + y * np.sin(angle)) / period + rng.uniform()
    wave = np.sin(2 * np.pi * phase)
    if rng.uniform() < 0.5:
        wave = np.clip(wave * rng.uniform(2.0, 10.0), -1.0, 1.0)
    if rng.uniform() < 0.4:  # a grid or a checkerboard
        across = (-x * np.sin(angle) + y * np.cos(angle)) / period
        wave = wave * np.sign(np.sin(2 * np.pi * across))
    return (0.5 + 0.5 * wave).astype(np.float32)


def text(rng: np.random.Generator, height: int, width: int) -> Texture:
    """Lines of random characters, dark on light or light on dark."""
    image = np.full((height, width), 255, np.uint8)
    size = float(rng.uniform(0.3, 1.2))
    step = int(34 * size) + 2
    for y in range(step // 2, height + step, step):
        letters = "".join(chr(int(code)) for code in rng.integers(48, 123, 60))
        start, font, thickness = -int(rng.integers(0, 20)), int(rng.integers(0, 4)), int(rng.integers(1, 3))
        cv2.putText(image, letters, (start, y), font, size, 0, thickness, cv2.LINE_AA)
    page = image.astype(np.float32) / 255.0
    return page if rng.uniform() < 0.6 else 1.0 - page


def gradient(rng: np.random.Generator, height: int, width: int) -> Texture:
    """A plane or a soft blob: shading without texture."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = 0.5 + 0.35 * (x * np.cos(angle) + y * np.sin(angle)) * rng.uniform(0.0, 1.0)
    return np.clip(ramp, 0.0, 1.0).astype(np.float32)


TEXTURES: dict[str, tuple[float, Callable[[np.random.Generator, int, int], Texture]]] = {
    "dead_leaves": (0.5, dead_leaves),
    "fractal_noise": (0.25, fractal_noise),
    "stripes": (0.07, stripes),
    "text": (0.08, text),
    "gradient": (0.10, gradient),
}
"""How often each kind is drawn, and the function that draws it."""


def random_texture(rng: np.random.Generator, height: int, width: int) -> Texture:
    """One texture of a random kind, contrast and brightness, with soft shading and sometimes fine noise on top."""
    shares = np.array([share for share, _ in TEXTURES.values()])
    name = list(TEXTURES)[int(rng.choice(len(shares), p=shares / shares.sum()))]
    image = TEXTURES[name][1](rng, height, width)
    contrast = rng.uniform(0.05, 1.0) if rng.uniform() < 0.8 else rng.uniform(0.0, 0.1)
    low = rng.uniform(0.0, 1.0 - contrast)
    image = low + contrast * image
    if name != "gradient" and rng.uniform() < 0.5:
        image = image * (0.6 + 0.8 * gradient(rng, height, width))
    if rng.uniform() < 0.4:  # the fine grain that most real surfaces have
        grain = cv2.GaussianBlur(rng.standard_normal((height, width)).astype(np.float32), (0, 0), rng.uniform(0.5, 1.5))
        image = image + rng.uniform(0.01, 0.15) * grain
    return np.clip(image, 0.0, 1.0).astype(np.float32)
