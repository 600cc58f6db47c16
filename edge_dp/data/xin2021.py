"""Reader for the Pixel 4 captures of Xin et al., ICCV 2021, as central crops of 1344x1008 px.

Source: "Defocus Map Estimation and Deblurring from a Single Dual-Pixel Image", github
cmu-ci-lab/dual_pixel_defocus_estimation_deblurring.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from edge_dp.data.images import read_pair, read_raw
from edge_dp.data.roots import data_root
from edge_dp.data.sample import DpSample
from edge_dp.errors import InputError
from edge_dp.sensors import load_sensor


class Xin2021:
    """Scenes of one folder, read when asked for.

    Layout: ``views/NNN_{left,right}.png`` (uint16 raw, black 1024) and ``defocus_map/NNN_gt.png`` (uint8, 0 = no ground
    truth, 1..255 = defocus up to an affine map per scene, larger = farther).

    Each sample has ``affine_disparity`` = level / 255 and ``mask``; ``disparity`` in px is not known. A test set: never
    train on it.

    Args:
        root: the folder; None for ``dual_pixel/pixel4`` under ``data_root()``.

    Raises:
        InputError: no such folder, no views in it, or a scene without its right view or ground truth. On reading a
            scene: as ``read_pair``; a ground truth that is not uint8 of the size of the views.
    """

    def __init__(self, root: str | Path | None = None) -> None:
        if root is None:
            known = data_root()
            if known is None:
                raise InputError("Xin2021: expected captures, found none. Set EDGE_DP_DATA or pass their folder.")
            root = known / "dual_pixel" / "pixel4"
        self.root = Path(root)
        self.sensor = load_sensor("pixel4")
        self.names = tuple(sorted(p.name.removesuffix("_left.png") for p in self.root.glob("views/*_left.png")))
        if not self.names:
            raise InputError(
                f"{self.root}: expected views/NNN_left.png, found none. Pass the folder that holds views/."
            )
        for path in [path for name in self.names for path in self._paths(name)]:
            if not path.is_file():
                raise InputError(f"{path}: expected beside the left view, found nothing. Complete the scene.")

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[DpSample]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> DpSample:
        name = self.names[index]
        left, right, truth = self._paths(name)
        sample = read_pair(left, right, self.sensor)
        levels = read_raw(truth)
        if levels.dtype != np.uint8 or levels.shape != sample.left.shape[1:]:
            raise InputError(
                f"{truth}: expected uint8 {sample.left.shape[1:]} as the views, found {levels.dtype} {levels.shape}. "
                "Copy the file again."
            )
        target = (levels / 255).astype(np.float32)
        return replace(sample, name=name, affine_disparity=target, mask=levels > 0)

    def _paths(self, name: str) -> tuple[Path, Path, Path]:
        views = self.root / "views"
        return views / f"{name}_left.png", views / f"{name}_right.png", self.root / "defocus_map" / f"{name}_gt.png"
