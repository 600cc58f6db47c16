"""The dual-pixel data sets that can be read. A new one is added here and is listed, recognised and checked by existing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from edge_dp.data.dataset import DpDataset, check_folder
from edge_dp.errors import InputError

MEASURED = "left(x) = right(x + d), d > 0 farther than focus (measured on real captures)"
_LOOKED_INTO = 100  # folders in one that holds no data set itself
UNCONFIRMED = "left(x) = right(x + d), d > 0 farther than focus (taken as in other sets, unconfirmed)"


@dataclass(frozen=True, slots=True)
class DatasetEntry:
    """One data set, and what it promises. Nothing here imports its reader, whose module says more."""

    name: str
    title: str
    target: str  # module:class of the reader
    source: str
    licence: str
    layout: str
    dp_axis: Literal["x", "y"]  # of the files
    sign: str
    bits: tuple[int, ...]  # per channel of the files of the views
    test_set: str  # what is never to be trained on
    markers: tuple[tuple[str, ...], ...]  # alternatives; each is patterns below the root of which all must be there
    splits: tuple[str, ...] = ()
    split_folder: str = ""  # {} for the split: a folder that is there where the split is

    def recognises(self, root: Path) -> bool:
        """Whether ``root`` looks like this set, by a few names."""
        return any(all(_exists(root, pattern) for pattern in alternative) for alternative in self.markers)

    def splits_in(self, root: Path) -> tuple[str, ...]:
        """Those of its splits that are there; empty for a set without splits."""
        return tuple(split for split in self.splits if (root / self.split_folder.format(split)).is_dir())

    def reader(self) -> Callable[..., DpDataset]:
        """The class of its reader."""
        module, attribute = self.target.split(":")
        reader: Callable[..., DpDataset] = getattr(import_module(module), attribute)
        return reader


def list_datasets() -> tuple[str, ...]:
    """Names of the data sets, sorted."""
    return tuple(sorted(DATASETS))


def dataset_entry(name: str) -> DatasetEntry:
    """The entry called ``name``.

    Raises:
        InputError: there is none; the message lists what there is.
    """
    if name not in DATASETS:
        raise InputError(f"data set {name!r}: expected one of {', '.join(list_datasets())}. Correct the name.")
    return DATASETS[name]


def open_dataset(name: str, root: str | Path, **options: Any) -> DpDataset:
    """A data set as a lazy sequence of samples.

    Args:
        name: see ``list_datasets``.
        root: its folder.
        options: of its reader, e.g. ``split`` or ``colour``.

    Raises:
        InputError: an unknown name, or what the reader raises.
    """
    return dataset_entry(name).reader()(root, **options)


def recognise(root: str | Path) -> DatasetEntry:
    """The data set that a folder holds, by the names in it; where several would do, the first of the registry.

    Raises:
        InputError: it is no folder, or of no known layout; the message says which there are, and names folders in it that
            do hold a data set.
    """
    root = Path(root)
    check_folder(root)
    for entry in DATASETS.values():
        if entry.recognises(root):
            return entry
    below = [
        f"{folder.name} ({entry.name})"
        for folder in sorted(path for path in root.iterdir() if path.is_dir())[:_LOOKED_INTO]
        for entry in DATASETS.values()
        if entry.recognises(folder)
    ]
    if below:
        raise InputError(f"{root}: expected one data set, found folders that hold some: {', '.join(below)}. Pass one.")
    layouts = "; ".join(f"{entry.name}: {' or '.join(a[0] for a in entry.markers)}" for entry in DATASETS.values())
    found = ", ".join(sorted(path.name for path in root.iterdir())[:8]) or "an empty folder"
    raise InputError(f"{root}: expected the folder of a data set ({layouts}), found {found}. Check names and folder.")


def _exists(root: Path, pattern: str) -> bool:
    return next(root.glob(pattern), None) is not None


DATASETS: dict[str, DatasetEntry] = {
    entry.name: entry
    for entry in (
        DatasetEntry(
            name="xin2021",
            title="Xin et al., ICCV 2021: Pixel 4 scenes with defocus maps",
            target="edge_dp.data.xin2021:Xin2021",
            source="github cmu-ci-lab/dual_pixel_defocus_estimation_deblurring",
            licence="none stated; cite the paper",
            layout="NNN_{left,right}.png, gt_defocus_map/, gt_all_in_focus_im/; or views/, defocus_map/, all_in_focus/",
            dp_axis="x",
            sign=MEASURED,
            bits=(16,),
            test_set="all of it",
            markers=(("views/*_left.png", "defocus_map"), ("*_left.png", "gt_defocus_map")),
        ),
        DatasetEntry(
            name="dp119",
            title="DP119 (Sdirt), ICCV 2025: Canon R6 II scenes with depth",
            target="edge_dp.data.dp119:Dp119",
            source="github LinYark/Sdirt",
            licence="MIT",
            layout="box/NNN/, casual/{iphone,orbbec}/NNN/{l,r,d}.png; flat/NNN/MILLIMETRES/{f4,f20}/{l,r}.png",
            dp_axis="x",
            sign=MEASURED,
            bits=(8,),
            test_set="all of it",
            markers=(("box/*/l.png",), ("casual/*/*/l.png",), ("flat/*/*/f4/l.png",)),
        ),
        DatasetEntry(
            name="google2019",
            title="Google dual_pixels, ICCV 2019: Pixel captures with multi-view depth",
            target="edge_dp.data.google2019:Google2019",
            source="github google-research/google-research, dual_pixels",
            licence="README.pdf beside the archives",
            layout="SPLIT/{left_pd,right_pd,merged_depth,merged_conf}/CAPTURE/result_*_VIEW.{png,npy}",
            dp_axis="y",
            sign=UNCONFIRMED,
            bits=(8, 16),
            test_set="test",
            markers=(("test/left_pd",), ("train/left_pd",)),
            splits=("train", "test"),
            split_folder="{}/left_pd",
        ),
        DatasetEntry(
            name="iccp2020",
            title="Punnappurath et al., ICCP 2020: DSLR scenes with depth",
            target="edge_dp.data.iccp2020:Iccp2020",
            source="github abhijithpunnappurath/dual-pixel-defocus-disparity",
            licence="none stated; cite the paper",
            layout="NNN_{L,R,B}.jpg, NNN_D.TIF",
            dp_axis="x",
            sign=UNCONFIRMED,
            bits=(8,),
            test_set="all of it",
            markers=(("*_L.jpg", "*_D.TIF"),),
        ),
        DatasetEntry(
            name="rdpd",
            title="RDPD, ICCV 2021: synthetic dual-pixel videos",
            target="edge_dp.data.rdpd:Rdpd",
            source="github Abdullah-Abuolaim/recurrent-defocus-deblurring-synth-dual-pixel",
            licence="Apache-2.0; SYNTHIA-SF's terms too",
            layout="SPLIT_{l,r,c}/source/seq_NNN/*.png, SPLIT_c/target/seq_NNN/*.png",
            dp_axis="x",
            sign=UNCONFIRMED,
            bits=(8,),
            test_set="test",
            markers=(("*_l/source/seq_*",),),
            splits=("train", "val", "test"),
            split_folder="{}_l/source",
        ),
        DatasetEntry(
            name="dpdd_canon",
            title="DPDD, ECCV 2020: Canon 5D IV, defocused and sharp",
            target="edge_dp.data.dpdd:DpddCanon",
            source="github Abdullah-Abuolaim/defocus-deblurring-dual-pixel",
            licence="MIT",
            layout="SPLIT_{l,r,c}/source/*.png, SPLIT_c/target/*.png, paired by order",
            dp_axis="x",
            sign=UNCONFIRMED,
            bits=(16,),
            test_set="test",
            markers=(("*_l/source", "*_c/target"),),
            splits=("train", "val", "test"),
            split_folder="{}_l/source",
        ),
        DatasetEntry(
            name="dpdd_pixel",
            title="DPDD, ECCV 2020: Pixel 4 pairs without ground truth",
            target="edge_dp.data.dpdd:DpddPixel",
            source="github Abdullah-Abuolaim/defocus-deblurring-dual-pixel",
            licence="MIT",
            layout="test_{l,r,c}/source/*.png, paired by order",
            dp_axis="x",
            sign=UNCONFIRMED,
            bits=(16,),
            test_set="all of it",
            markers=(("test_l/source", "test_r/source"),),
        ),
        DatasetEntry(
            name="dddnet_nyu",
            title="NYU-DP (DDDNet), CVPR 2021: simulated captures with disparity",
            target="edge_dp.data.dddnet:DddNetNyu",
            source="github panpanfei/Dual-Pixel-Exploration-Simultaneous-Depth-Estimation-and-Image-Restoration",
            licence="academic use only",
            layout="{training,testing}/dp/NNNN_{l,r}.png, gt/NNNN_m.png, disp/NNNN_dm.pfm",
            dp_axis="x",
            sign=UNCONFIRMED,
            bits=(8,),
            test_set="testing",
            markers=(("testing/dp/*_l.png",), ("training/dp/*_l.png",)),
            splits=("training", "testing"),
            split_folder="{}/dp",
        ),
        DatasetEntry(
            name="dp5k",
            title="DP5K, ICCP 2023: Canon rig, five apertures, depth",
            target="edge_dp.data.dp5k:Dp5k",
            source="github feiran-l/Neural-Dual-Pixel-Simulator",
            licence="MIT (repository)",
            layout="SPLIT/TIMESTAMP/cam{0,1}/FN_*_{l,r,c}.png, FN_22.png, dep.png; meta_data.h5",
            dp_axis="x",
            sign=UNCONFIRMED,
            bits=(16,),
            test_set="test",
            markers=(("*/*/cam0/FN_*_l.png",), ("*/*/cam1/FN_*_l.png",)),
            splits=("train", "val", "test"),
            split_folder="{}",
        ),
        DatasetEntry(
            name="dpmv",
            title="dpMV, ICCP 2024: videos of three Pixel 4 phones",
            target="edge_dp.data.dpmv:DpMv",
            source="github Aryan-Garg/dp-LFVR, arXiv 2405.11823",
            licence="none stated; cite the paper",
            layout="unrectified/B/dp_data/VIDEO/image_NNN_{left,right}.jpg, disp_pixel4_BA/VIDEO/image_NNN_disp.pfm",
            dp_axis="x",
            sign=UNCONFIRMED,
            bits=(8,),
            test_set="none published: split by video",
            markers=(("unrectified/B/dp_data/*",),),
        ),
    )
}
