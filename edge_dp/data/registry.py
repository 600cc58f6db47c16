"""The data sets that can be read. A new one is added here and is listed, recognised and checked by existing."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from edge_dp.data.dataset import Dataset, check_folder
from edge_dp.errors import InputError

Kind = Literal["dual_pixel", "light_field", "simulated", "scene"]
MEASURED = "left(x) = right(x + d), d > 0 farther than focus (measured on real captures)"
UNCONFIRMED = "left(x) = right(x + d), d > 0 farther than focus (taken as in other sets, unconfirmed)"
MADE = "left(x) = right(x + d), d > 0 farther than focus (by construction)"
RECTIFIED = "image(x) = right_image(x - D), D > 0 (measured on real pairs)"
_INDOORS_M = (0.3, 8.0)
_LOOKED_INTO = 100  # folders in one that holds no data set itself


@dataclass(frozen=True, slots=True)
class DatasetEntry:
    """One data set, and what it promises. Nothing here imports its reader, whose module says more."""

    name: str
    kind: Kind  # scenes are read as SceneSample, all others as DpSample
    title: str
    target: str  # module:class of the reader
    source: str
    licence: str
    layout: str
    bits: tuple[int, ...]  # per channel of the files of the images
    markers: tuple[tuple[str, ...], ...]  # alternatives; each is patterns below the root of which all must be there
    test_set: str = "none"  # what is never to be trained on
    dp_axis: Literal["x", "y"] | None = None  # of the files
    sign: str = ""  # of the disparity
    depth_m: tuple[float, float] | None = None  # between which the median depth of a sample lies
    splits: tuple[str, ...] = ()
    split_folder: str = ""  # {} for the split: a folder that is there where the split is

    def recognises(self, root: Path) -> bool:
        """Whether ``root`` looks like this set, by a few names."""
        return any(all(_exists(root, pattern) for pattern in alternative) for alternative in self.markers)

    def lacks(self, root: Path) -> str | None:
        """A name that ``root`` would need beside others of this set that it has; None where it has none of them."""
        for alternative in self.markers:
            absent = [pattern for pattern in alternative if not _exists(root, pattern)]
            if 0 < len(absent) < len(alternative):
                return absent[0]
        return None

    def splits_in(self, root: Path) -> tuple[str, ...]:
        """Those of its splits that are there; empty for a set without splits."""
        return tuple(split for split in self.splits if (root / self.split_folder.format(split)).is_dir())

    def reader(self) -> type[Dataset[Any]]:
        """The class of its reader."""
        module, attribute = self.target.split(":")
        reader: type[Dataset[Any]] = getattr(import_module(module), attribute)
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


def open_dataset(name: str, root: str | Path, **options: Any) -> Dataset[Any]:
    """A data set as a lazy sequence of samples: ``SceneSample`` where its kind is "scene", else ``DpSample``.

    Args:
        name: see ``list_datasets``.
        root: its folder.
        options: of its reader, e.g. ``split`` or ``colour``.

    Raises:
        InputError: an unknown name or option, or what the reader raises.
    """
    reader = dataset_entry(name).reader()
    known = [option for option in inspect.signature(reader).parameters if option != "root"]
    if unknown := sorted(options.keys() - known):
        raise InputError(
            f"data set {name}: options: expected of {', '.join(known)}, found {', '.join(unknown)}. Leave them out."
        )
    return reader(root, **options)


def recognise(root: str | Path) -> DatasetEntry:
    """The data set that a folder holds, by the names in it; where several would do, the first of the registry.

    Raises:
        InputError: it is no folder, or of no known layout; the message names folders in it that do hold a data set, or
            the layouts that it almost has.
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
    nearly = [f"{name} needs {lacking}" for name, entry in DATASETS.items() if (lacking := entry.lacks(root))]
    found = ", ".join(sorted(path.name for path in root.iterdir())[:8]) or "an empty folder"
    almost = f"; {'; '.join(nearly)}" if nearly else ""
    raise InputError(
        f"{root}: expected the folder of a data set, found {found}{almost}. Check names and folder: edge-dp data list says "
        "the layouts."
    )


