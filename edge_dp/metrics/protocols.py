"""Affine-invariant scores exactly as published evaluations compute them: the same maps give other numbers in each.

A number is comparable to a published one only under the protocol of that publication; a report names it with
``Protocol.record()``. All compute in float64, while TensorFlow's and OpenCV's of the originals are float32.

Ranks, dense ones above all, depend on how finely a prediction is quantised: score the map as the method stores it.

They differ in: the crop and the resize; how equal values are ranked, and whether pixels without ground truth are ranked
too; the number of fits of AI(1); what AI(2) weighs its fit with; which pixels count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from edge_dp.errors import InputError
from edge_dp.metrics.affine import Ranks, RowWeight, ai1, ai2, one_minus_abs_spearman
from edge_dp.metrics.regions import (
    CentreCrop,
    Crop,
    HalveBicubic,
    Map,
    PatchGridCrop,
    ResizeBilinear,
    Step,
    TrimBorder,
)

Counted = Literal["confidence", "all", "target > 0"]
LEVELS = 255  # published ground truth is 8 bit


@dataclass(frozen=True, slots=True)
class Protocol:
    """How one publication scores. Change a field with ``dataclasses.replace``, and the name with it.

    Attributes:
        source: where the evaluation is published.
        note: what is peculiar, and what could not be confirmed.
        steps: crops and resizes, in order.
        round_target: round the target to its 8 bits after the steps, as a resize of 8-bit images does.
        counted: "confidence": pixels weigh as the confidence passed, 1 where none is; "all": all pixels weigh 1, also
            those without ground truth; "target > 0": as "confidence", but 0 where the target is 0.
        ranks: as in ``one_minus_abs_spearman``.
        rank_all: the same.
        ai1_fits: ``fits`` of ``ai1``.
        ai2_row_weight: ``row_weight`` of ``ai2``.
    """

    name: str
    source: str
    note: str
    steps: tuple[Step, ...]
    round_target: bool
    counted: Counted
    ranks: Ranks
    rank_all: bool
    ai1_fits: int
    ai2_row_weight: RowWeight

    def record(self) -> dict[str, object]:
        """All fields, ready for JSON; steps as they would be written in Python."""
        fields: dict[str, object] = {name: getattr(self, name) for name in self.__slots__}
        return fields | {"steps": [repr(step) for step in self.steps]}


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="google2019",
            source="Garg et al., ICCV 2019; github google-research/google-research, dual_pixels/eval",
            note="Target merged_depth, confidence merged_conf, centre view. Equal values are ranked by position, so a "
            "constant prediction scores as well as the order of rows does. Its L2 regulariser is ignored by TensorFlow.",
            steps=(CentreCrop(height=512, width=384),),
            round_target=False,
            counted="confidence",
            ranks="ordinal",
            rank_all=True,
            ai1_fits=5,
            ai2_row_weight="sqrt(c)",
        ),
        Protocol(
            name="iccp2020",
            source="Punnappurath et al., ICCP 2020; github abhijithpunnappurath/dual-pixel-defocus-disparity, evaluate",
            note="All pixels count, also those of level 0. AI(1) updates the weights five times after a first fit: six "
            "fits. Not confirmed: whether MATLAB rounds between the two passes of its resize; that is one level at most.",
            steps=(HalveBicubic(), PatchGridCrop(patch=111, stride=33, first=55), TrimBorder(100)),
            round_target=True,
            counted="all",
            ranks="dense",
            rank_all=True,
            ai1_fits=6,
            ai2_row_weight="sqrt(c)",
        ),
        Protocol(
            name="sfbd",
            source="Kim et al., CVPR 2023; github KAIST-VCLAB/dual-pixel-disparity, demo.py on the ICCP 2020 data",
            note="Its confidence is 1 everywhere on that data: pass none. The crop is 2592 x 4736, so the resize "
            "stretches columns by 0.8 %. The patch grid starts one pixel later than in MATLAB, whose indices it keeps.",
            steps=(
                Crop(top=125, bottom=2717, left=143, right=4879, frame=(2940, 5180)),
                ResizeBilinear(height=1296, width=2386),
                PatchGridCrop(patch=111, stride=33, first=56),
            ),
            round_target=False,
            counted="confidence",
            ranks="dense",
            rank_all=True,
            ai1_fits=5,
            ai2_row_weight="c",
        ),
        Protocol(
            name="xin2021",
            source="Xin et al., ICCV 2021; github cmu-ci-lab/dual_pixel_defocus_estimation_deblurring",
            note="That repository has data and method, no evaluation. Taken from its data: 8 bit, 0 = no ground truth. "
            "Not confirmed: ranks (here the average of equal values, counted pixels only), fits, crop (here none). sfbd "
            "with target > 0 and no steps is what Kim et al., CVPR 2023, run on these scenes: other ranks only.",
            steps=(),
            round_target=False,
            counted="target > 0",
            ranks="average",
            rank_all=False,
            ai1_fits=5,
            ai2_row_weight="sqrt(c)",
        ),
    )
}


def protocol_named(name: str) -> Protocol:
    """The protocol called ``name``.

    Raises:
        InputError: there is none; the message lists what there is.
    """
    if name not in PROTOCOLS:
        raise InputError(f"{name}: no such protocol; known are {', '.join(sorted(PROTOCOLS))}")
    return PROTOCOLS[name]


def evaluate(
    protocol: str | Protocol,
    prediction: ArrayLike,
    target: ArrayLike,
    confidence: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> dict[str, float]:
    """AI(1), AI(2) and 1 - |Spearman| of one map under one protocol.

    Args:
        protocol: a name in ``PROTOCOLS``, or your own.
        prediction: (H, W), any unit and sign: affine in what the target holds. Of the target's size, or of the size
            that the first steps of the protocol leave (a method may work on the cropped image); it takes the rest.
        target: (H, W) ground truth as published: uint8, which is divided by 255, or that quotient in [0, 1].
        confidence: (H, W), 0 or above, sized as the prediction may be; None for 1.
        mask: (H, W) bool, the same; None for all. A resized pixel counts where all that it is made of does.

    Returns:
        ``ai1``, ``ai2`` and ``one_minus_abs_spearman``, lower is better; AI(1) and AI(2) in units of the target / 255.

    Raises:
        InputError: no such protocol; a map that is not (H, W) or does not fit the steps; a target of another dtype or
            range; a confidence or mask where the protocol counts all pixels; and as ``ai1``.
    """
    if isinstance(protocol, str):
        protocol = protocol_named(protocol)
    if protocol.counted == "all" and not (confidence is None and mask is None):
        raise InputError(
            f"confidence, mask: expected none, as protocol {protocol.name} counts all pixels, found one. Leave it out, or "
            "call ai1, ai2 and one_minus_abs_spearman."
        )
    stages = [_target_map(target)]
    for step in protocol.steps:
        stages.append(step(stages[-1]))
    shapes = [stage.shape for stage in stages]
    t = stages[-1]
    if protocol.round_target:
        t = np.rint(t * LEVELS).clip(0, LEVELS) / LEVELS
    p = _last_stage("prediction", prediction, protocol, shapes)
    c = None if confidence is None else _last_stage("confidence", confidence, protocol, shapes)
    m = np.ones(t.shape, bool)
    if mask is not None:
        share = _last_stage("mask", np.asarray(mask, bool), protocol, shapes)
        m = np.abs(share - 1) < 1e-6  # above 1 where a pixel left out has a negative tap
    if protocol.counted == "target > 0":
        m &= t > 0
    return {
        "ai1": ai1(p, t, m, c, fits=protocol.ai1_fits),
        "ai2": ai2(p, t, m, c, row_weight=protocol.ai2_row_weight),
        "one_minus_abs_spearman": one_minus_abs_spearman(p, t, m, c, ranks=protocol.ranks, rank_all=protocol.rank_all),
    }


def _target_map(target: ArrayLike) -> Map:
    levels = np.asarray(target)
    values: Map = levels / LEVELS if levels.dtype == np.uint8 else levels.astype(np.float64)
    # Of another range AI(1) and AI(2) would be plausible numbers in the wrong unit.
    outside = np.count_nonzero((values < 0) | (values > 1))
    if levels.ndim != 2 or (levels.dtype != np.uint8 and levels.dtype.kind != "f") or outside:
        raise InputError(
            f"target: expected (H, W) ground truth as published, uint8 or floats in [0, 1], found {levels.dtype} "
            f"{levels.shape} with {outside} values outside. Divide by the largest level, and set holes to 0 or NaN."
        )
    return values


def _last_stage(name: str, values: ArrayLike, protocol: Protocol, shapes: list[tuple[int, ...]]) -> Map:
    """A map of the size of any stage of the target, taken through the steps that are left."""
    result = np.asarray(values, dtype=np.float64)
    if result.shape not in shapes:
        sizes = " or ".join(str(shape) for shape in dict.fromkeys(shapes))
        raise InputError(
            f"{name}: expected {sizes} (H, W) under protocol {protocol.name}, found {result.shape}. Resize it."
        )
    for step in protocol.steps[shapes.index(result.shape) :]:
        result = step(result)
    return result
