"""The report's pictures, drawn from the first golden case: what went in, what came out, and where it is wrong."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_dp.bundle.manifest import Artifact, Bundle, Manifest
from edge_dp.config import from_mapping
from edge_dp.data.disparity import colour_limits, disparity_colours, write_png
from edge_dp.files import json_dump, json_load
from edge_dp.runtime.engines.base import Tensors
from edge_dp.srgb import linear_to_srgb

PICTURES = "report_pictures"
SCALES = "scales.json"
ERROR_STEPS = 4.0
"""Quantisation steps at which the error map of an integer artifact saturates."""

RowKey = tuple[str, str, str]
"""Artifact, engine, device."""
Map = NDArray[np.float32]
Picture = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Scale:
    """What the two ends of a picture's colours stand for, in the unit of the output it shows."""

    low: float
    high: float


def write_pictures(
    bundle: Bundle, outputs: Mapping[RowKey, tuple[Artifact, Tensors]], folder: Path
) -> tuple[dict[str, str], dict[RowKey, dict[str, str]]]:
    """Draw the first golden case and what artifacts made of it, and note what the colours stand for in ``scales.json``.

    All disparity maps share one scale, that of the float model, so that equal colours are equal disparities. An error map
    shows the signed error against the artifact's own reference: +-4 quantisation steps where that is the quantised graph,
    else up to the largest error.

    Args:
        bundle: pictures are drawn where its only input has two views as channels and its first output is the disparity.
        outputs: artifact and outputs on the first golden case, by the row's key.
        folder: where the pictures go; it becomes ``report_pictures`` of the bundle.

    Returns:
        The shared pictures (``left``, ``right``, ``disparity_float``, ``disparity_quantised``, ``confidence_float``) and
        those of each row (``disparity``, ``error``): what each shows to its path relative to the bundle. Both empty
        where there is nothing to draw.

    Raises:
        InputError: the golden files are damaged, or a picture cannot be written.
    """
    manifest = bundle.manifest
    case = manifest.golden[0]
    spec = manifest.outputs[0]
    if not _is_drawable(manifest):
        json_dump({}, folder / SCALES)
        return {}, {}
    (views,) = bundle.golden_inputs(case)[manifest.inputs[0].name]
    references = {kind: bundle.golden_outputs(case, kind) for kind in case.outputs}
    disparity = {kind: _plane(tensors[spec.name]) for kind, tensors in references.items()}
    scale = Scale(*colour_limits(disparity["float"]))

    album = _Album(folder)
    shared = {name: album.add(name, _grey(view)) for name, view in zip(("left", "right"), views, strict=True)}
    for kind in ("float", "quantised"):
        if kind in disparity:
            shared[f"disparity_{kind}"] = album.add_map(f"disparity_{kind}", "disparity", disparity[kind], scale)
    if "confidence" in references["float"]:
        confidence = _plane(references["float"]["confidence"])
        shared["confidence_float"] = album.add_map(
            "confidence_float", "confidence", confidence, Scale(*colour_limits(confidence))
        )

    by_row: dict[RowKey, dict[str, str]] = {}
    for index, (key, (artifact, tensors)) in enumerate(outputs.items()):
        found, stem = _plane(tensors[spec.name]), f"{index:02d}_{_file_name(artifact.name)}"
        error = found - disparity[artifact.reference]
        limit = _error_limit(artifact, error, spec.scale or 1.0)
        by_row[key] = {
            "disparity": album.add_map(f"{stem}_disparity", "disparity", found, scale),
            "error": album.add_map(f"{stem}_error", "error", error, Scale(-limit, limit)),
        }
    json_dump({path: dataclasses.asdict(scale) for path, scale in album.scales.items()}, folder / SCALES)
    return shared, by_row


def read_scales(folder: Path) -> dict[str, Scale]:
    """What ``write_pictures`` noted of the pictures in ``<folder>/report_pictures``, by path; empty where it did not.

    Raises:
        SchemaError: the file holds something else.
    """
    path = folder / PICTURES / SCALES
    if not path.is_file():
        return {}
    return {name: from_mapping(Scale, value, f"{path}: {name}") for name, value in json_load(path).items()}


