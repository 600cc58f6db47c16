"""Reader for dpMV: videos of a rig of three Pixel 4 phones, the middle one with dual-pixel views.

- Source: Garg et al., ICCP 2024, arXiv 2405.11823, github Aryan-Garg/dp-LFVR and dark-dp-nets. Licence: none stated; cite
  the paper.
- Layout: ``unrectified/B/dp_data/VIDEO/image_NNN_{left,right}.jpg``, ``disp_pixel4_BA/VIDEO/image_NNN_disp.pfm`` and the
  photographs of all three, rectified: ``rectified/{A,B,C}/Video_data/VIDEO/image_NNN.jpg``; A stands on the right of B, C on
  its left. A sample is named ``VIDEO/image_NNN``: split by video, as the frames of one show the same scene.
- Views: 8-bit JPEG, landscape, of which all channels are equal. The tone map is a square root: light = (v / 255)^2; whether
  it contains the black level is not stated. Axis x, unconfirmed; sign taken as in the other sets.
- The photographs are portrait: the views turned by a quarter clockwise (270 degrees counter-clockwise).
- ``disp_pixel4_BA`` is the disparity of the RIG between B and A, estimated by a stereo network on the rectified photographs,
  in their orientation; it is larger for nearer points. It is NOT dual-pixel disparity, but affine in inverse depth as that
  is: given as ``affine_disparity``, negated, turned and resized to the views. Rectification is not undone, so that it fits
  them up to a few pixels only.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from edge_dp.data.dataset import DpDataset, Part, match_files
from edge_dp.data.images import read_pair, read_raw, to_sample_orientation
from edge_dp.data.pfm import read_pfm
from edge_dp.data.profiles import file_profile
from edge_dp.data.sample import Array, DpSample
from edge_dp.errors import InputError
from edge_dp.sensors import SensorProfile

CAMERAS = "ABC"
PARTS = (
    Part("left", "unrectified/B/dp_data/{}/{}_left.jpg"),
    Part("right", "unrectified/B/dp_data/{}/{}_right.jpg"),
    Part("rig_disparity", "disp_pixel4_BA/{}/{}_disp.pfm", required=False),
    Part("rig_disparity_png", "disp_pixel4_BA/{}/{}_disp.png", required=False),
    *(Part(f"photograph_{c}", f"rectified/{c}/Video_data/{{}}/{{}}.jpg", required=False) for c in CAMERAS),
)


class DpMv(DpDataset):
    """Frames with both views. Samples with a rig disparity have ``affine_disparity`` and ``mask`` (where it is above 0).

    Args:
        root: the folder that holds ``unrectified/``.
        sensor: in place of a profile for these files; the views are squared after it.
        strict: refuse a set where a view lacks the other one.

    Raises:
        InputError: as ``DpDataset``. On reading: a disparity with more than one channel.
    """

    def __init__(self, root: str | Path, *, sensor: SensorProfile | None = None, strict: bool = True) -> None:
        super().__init__(
            root,
            match_files(Path(root), PARTS),
            sensor or _FILES,
            expected="unrectified/B/dp_data/VIDEO/image_NNN_left.jpg",
            strict=strict,
        )

    def read(self, name: str) -> DpSample:
        """The frame called ``VIDEO/image_NNN``."""
        paths = self.paths(name)
        encoded = read_pair(paths["left"], paths["right"], self.sensor)
        sample = replace(encoded, name=name, left=encoded.left**2, right=encoded.right**2)
        if "rig_disparity" not in paths:
            return sample
        path = paths["rig_disparity"]
        values = read_pfm(path)
        if values.ndim != 2:
            raise InputError(f"{path}: expected one channel, found {values.shape[2]}. Copy the file again.")
        height, width = encoded.left.shape[1:]
        landscape = to_sample_orientation(np.rot90(values), sample.sensor)
        target: Array = -cv2.resize(landscape, (width, height), interpolation=cv2.INTER_NEAREST_EXACT).astype(
            np.float32
        )
        return replace(sample, affine_disparity=target, mask=np.isfinite(target) & (target < 0))

    def photographs(self, name: str, cameras: str = CAMERAS) -> dict[str, Array]:
        """What the rig's cameras saw of a frame, rectified, as stereo wants it.

        Args:
            name: ``VIDEO/image_NNN``.
            cameras: which, of A (right), B (middle) and C (left).

        Returns:
            For each camera (3, H, W) float32 in [0, 1], red, green and blue as they lie in the file: gamma-encoded, portrait.

        Raises:
            InputError: a photograph is missing, damaged, not 8-bit colour, of another size than the first, or landscape.
        """
        paths = self.paths(name)
        pictures: dict[str, Array] = {}
        for camera in cameras:
            path = paths.get(role := f"photograph_{camera}")
            if path is None:
                template = next(part for part in PARTS if part.role == role).path(name)
                raise InputError(
                    f"{self.root / template}: expected the photograph of camera {camera}, found nothing. Complete the set, or "
                    "leave that camera out."
                )
            values = read_raw(path)
            if values.dtype != np.uint8 or values.ndim != 3:
                raise InputError(f"{path}: expected 8-bit colour, found {values.dtype} {values.shape}. Copy it again.")
            first = next(iter(pictures.values()), None)
            if first is not None and first.shape[1:] != values.shape[:2]:
                found = f"{values.shape[1]}x{values.shape[0]}, found beside it {first.shape[2]}x{first.shape[1]}"
                raise InputError(f"{path}: expected photographs of one size, found {found}. Rectify them together.")
            if values.shape[1] > values.shape[0]:
                raise InputError(
                    f"{path}: expected a portrait photograph, found {values.shape[1]}x{values.shape[0]}. Turn it a quarter "
                    "clockwise."
                )
            pictures[camera] = np.moveaxis(values[..., ::-1], -1, 0).astype(np.float32) / np.float32(255)
        return pictures


_FILES = file_profile(
    "dpmv",
    "Google Pixel 4, 8-bit JPEG whose values are to be squared after reading (dpMV, ICCP 2024).",
    "Published loader of dpMV.",
    bits=8,
    transfer="linear",
)
