"""Reader for Google's dual-pixel data set: Pixel phone captures with multi-view depth. ``test`` is a test set.

- Source: Garg et al., "Learning Single Camera Depth Estimation using Dual-Pixels", ICCV 2019, github
  google-research/google-research, dual_pixels. Licence: see the README.pdf beside the archives; the code is Apache-2.0.
- Layout: ``{train,test}/PART/CAPTURE/result_FILE_VIEW.png`` with PART/FILE ``left_pd/leftPd``, ``right_pd/rightPd``,
  ``scaled_images/scaled_image`` (jpg), ``merged_depth/merged_depth`` and ``merged_conf/merged_conf`` (npy and exr); VIEW
  is one of center, left, right, top, bottom: the five phones of the rig. A sample is named ``CAPTURE/VIEW``.
- Views: one channel, 2016 high and 1512 wide, portrait; 8 bit in the copies seen, 16 bit by other accounts, so that both
  are read. Their transfer curve is not stated: 8 bit is taken as sRGB, 16 bit as linear.
- The dual-pixel axis is y of the files (measured on one test capture), so that samples are turned by a quarter. The sign
  is taken as in the other sets.
- Depth: uint8, 1008x756, inverse perspective sampling z = 100 * 0.2 / (100 - (100 - 0.2) v / 255) m by accounts of its
  users; so v is affine in -1/z, as disparity is, and larger is farther. Confidence: float32 in [0, 1].

Views have twice the size of the ground truth on each side. They are averaged over 2x2 px to its size, that on which the
published evaluation scores.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_dp.data.dataset import DpDataset, Part, choose_split, match_files
from edge_dp.data.headers import read_header
from edge_dp.data.images import read_pair
from edge_dp.data.profiles import file_profile
from edge_dp.data.sample import Array, DpSample
from edge_dp.data.truth import fit_to_views, read_levels
from edge_dp.errors import InputError
from edge_dp.sensors import SensorProfile

SPLITS = ("train", "test")
VIEWS = ("center", "left", "right", "top", "bottom")


class Google2019(DpDataset):
    """Captures of one split. Samples have ``affine_disparity`` = level / 255, ``confidence`` and ``mask`` (confidence > 0).

    Args:
        root: the folder that holds ``train/`` or ``test/``.
        split: which of them.
        views: of the rig, those to take; the published evaluation takes ``("center",)``.
        sensor: in place of the profiles above, whatever the bit depth.
        strict: refuse a set with an incomplete sample.

    Raises:
        InputError: as ``DpDataset``; an unknown split or view. On reading: a ground truth of another kind, or of a size
            that does not divide that of the views.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        split: str = "test",
        views: tuple[str, ...] = VIEWS,
        sensor: SensorProfile | None = None,
        strict: bool = True,
    ) -> None:
        folder = choose_split(root, split, SPLITS)
        if unknown := set(views) - set(VIEWS):
            raise InputError(f"{root}: views: expected of {', '.join(VIEWS)}, found {', '.join(sorted(unknown))}.")
        listing = match_files(folder, _parts(split))
        wanted = {name: files for name, files in listing.files.items() if name.rpartition("/")[2] in views}
        super().__init__(
            root,
            replace(listing, files=wanted),
            sensor or _EIGHT_BIT,
            expected=f"{split}/left_pd/CAPTURE/result_leftPd_VIEW.png",
            strict=strict,
        )
        self._by_bits = {} if sensor else {16: _SIXTEEN_BIT}

    def read(self, name: str) -> DpSample:
        """The sample called ``CAPTURE/VIEW``."""
        paths = self.paths(name)
        sensor = self._by_bits.get(read_header(paths["left"]).bits, self.sensor)
        full = read_pair(paths["left"], paths["right"], sensor)
        levels = read_levels(paths["truth"], np.uint8)
        shape = levels.shape[::-1] if sensor.dp_axis == "y" else levels.shape
        left, right = (_average(view, (shape[0], shape[1]), paths["truth"]) for view in (full.left, full.right))
        sample = replace(full, name=name, left=left, right=right)
        confidence = fit_to_views(_read_confidence(paths["confidence"]), sample, paths["confidence"])
        target = fit_to_views(levels, sample, paths["truth"]).astype(np.float32) / np.float32(255)
        return replace(sample, affine_disparity=target, confidence=confidence, mask=confidence > 0)


def _parts(split: str) -> tuple[Part, ...]:
    return (
        Part("left", f"{split}/left_pd/{{}}/result_leftPd_{{}}.png"),
        Part("right", f"{split}/right_pd/{{}}/result_rightPd_{{}}.png"),
        Part("truth", f"{split}/merged_depth/{{}}/result_merged_depth_{{}}.png"),
        Part("confidence", f"{split}/merged_conf/{{}}/result_merged_conf_{{}}.npy"),
        Part("confidence_exr", f"{split}/merged_conf/{{}}/result_merged_conf_{{}}.exr", required=False),
        Part("scaled_image", f"{split}/scaled_images/{{}}/result_scaled_image_{{}}.jpg", required=False),
    )


def _average(view: Array, shape: tuple[int, int], truth: Path) -> Array:
    """(1, H, W) -> (1, h, w): the mean over blocks of whole pixels."""
    (height, width), (h, w) = view.shape[1:], shape
    if height % h or width % w or height // h != width // w:
        raise InputError(
            f"{truth}: expected a size that divides that of the views, {width}x{height} along and across the dual-pixel "
            f"axis, found {w}x{h}. Copy the file again."
        )
    return cv2.resize(view[0], (w, h), interpolation=cv2.INTER_AREA)[None]


def _read_confidence(path: Path) -> Array:
    """(H, W) float32, >= 0. Of several channels the first, as they are equal."""
    try:
        values: NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: expected an array of floats (npy), found: {error}. Copy the file again.") from error
    if values.ndim not in (2, 3) or values.dtype.kind != "f":
        raise InputError(f"{path}: expected (H, W) floats, found {values.dtype} {values.shape}. Copy the file again.")
    return np.ascontiguousarray(values if values.ndim == 2 else values[..., 0], dtype=np.float32)


_SOURCE = "Taken: the set does not state it (Garg et al., ICCV 2019)."
_EIGHT_BIT = file_profile("google2019", "Google Pixel, portrait, 8 bit (ICCV 2019).", _SOURCE, bits=8, dp_axis="y")
_SIXTEEN_BIT = file_profile(
    "google2019", "Google Pixel, portrait, 16 bit (ICCV 2019).", _SOURCE, bits=16, transfer="linear", dp_axis="y"
)