def colour_stops(what: str, count: int = 17) -> list[str]:
    """CSS colours from the low to the high end of the scale of ``disparity``, ``confidence`` or ``error``."""
    ramp = np.linspace(-1.0, 1.0, count, dtype=np.float32)[None]
    return [f"rgb({red},{green},{blue})" for blue, green, red in COLOURINGS[what](ramp, Scale(-1.0, 1.0))[0].tolist()]


def error_colours(error: Map, scale: Scale) -> Picture:
    """Blue below zero, white at zero, red above; black where not finite.

    Args:
        error: (H, W).
        scale: the errors of the bluest and the reddest colour, symmetric about zero; white all over where both are zero.

    Returns:
        (H, W, 3) uint8, in the order blue, green, red.
    """
    valid = np.isfinite(error)
    share = np.where(valid, error, 0.0) / (scale.high or math.inf)
    blue, green, red = (np.interp(share, _ERROR_AT, levels) for levels in zip(*_ERROR_COLOURS, strict=True))
    colours = np.rint(np.stack([blue, green, red], axis=-1)).astype(np.uint8)
    colours[~valid] = 0
    return colours


def _disparity_colours(values: Map, scale: Scale) -> Picture:
    return disparity_colours(values, (scale.low, scale.high))


def _confidence_colours(values: Map, scale: Scale) -> Picture:
    share = (np.nan_to_num(values) - scale.low) / max(scale.high - scale.low, 1e-6)
    return cv2.applyColorMap((255 * share.clip(0, 1)).astype(np.uint8), cv2.COLORMAP_CIVIDIS).astype(np.uint8)


_ERROR_AT = (-1.0, -0.5, 0.0, 0.5, 1.0)
_ERROR_COLOURS = ((120, 48, 8), (208, 140, 72), (255, 255, 255), (88, 112, 236), (24, 8, 120))  # blue, green, red
COLOURINGS: dict[str, Callable[[Map, Scale], Picture]] = {
    "disparity": _disparity_colours,
    "confidence": _confidence_colours,
    "error": error_colours,
}


@dataclass
class _Album:
    """The folder being filled, and the scales of what is in it."""

    folder: Path
    scales: dict[str, Scale] = field(default_factory=dict)

    def add(self, stem: str, picture: Picture) -> str:
        write_png(self.folder / f"{stem}.png", picture)
        return f"{PICTURES}/{stem}.png"

    def add_map(self, stem: str, what: str, values: Map, scale: Scale) -> str:
        path = self.add(stem, COLOURINGS[what](values, scale))
        self.scales[path] = scale
        return path


def _is_drawable(manifest: Manifest) -> bool:
    views, first = manifest.inputs[0].shape, manifest.outputs[0]
    two_views = len(manifest.inputs) == 1 and len(views) == 4 and views[:2] == (1, 2)
    return two_views and first.name == "disparity" and len(first.shape) == 4 and first.shape[0] == 1


def _plane(tensor: NDArray[Any]) -> Map:
    """(H, W) of an output (1, C, H, W): its first channel."""
    return np.asarray(tensor[0, 0], dtype=np.float32)


def _grey(light: Map) -> Picture:
    """8-bit sRGB grey of linear light in [0, 1]."""
    return np.rint(255 * linear_to_srgb(light.clip(0.0, 1.0))).astype(np.uint8)


def _error_limit(artifact: Artifact, error: Map, step: float) -> float:
    """Where the error map saturates; for a float artifact the largest error, rounded up to 1, 2 or 5 times a power of ten."""
    if artifact.reference == "quantised":
        return ERROR_STEPS * step
    largest = float(np.abs(error[np.isfinite(error)]).max(initial=0.0))
    if largest == 0.0:
        return 0.0
    power = 10.0 ** math.floor(math.log10(largest))
    return float(next(factor * power for factor in (1, 2, 5, 10, 20) if factor * power >= largest))


def _file_name(name: str) -> str:
    """``name`` as part of a file name: a manifest may call an artifact anything."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name)[:60]
