"""What a sensor makes of clean light: shading, sampling of its own, photon and read noise, quantisation.

Each function takes numpy arrays or torch tensors and gives the same kind, on the same device; ``xp`` is the module of their kind.
Random numbers are drawn once on the host (``SensorDraw``) or come from a counter (``standard_normal``), so that both kinds agree:
within 1e-4 of light, except that a value halfway between two levels may be rounded to either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_dp.errors import SchemaError
from edge_dp.srgb import linear_to_srgb, srgb_to_linear

_WORD = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class SensorConfig:
    """Ranges of what the sensor does to clean light; a range of one value is that value."""

    full_well: tuple[float, float] = (1000.0, 20000.0)
    """Photo-electrons of a half pixel at white, drawn log-uniformly: photon noise has variance x / full_well."""
    read_noise: tuple[float, float] = (0.0, 0.004)
    """Standard deviation, in units of the white level."""
    shading: float = 0.06
    """Largest relative left/right gain that the sensor's shading correction leaves; it varies linearly over the frame."""
    half_rows_share: float = 0.5
    """Share of sensors with half as many rows as the files, as the Pixel's: rows are summed in pairs and interpolated."""
    bit_depth: tuple[int, int] = (10, 14)
    """Of the raw data."""
    black: tuple[float, float] = (0.0, 0.07)
    """Black level in units of the white level: noise reaches below black and is clipped only on reading."""
    tone_mapped_share: float = 0.15
    """Share of sensors that give 8-bit sRGB instead of raw."""

    def __post_init__(self) -> None:
        for name in ("full_well", "read_noise", "bit_depth", "black"):
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                raise SchemaError(f"{name}: expected two values, 0 or above, in rising order, found {low} and {high}")
        if self.full_well[0] <= 0 or not 1 <= self.bit_depth[0] <= self.bit_depth[1] <= 16 or self.black[1] > 0.5:
            raise SchemaError(f"expected full_well above 0, bit_depth from 1 to 16 and black up to 0.5, found {self}")
        for name in ("half_rows_share", "tone_mapped_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise SchemaError(f"{name}: expected a share from 0 to 1, found {getattr(self, name)}")
        if not 0 <= self.shading < 1:
            raise SchemaError(f"shading: expected a relative gain from 0 to below 1, found {self.shading}")


DAYLIGHT = SensorConfig(full_well=(20_000.0, 100_000.0), read_noise=(0.0, 5e-4), tone_mapped_share=0.0)
"""So little noise that what varies in a view is the scene."""


@dataclass(frozen=True, slots=True)
class SensorDraw:
    """One sensor out of the ranges.

    tilt: gain of the right view over the left one is 1 + tilt . (1, x, y), with x and y from -1 to 1 over the frame.
    noise_key: where the noise's counter starts, 32 bits.
    """

    tilt: tuple[float, float, float]
    full_well: float
    read_noise: float
    half_rows: bool
    bit_depth: int
    black: float
    tone_mapped: bool
    noise_key: int


def draw_sensor(rng: np.random.Generator, config: SensorConfig) -> SensorDraw:
    """Draw a sensor; the same generator state gives the same one."""
    tilt = rng.uniform(-1, 1, 3)
    tilt = config.shading * tilt / max(1.0, float(np.abs(tilt).sum()))
    return SensorDraw(
        tilt=(float(tilt[0]), float(tilt[1]), float(tilt[2])),
        full_well=float(np.exp(rng.uniform(*np.log(config.full_well)))),
        read_noise=float(rng.uniform(*config.read_noise)),
        half_rows=bool(rng.uniform() < config.half_rows_share),
        bit_depth=int(rng.integers(config.bit_depth[0], config.bit_depth[1] + 1)),
        black=float(rng.uniform(*config.black)),
        tone_mapped=bool(rng.uniform() < config.tone_mapped_share),
        noise_key=int(rng.integers(_WORD + 1)),
    )


def sense(views: Any, sensor: SensorDraw, xp: Any = np) -> Any:
    """What is read from the sensor's files, in linear light.

    Args:
        views: (2, C, H, W) clean linear light >= 0; what is above 1 saturates.

    Returns:
        (2, C, H, W) float32 in [0, 1], clipped as a sensor clips; for a tone-mapped sensor, linearised again.

    Source of the noise: variance x / full_well + read_noise^2 per sample, the Gaussian limit of Poisson statistics.
    """
    height = views.shape[2]
    views = _shade(views, sensor.tilt, xp)
    full_well = sensor.full_well
    if sensor.half_rows:
        views, full_well = _sum_rows(views, xp), 2 * full_well
    noise = standard_normal(views.shape, sensor.noise_key, xp, like=views)
    views = views + noise * xp.sqrt(views.clip(0, None) / full_well + sensor.read_noise**2)
    views = quantise(views, sensor, xp)
    return _interpolate_rows(views, height, xp) if sensor.half_rows else views


def raw_levels(light: Any, bit_depth: int, black: float, xp: Any = np) -> Any:
    """Levels of raw data, float, whole: black level plus light times the rest, rounded, clipped to the bit depth."""
    highest = 2**bit_depth - 1
    zero = float(round(black * highest))
    return xp.round(zero + light * (highest - zero)).clip(0, highest)


def quantise(light: Any, sensor: SensorDraw, xp: Any = np) -> Any:
    """Light as it comes back from the sensor's integer levels, in [0, 1]."""
    if sensor.tone_mapped:
        return srgb_to_linear(xp.round(255 * linear_to_srgb(light.clip(0, 1), xp)) / 255, xp)
    highest = 2**sensor.bit_depth - 1
    zero = float(round(sensor.black * highest))
    return ((raw_levels(light, sensor.bit_depth, sensor.black, xp) - zero) / (highest - zero)).clip(0, 1)


def standard_normal(shape: tuple[int, ...], key: int, xp: Any = np, like: Any = None) -> Any:
    """Independent standard normal numbers, float32, a function of the key and of the place in the array alone.

    A counter, hashed and hashed again with the key (the finaliser of MurmurHash3, Appleby), gives 32 bits for each two
    numbers, which Box and Muller's transform (1958) makes normal; nothing lies beyond 4.9.

    Args:
        like: a tensor on the device where the numbers shall be; not needed for numpy.
    """
    total = int(np.prod(shape))
    device = {} if xp is np else {"device": like.device}
    bits = _hash(_hash(xp.arange((total + 1) // 2, dtype=xp.int64, **device)) ^ key)
    distance = (bits >> 16).astype(np.float32) if xp is np else (bits >> 16).float()
    angle = (bits & 0xFFFF).astype(np.float32) if xp is np else (bits & 0xFFFF).float()
    radius = xp.sqrt(-2.0 * xp.log((distance + 0.5) / 65536.0))
    angle = angle * (2 * np.pi / 65536.0)
    both = xp.concatenate([radius * xp.cos(angle), radius * xp.sin(angle)])
    return both[:total].reshape(shape)


def _hash(words: Any) -> Any:
    """MurmurHash3's finaliser of 32-bit words in 64-bit integers."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        words = ((words ^ (words >> shift)) * factor) & _WORD
    return words ^ (words >> 16)


def _shade(views: Any, tilt: tuple[float, float, float], xp: Any) -> Any:
    height, width = views.shape[2:]
    device = {} if xp is np else {"device": views.device}
    y = xp.linspace(-1, 1, height, dtype=xp.float32, **device)[:, None]
    x = xp.linspace(-1, 1, width, dtype=xp.float32, **device)
    shading = tilt[0] + tilt[1] * x + tilt[2] * y
    return xp.stack([views[0] * (1.0 - shading / 2), views[1] * (1.0 + shading / 2)])


def _sum_rows(views: Any, xp: Any) -> Any:
    """Mean of rows 0 and 1, 2 and 3, ...; an odd last row stands for two."""
    even, odd = views[:, :, ::2], views[:, :, 1::2]
    if even.shape[2] > odd.shape[2]:
        odd = xp.concatenate([odd, even[:, :, -1:]], 2)
    return (even + odd) / 2


def _interpolate_rows(rows: Any, height: int, xp: Any) -> Any:
    """Each row twice, interpolated linearly at the places of the rows that were summed."""
    above = xp.concatenate([rows[:, :, :1], rows[:, :, :-1]], 2)
    below = xp.concatenate([rows[:, :, 1:], rows[:, :, -1:]], 2)
    both = xp.stack([0.75 * rows + 0.25 * above, 0.75 * rows + 0.25 * below], 3)
    count, channels, half, _, width = both.shape
    return both.reshape(count, channels, 2 * half, width)[:, :, :height]
