"""Reader for Microsoft 7-Scenes: indoor RGB-D sequences of a Kinect with poses from KinectFusion.

Source: Shotton et al., "Scene Coordinate Regression Forests", CVPR 2013; the layout of one flat folder is that of github
andyzeng/tsdf-fusion-python. Licence: Microsoft Research, non-commercial.
"""

from __future__ import annotations

import re
from pathlib import Path

from edge_dp.data.scenes.reader import (
    Reader,
    check_pose,
    depth_decoder,
    folders_in,
    list_folder,
    pinhole,
    read_matrix,
    read_rgbd,
)
from edge_dp.data.scenes.scene_sample import Matrix, SceneSample, intrinsics_problem
from edge_dp.errors import InputError

_FRAME = re.compile(r"(frame-\d{6})\.(color\.png|color\.jpg|depth\.png|pose\.txt)")
_INTRINSICS = "camera-intrinsics.txt"
_KINECT = pinhole(585, 585, 320, 240)  # as the set's page gives it: one camera for all sequences


class SevenScenes(Reader[SceneSample]):
    """Frames with depth (uint16 mm, 0 and 65535 unknown), pose (4x4 camera-to-world, metres) and intrinsics.

    Layout: ``seq-XX/frame-XXXXXX.{color.png,depth.png,pose.txt}``, or frames without the folder and with ``color.jpg``.
    The folder may also be that of several scenes. A name is the path of the frame below the folder. Intrinsics come
    from ``camera-intrinsics.txt`` beside the frames, else f = 585 px, c = (320, 240).

    The published colour image is not registered to the depth image: they differ by the parallax of the Kinect's two
    cameras, some px at 1 m. The pose and the intrinsics are those of the depth.

    Args:
        root: the folder of the frames, of the sequences of a scene, or of the scenes.

    Raises:
        InputError: no such folder, no frame in it, or a frame without colour, depth or pose. On reading a frame: a
            file that is truncated, of another kind or size; a pose that is not rigid.
    """

    def __init__(self, root: str | Path) -> None:
        super().__init__(root)
        self._colour_endings: dict[str, str] = {}
        names: list[str] = []
        for folder in folders_in(self.root, depth=2):
            parts: dict[str, set[str]] = {}
            for match in filter(None, map(_FRAME.fullmatch, list_folder(folder))):
                parts.setdefault(match[1], set()).add(match[2])
            if parts:
                prefix = folder.relative_to(self.root).as_posix()
                self._colour_endings[prefix] = _colour_ending(folder, parts)
                names += [frame if prefix == "." else f"{prefix}/{frame}" for frame in sorted(parts)]
        if not names:
            raise InputError(
                f"{self.root}: expected frame-XXXXXX.color.png, in it or in seq-XX, found none. Pass the folder that "
                "holds the frames or the sequences."
            )
        self.names = tuple(names)

    def _read(self, name: str) -> SceneSample:
        stem = self.root / name
        colour = self._colour_endings[Path(name).parent.as_posix()]
        decode = depth_decoder(1000, invalid=(0, 65535))
        image, depth, mask = read_rgbd(
            stem.with_name(f"{stem.name}.{colour}"), stem.with_name(f"{stem.name}.depth.png"), decode
        )
        pose = stem.with_name(f"{stem.name}.pose.txt")
        return SceneSample(
            image,
            name,
            depth=depth,
            mask=mask,
            intrinsics=_intrinsics(stem.parent / _INTRINSICS),
            camera_to_world=check_pose(read_matrix(pose, 4, 4), str(pose)),
        )


def _colour_ending(folder: Path, parts: dict[str, set[str]]) -> str:
    """``color.png`` or ``color.jpg``, whichever the frames of ``folder`` have; all must have it, a depth and a pose."""
    colour = "color.jpg" if any("color.jpg" in endings for endings in parts.values()) else "color.png"
    for frame, endings in sorted(parts.items()):
        for ending in (colour, "depth.png", "pose.txt"):
            if ending not in endings:
                raise InputError(
                    f"{folder / frame}.{ending}: expected beside the frame's other files, found nothing. Complete the "
                    "frame or remove the rest of it."
                )
    return colour


def _intrinsics(path: Path) -> Matrix:
    if not path.is_file():
        return _KINECT
    matrix = read_matrix(path, 3, 3)
    if problem := intrinsics_problem(matrix):
        raise InputError(f"{path}: expected {problem[0]}, found {problem[1]}. Correct it.")
    return matrix
