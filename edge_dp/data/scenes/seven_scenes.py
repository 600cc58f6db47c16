"""Reader for Microsoft 7-Scenes: indoor RGB-D sequences of a Kinect with poses from KinectFusion.

Source: Shotton et al., "Scene Coordinate Regression Forests", CVPR 2013; the layout of one flat folder is that of github
andyzeng/tsdf-fusion-python. Licence: Microsoft Research, non-commercial.
"""

from __future__ import annotations

import re
from pathlib import Path

from edge_dp.data.dataset import Dataset, Listing, folders_in, is_image, list_folder
from edge_dp.data.scenes.files import check_pose, depth_decoder, pinhole, read_matrix, read_rgbd
from edge_dp.data.scenes.scene_sample import Matrix, SceneSample, intrinsics_problem
from edge_dp.errors import InputError

_FRAME = re.compile(r"(frame-\d{6})\.(color\.png|color\.jpg|depth\.png|pose\.txt)")
_INTRINSICS = "camera-intrinsics.txt"
_KINECT = pinhole(585, 585, 320, 240)  # as the set's page gives it: one camera for all sequences


class SevenScenes(Dataset[SceneSample]):
    """Frames with depth (uint16 mm, 0 and 65535 unknown), pose (4x4 camera-to-world, metres) and intrinsics.

    Layout: ``seq-XX/frame-XXXXXX.{color.png,depth.png,pose.txt}``, or frames without the folder and with ``color.jpg``.
    The folder may also be that of several scenes. A name is the path of the frame below the folder. Intrinsics come
    from ``camera-intrinsics.txt`` beside the frames, else f = 585 px, c = (320, 240).

    The published colour image is not registered to the depth image: they differ by the parallax of the Kinect's two
    cameras, some px at 1 m. The pose and the intrinsics are those of the depth.

    Args:
        root: the folder of the frames, of the sequences of a scene, or of the scenes.
        strict: refuse a set with a frame without colour, depth or pose.

    Raises:
        InputError: as ``Dataset``. On reading a frame: a pose that is not rigid.
    """

    def __init__(self, root: str | Path, *, strict: bool = True) -> None:
        root = Path(root)
        listing = Listing()
        for folder in folders_in(root, depth=2):
            listing += _frames_in(folder, root)
        super().__init__(
            root, listing, expected="frame-XXXXXX.color.png, in it or in folders like seq-XX", strict=strict
        )

    def group(self, name: str) -> str:
        """The folder of the frame."""
        return name.rpartition("/")[0]

    def read(self, name: str) -> SceneSample:
        """The frame called ``name``."""
        paths = self.paths(name)
        image, depth, mask = read_rgbd(paths["colour"], paths["depth"], depth_decoder(1000, invalid=(0, 65535)))
        return SceneSample(
            image,
            name,
            depth=depth,
            mask=mask,
            intrinsics=_intrinsics(paths["intrinsics"]) if "intrinsics" in paths else _KINECT,
            camera_to_world=check_pose(read_matrix(paths["pose"], 4, 4), str(paths["pose"])),
        )


def _frames_in(folder: Path, root: Path) -> Listing:
    """The frames of one folder, those in folders below it left out."""
    present = list_folder(folder)
    parts: dict[str, set[str]] = {}
    for match in filter(None, map(_FRAME.fullmatch, present)):
        parts.setdefault(match[1], set()).add(match[2])
    if not parts:
        return Listing()
    jpeg = any("color.jpg" in endings for endings in parts.values())
    endings = {"colour": "color.jpg" if jpeg else "color.png", "depth": "depth.png", "pose": "pose.txt"}
    above = "" if folder == root else f"{folder.relative_to(root).as_posix()}/"
    camera = {"intrinsics": above + _INTRINSICS} if _INTRINSICS in present else {}
    files, problems = {}, []
    for frame in sorted(parts):
        lacking = [ending for ending in endings.values() if ending not in parts[frame]]
        problems += [
            f"{folder / frame}.{ending}: expected beside the frame's other files, found nothing. Complete the frame or "
            "remove the rest of it."
            for ending in lacking
        ]
        if not lacking:
            files[above + frame] = {role: f"{above}{frame}.{ending}" for role, ending in endings.items()} | camera
    unknown = (above + name for name in sorted(present) if is_image(name) and not _FRAME.fullmatch(name))
    return Listing(files, tuple(problems), tuple(unknown))


def _intrinsics(path: Path) -> Matrix:
    matrix = read_matrix(path, 3, 3)
    if problem := intrinsics_problem(matrix):
        raise InputError(f"{path}: expected {problem[0]}, found {problem[1]}. Correct it.")
    return matrix
