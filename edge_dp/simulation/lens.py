"""Lenses drawn at random: which point-spread functions a simulated capture is taken with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from edge_dp.errors import SchemaError
from edge_dp.optics.psf import ALPHA_HALF_DISC, ALPHA_RAMP, Butterworth, HalfAperture, PsfModel, TranslatingDisc


@dataclass(frozen=True, slots=True)
class LensConfig:
    """Ranges of what the lens does to light."""

    models: dict[str, float] = field(default_factory=lambda: {"half_aperture": 1.0})
    """How often each kind of point-spread function is drawn: half_aperture (any alpha), half_disc, ramp, translating_disc,
    butterworth, or ``sensor:NAME`` for the field of a profile with ``psf``, as measured."""
    alpha: tuple[float, float] = (0.18, 0.424)
    """Disparity per circle-of-confusion diameter of half_aperture; real sensors lie between a Pixel 4 and an ideal half disc."""
    blur: tuple[float, float] = (0.0, 0.7)
    """Standard deviation of what blurs even focused light (lens, pixel aperture, resampling), px."""
    pool: int = 64
    """Different lenses in a data set: captures share them, and so their kernels."""
    field_share: tuple[float, float] = (0.5, 1.0)
    """How much of the field's width and height a frame shows, at a random place, for models that vary over it."""

    def __post_init__(self) -> None:
        for name, share in self.models.items():
            if name not in LENSES and not name.startswith("sensor:"):
                raise SchemaError(f"models: expected {', '.join(LENSES)} or sensor:NAME, found {name!r}")
            if share < 0:
                raise SchemaError(f"models: {name}: expected a share, 0 or above, found {share}")
        if sum(self.models.values()) <= 0 or self.pool < 1:
            raise SchemaError(f"expected some model with a share above 0 and a pool of at least 1, found {self}")
        if not 0 < self.alpha[0] <= self.alpha[1] <= ALPHA_HALF_DISC + 1e-3:
            raise SchemaError(f"alpha: expected a rising range within (0, {ALPHA_HALF_DISC:.3f}], found {self.alpha}")
        if not 0 <= self.blur[0] <= self.blur[1] or not 0 < self.field_share[0] <= self.field_share[1] <= 1:
            raise SchemaError(f"expected rising ranges, blur from 0 and field_share within (0, 1], found {self}")

    def __hash__(self) -> int:
        return hash((frozenset(self.models.items()), self.alpha, self.blur, self.pool, self.field_share))


def _half_aperture(rng: np.random.Generator, config: LensConfig, blur: float) -> PsfModel:
    return HalfAperture(blur, min(float(rng.uniform(*config.alpha)), ALPHA_HALF_DISC))


def _butterworth(rng: np.random.Generator, _: LensConfig, blur: float) -> PsfModel:
    # The published sets: Abuolaim et al., ICCV 2021.
    return Butterworth(blur, int(rng.choice([3, 6, 9])), float(rng.choice([0.8, 1.0])), float(rng.choice([0.1, 0.2])))


LENSES: dict[str, Callable[[np.random.Generator, LensConfig, float], PsfModel]] = {
    "half_aperture": _half_aperture,
    "half_disc": lambda _rng, _config, blur: HalfAperture(blur, ALPHA_HALF_DISC),
    "ramp": lambda _rng, _config, blur: HalfAperture(blur, ALPHA_RAMP),
    "translating_disc": lambda _rng, _config, blur: TranslatingDisc(blur),
    "butterworth": _butterworth,
}
"""The kinds of ``LensConfig.models``, each with how one is drawn."""


@lru_cache(maxsize=4096)
def draw_lens(seed: int, number: int, config: LensConfig) -> PsfModel:
    """Lens ``number`` of the pool of a data set; the same for the same arguments in whichever process."""
    rng = np.random.default_rng([seed, 0x1E45, number])
    names = sorted(config.models)  # their order in a file means nothing
    shares = np.array([config.models[name] for name in names])
    name = names[int(rng.choice(len(names), p=shares / shares.sum()))]
    blur = float(rng.uniform(*config.blur))
    if name in LENSES:
        return LENSES[name](rng, config, blur)
    return _measured(name.removeprefix("sensor:"), blur)


def _measured(sensor_name: str, blur: float) -> PsfModel:
    from edge_dp.optics.field_psf import FieldPsf
    from edge_dp.sensors import load_sensor

    psf = load_sensor(sensor_name).psf
    if psf is None:
        raise SchemaError(f"models: sensor:{sensor_name}: expected a profile with psf, found none in it")
    return FieldPsf(replace(psf, blur_px=math.hypot(psf.blur_px, blur)))