def _exists(root: Path, pattern: str) -> bool:
    return next(root.glob(pattern), None) is not None


DATASETS: dict[str, DatasetEntry] = {
    entry.name: entry
    for entry in (
        DatasetEntry(
            name="xin2021",
            kind="dual_pixel",
            title="Xin et al., ICCV 2021: Pixel 4 scenes with defocus maps",
            target="edge_dp.data.dual_pixel.xin2021:Xin2021",
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
            kind="dual_pixel",
            title="DP119 (Sdirt), ICCV 2025: Canon R6 II scenes with depth",
            target="edge_dp.data.dual_pixel.dp119:Dp119",
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
            kind="dual_pixel",
            title="Google dual_pixels, ICCV 2019: Pixel captures with multi-view depth",
            target="edge_dp.data.dual_pixel.google2019:Google2019",
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
            kind="dual_pixel",
            title="Punnappurath et al., ICCP 2020: DSLR scenes with depth",
            target="edge_dp.data.dual_pixel.iccp2020:Iccp2020",
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
            kind="dual_pixel",
            title="RDPD, ICCV 2021: synthetic dual-pixel videos",
            target="edge_dp.data.dual_pixel.rdpd:Rdpd",
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
            kind="dual_pixel",
            title="DPDD, ECCV 2020: Canon 5D IV, defocused and sharp",
            target="edge_dp.data.dual_pixel.dpdd:DpddCanon",
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
            kind="dual_pixel",
            title="DPDD, ECCV 2020: Pixel 4 pairs without ground truth",
            target="edge_dp.data.dual_pixel.dpdd:DpddPixel",
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
            kind="dual_pixel",
            title="NYU-DP (DDDNet), CVPR 2021: simulated captures with disparity",
            target="edge_dp.data.dual_pixel.dddnet:DddNetNyu",
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
            kind="dual_pixel",
            title="DP5K, ICCP 2023: Canon rig, five apertures, depth",
            target="edge_dp.data.dual_pixel.dp5k:Dp5k",
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
            kind="dual_pixel",
            title="dpMV, ICCP 2024: videos of three Pixel 4 phones",
            target="edge_dp.data.dual_pixel.dpmv:DpMv",
            source="github Aryan-Garg/dp-LFVR, arXiv 2405.11823",
            licence="none stated; cite the paper",
            layout="unrectified/B/dp_data/VIDEO/image_NNN_{left,right}.jpg, disp_pixel4_BA/VIDEO/image_NNN_disp.pfm",
            dp_axis="x",
            sign=UNCONFIRMED,
            bits=(8,),
            test_set="none published: split by video",
            markers=(("unrectified/B/dp_data/*",),),
        ),
        DatasetEntry(
            name="simulated",
            kind="simulated",
            title="Captures that edge-dp simulate has written",
            target="edge_dp.data.simulated:SimulatedDataset",
            source="edge_dp.simulation",
            licence="none needed; pictures and textures from folders keep theirs",
            layout="dataset.json, shard_NNNNN.npz",
            dp_axis="x",
            sign=MADE,
            bits=(16,),
            markers=(("dataset.json", "shard_*.npz"),),
        ),
        DatasetEntry(
            name="hci",
            kind="light_field",
            title="HCI 4D light fields, ACCV 2016: rendered, pairs by half-aperture sums",
            target="edge_dp.data.light_fields:HciLightFields",
            source="Honauer et al., ACCV 2016, lightfield-analysis.net",
            licence="CC BY-NC-SA 4.0",
            layout="[CATEGORY/]SCENE/input_Cam000..080.png, gt_disp_lowres.pfm, parameters.cfg",
            dp_axis="x",
            sign=MADE,
            bits=(8,),
            test_set="test",
            markers=(("input_Cam000.png",), ("*/input_Cam000.png",), ("*/*/input_Cam000.png",)),
        ),
        DatasetEntry(
            name="lytro",
            kind="light_field",
            title="Lytro light fields as grids of views: real, pairs by half-aperture sums",
            target="edge_dp.data.light_fields:LytroGrids",
            source="layout of github chshin10/epinet",
            licence="MIT (repository)",
            layout="NAME_RR_CC.png",
            dp_axis="x",
            sign=MADE,
            bits=(8,),
            test_set="all of it",
            markers=(("*_[0-9][0-9]_[0-9][0-9].png",), ("*/*_[0-9][0-9]_[0-9][0-9].png",)),
        ),
        DatasetEntry(
            name="middlebury",
            kind="scene",
            title="Middlebury stereo 2001-2021",
            target="edge_dp.data.scenes.middlebury:MiddleburyStereo",
            source="vision.middlebury.edu/stereo/data; motorcycle: scikit-image",
            licence="none stated, cite the papers; BSD-3 (scikit-image)",
            layout="SCENE/im0.png im1.png disp0.pfm calib.txt | view1 view5 disp1 | im2 im6 disp2 | "
            "NAME_{left,right}.png NAME_disp.npz",
            sign=RECTIFIED,
            bits=(8,),
            depth_m=(0.3, 30.0),
            markers=tuple(
                tuple(above + name for name in names)
                for names in (
                    ("im0.png", "calib.txt"),
                    ("view1.png", "disp1.png"),
                    ("im2.p?m", "disp2.pgm"),
                    ("im2.png", "disp2.png"),
                    ("*_left.png", "*_disp.npz"),
                )
                for above in ("", "*/")
            ),
        ),
        DatasetEntry(
            name="seven_scenes",
            kind="scene",
            title="Microsoft 7-Scenes, CVPR 2013",
            target="edge_dp.data.scenes.seven_scenes:SevenScenes",
            source="Shotton et al., CVPR 2013; flat layout: github andyzeng/tsdf-fusion-python",
            licence="Microsoft Research, non-commercial",
            layout="[[SCENE/]seq-XX/]frame-XXXXXX.{color.png|color.jpg,depth.png,pose.txt}[, camera-intrinsics.txt]",
            bits=(8,),
            depth_m=_INDOORS_M,
            markers=(("frame-*.pose.txt",), ("*/frame-*.pose.txt",), ("*/seq-*/frame-*.pose.txt",)),
        ),
        DatasetEntry(
            name="tum_rgbd",
            kind="scene",
            title="TUM RGB-D, IROS 2012",
            target="edge_dp.data.scenes.tum:TumRgbd",
            source="Sturm et al., IROS 2012",
            licence="CC BY 4.0",
            layout="rgb/, depth/, rgb.txt, depth.txt, groundtruth.txt",
            bits=(8,),
            depth_m=_INDOORS_M,
            markers=(("rgb.txt", "depth.txt"),),
        ),
        DatasetEntry(
            name="open3d",
            kind="scene",
            title="Open3D RGB-D sequences",
            target="edge_dp.data.scenes.open3d:Open3DScenes",
            source="github isl-org/Open3D",
            licence="MIT (test data)",
            layout="{color,rgb,image}/, depth/[, rgbd.match, trajectory.log]",
            bits=(8,),
            depth_m=_INDOORS_M,
            markers=(("color", "depth"), ("image", "depth"), ("rgb", "depth")),
        ),
        DatasetEntry(
            name="middlebury_mvs",
            kind="scene",
            title="Middlebury multi-view (temple, dino), CVPR 2006",
            target="edge_dp.data.scenes.middlebury_mvs:MiddleburyMvs",
            source="Seitz et al., CVPR 2006",
            licence="none stated; cite the paper",
            layout="NAME_par.txt, *.png",
            bits=(8,),
            markers=(("*_par.txt",),),
        ),
    )
}
