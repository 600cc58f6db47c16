"""Reader for the synthetic dual-pixel videos of RDPD.

- Source: Abuolaim et al., "Learning to Reduce Defocus Blur by Realistically Modeling Dual-Pixel Data", ICCV 2021, github
  Abdullah-Abuolaim/recurrent-defocus-deblurring-synth-dual-pixel. Licence: Apache-2.0; made from SYNTHIA-SF, whose terms
  hold too.
- Layout: ``dd_dp_dataset_synth_vid/{train,val,test}_{l,r,c}/source/seq_NNN/FRAME.png`` and
  ``*_c/target/seq_NNN/FRAME.png``. A sample is named ``seq_NNN/FRAME``.
- Files: 8-bit RGB; sRGB taken (the generator blurs the encoded values).
- Axis x. Sign unconfirmed: the generator swaps left and right in front of focus the other way round than another simulator
  of the field (CADS) does. As there is no depth, ``edge-dp data check`` cannot tell; pass a ``sensor`` with ``swap_views``
  where you know better.

There is no depth as distributed. ``all_in_focus`` is the target, the frame before blurring.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edge_dp.data.dataset import DpDataset, Part, choose_split, match_files
from edge_dp.data.images import read_pair
from edge_dp.data.profiles import file_profile
from edge_dp.data.sample import DpSample
from edge_dp.data.truth import read_picture
from edge_dp.sensors import SensorProfile

SPLITS = ("train", "val", "test")


class Rdpd(DpDataset):
    """Frames of one split. Samples have ``all_in_focus``.

    Args:
        root: the folder that holds ``train_l/`` or its siblings.
        split: train, val or test.
        colour: give red, green and blue in place of green alone.
        sensor: in place of a profile for 8-bit sRGB files.
        strict: refuse a split with an incomplete frame.

    Raises:
        InputError: as ``DpDataset``; an unknown split.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        split: str = "test",
        colour: bool = False,
        sensor: SensorProfile | None = None,
        strict: bool = True,
    ) -> None:
        self._colour = colour
        super().__init__(
            root,
            match_files(choose_split(root, split, SPLITS), _parts(split)),
            sensor or _FILES,
            expected=f"{split}_l/source/seq_NNN/*.png",
            strict=strict,
        )

    def read(self, name: str) -> DpSample:
        """The frame called ``seq_NNN/FRAME``."""
        paths = self.paths(name)
        sample = read_pair(paths["left"], paths["right"], self.sensor, colour=self._colour)
        sharp = read_picture(paths["all_in_focus"], sample, self.sensor, colour=self._colour)
        return replace(sample, name=name, all_in_focus=sharp)


def _parts(split: str) -> tuple[Part, ...]:
    return (
        Part("left", f"{split}_l/source/{{}}/{{}}.png"),
        Part("right", f"{split}_r/source/{{}}/{{}}.png"),
        Part("combined", f"{split}_c/source/{{}}/{{}}.png", required=False),
        Part("all_in_focus", f"{split}_c/target/{{}}/{{}}.png"),
    )


_FILES = file_profile("rdpd", "Simulated, 8-bit RGB (RDPD, ICCV 2021).", "Generator: 8 bit; sRGB taken.", bits=8)
