"""Reader for RGB-D sequences in the layout of Open3D's examples and of its reconstruction system.

Source: github isl-org/Open3D and its test data (MIT). Camera and axes as in Open3D: x right, y down, z forward.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge_dp.data.dataset import Dataset, Listing, is_image, list_folder
from edge_dp.data.scenes.files import check_pose, depth_decoder, parse_numbers, pinhole, read_rgbd, read_text
from edge_dp.data.scenes.scene_sample import Matrix, SceneSample, intrinsics_problem
from edge_dp.errors import InputError
from edge_dp.files import json_load

_PRIMESENSE = pinhole(525, 525, 319.5, 239.5)  # Open3D's PrimeSenseDefault
_COLOUR_FOLDERS = ("color", "rgb", "image")  # in the order in which Open3D looks for them
_TRAJECTORY = "trajectory.log"


class Open3DScenes(Dataset[SceneSample]):
    """Frames with depth (uint16 mm, 0 unknown) registered to colour, and camera-to-world poses where there are some.

    Layout: ``color/NAME.jpg`` (or ``rgb``, ``image``; or ``.png``), ``depth/NAME.png``, optionally ``rgbd.match`` (lines
    "depth/A.png color/B.jpg", where the names differ) and ``trajectory.log`` (per frame: a line of three numbers and
    the four rows of the pose, in the order of the frames).

    Args:
        root: the folder that holds ``color`` and ``depth``.
        camera: a camera of Open3D in JSON (``intrinsic_matrix``, column by column); None for its PrimeSense default,
            f = 525 px, c = (319.5, 239.5), which holds for images of 640x480 only.
        strict: refuse a colour image without its depth or the reverse, a malformed line, a trajectory that is cut or of
            another length.

    Raises:
        InputError: as ``Dataset``; no folders ``color`` and ``depth``, a ``camera`` that is none.
        SchemaError: ``camera`` is not JSON.
    """

    def __init__(self, root: str | Path, camera: str | Path | None = None, *, strict: bool = True) -> None:
        root = Path(root)
        self.intrinsics = _PRIMESENSE if camera is None else read_camera_json(camera)
        self._default_camera = camera is None
        present = list_folder(root)
        colour_folder = next((name for name in _COLOUR_FOLDERS if name in present), None)
        if colour_folder is None or "depth" not in present:
            raise InputError(
                f"{root}: expected folders color and depth, found {', '.join(sorted(present)[:8]) or 'nothing'}. "
                "Pass the folder that holds both."
            )
        images = {
            f"{folder}/{name}"
            for folder in (colour_folder, "depth")
            for name in list_folder(root / folder)
            if is_image(name)
        }
        matched = "rgbd.match" in present
        listing = _match(root / "rgbd.match", images) if matched else _same_names(root, colour_folder, images)
        self._poses: dict[str, Matrix] = {}
        if _TRAJECTORY in present and not listing.problems:  # else nobody knows which pose is whose
            poses, problems = _trajectory(root / _TRAJECTORY, len(listing.files))
            self._poses = dict(zip(listing.files, poses, strict=False))
            listing += Listing(problems=problems)
        super().__init__(root, listing, expected=f"images in {colour_folder}", strict=strict)

    def read(self, name: str) -> SceneSample:
        """The frame whose colour image is called ``name``, without its suffix."""
        paths = self.paths(name)
        image, depth, mask = read_rgbd(paths["colour"], paths["depth"], depth_decoder(1000))
        if self._default_camera and depth.shape != (480, 640):
            raise InputError(
                f"{paths['colour']}: expected 640x480, which the default camera is for, found "
                f"{depth.shape[1]}x{depth.shape[0]}. Pass the camera's JSON."
            )
        return SceneSample(
            image,
            name,
            depth=depth,
            mask=mask,
            intrinsics=self.intrinsics,
            camera_to_world=self._poses.get(name),
        )


def _match(path: Path, images: set[str]) -> Listing:
    """The frames that ``rgbd.match`` lists."""
    files, problems = {}, []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        words = line.split()
        if words and (len(words) != 2 or not images.issuperset(words)):
            problems.append(
                f"{path}: line {number}: expected a depth and a colour file of the sequence, found {line!r}. "
                "Complete the sequence or correct the line."
            )
        elif words:
            files[Path(words[1]).stem] = {"colour": words[1], "depth": words[0]}
    unlisted = images - {file for frame in files.values() for file in frame.values()}
    return Listing(files, tuple(problems), tuple(sorted(unlisted)))


def _same_names(root: Path, colour_folder: str, images: set[str]) -> Listing:
    """The frames whose colour and depth have one name."""
    colours = {Path(file).stem: file for file in images if file.startswith(f"{colour_folder}/")}
    depths = {Path(file).stem: file for file in images if file.startswith("depth/")}
    return Listing(
        {stem: {"colour": colours[stem], "depth": depths[stem]} for stem in sorted(colours.keys() & depths.keys())},
        tuple(
            f"{root}: frame {stem}: expected in {colour_folder} and in depth, found in one of them. Complete the frame, or "
            "pair the files in rgbd.match."
            for stem in sorted(colours.keys() ^ depths.keys())
        ),
    )


def _trajectory(path: Path, frames: int) -> tuple[list[Matrix], tuple[str, ...]]:
    """A pose for each frame, or none, and what is wrong with the file."""
    try:
        poses = read_trajectory(path)
    except InputError as error:
        return [], (str(error),)
    if len(poses) == frames:
        return poses, ()
    return [], (
        f"{path}: expected {frames} poses, one per frame, found {len(poses)}. Complete the trajectory or remove it.",
    )


def read_trajectory(path: Path) -> list[Matrix]:
    """Poses (4, 4), camera-to-world in metres, from a ``.log`` of Open3D or Redwood, in the order of the file.

    Raises:
        InputError: the file is missing, is cut, or holds something that is no number or no pose.
    """
    lines = [line for line in read_text(path).splitlines() if line.strip()]
    if not lines or len(lines) % 5:
        raise InputError(f"{path}: expected 5 lines per pose, found {len(lines)} lines. Copy the file again.")
    poses = []
    for start in range(0, len(lines), 5):
        where = f"{path}: pose {start // 5}"
        words = " ".join(lines[start + 1 : start + 5]).split()
        poses.append(check_pose(parse_numbers(words, 16, where).reshape(4, 4), where))
    return poses


def read_camera_json(path: str | Path) -> Matrix:
    """(3, 3) intrinsics from a ``PinholeCameraIntrinsic`` of Open3D, which stores them column by column.

    Raises:
        InputError: the file is missing, or ``intrinsic_matrix`` is no camera.
        SchemaError: the file is not JSON.
    """
    values = json_load(path).get("intrinsic_matrix")
    where = f"{path}: intrinsic_matrix"
    if not isinstance(values, list):
        raise InputError(f"{where}: expected 9 numbers, found {values!r}. Is this a camera of Open3D?")
    matrix = np.ascontiguousarray(parse_numbers([str(value) for value in values], 9, where).reshape(3, 3).T)
    if problem := intrinsics_problem(matrix):
        raise InputError(f"{where}: expected {problem[0]}, found {problem[1]}. Correct it.")
    return matrix
