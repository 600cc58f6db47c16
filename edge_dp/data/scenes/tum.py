"""Reader for TUM RGB-D: sequences of a Kinect or Xtion with poses from motion capture.

Source: Sturm et al., "A Benchmark for the Evaluation of RGB-D SLAM Systems", IROS 2012, and the set's pages on file
formats and calibration. Licence: CC BY 4.0.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edge_dp.data.dataset import Dataset, Listing, is_image, list_folder
from edge_dp.data.scenes.files import depth_decoder, parse_numbers, pinhole, read_rgbd, read_text
from edge_dp.data.scenes.scene_sample import Matrix, SceneSample
from edge_dp.errors import InputError

_LEVELS_PER_METRE = 5000
_CAMERAS = {  # part of a sequence's name -> the colour camera that its depth is registered to
    "freiburg1": pinhole(517.3, 516.5, 318.6, 255.3),
    "freiburg2": pinhole(520.9, 521.0, 325.1, 249.7),
    "freiburg3": pinhole(535.4, 539.2, 320.1, 247.6),
}
_DEFAULT_CAMERA = pinhole(525, 525, 319.5, 239.5)  # of the driver


class TumRgbd(Dataset[SceneSample]):
    """Frames with depth (uint16, 5000 levels per metre, 0 unknown) registered to colour, and pose where known.

    Layout: ``rgb/TIME.png``, ``depth/TIME.png``; ``rgb.txt``, ``depth.txt`` (lines "time file"); ``groundtruth.txt``
    (lines "time tx ty tz qx qy qz qw", camera-to-world, metres), absent for validation sequences. Colour and depth have
    their own times: each is used once at most, closest pairs first; a frame without depth near enough is left out, one
    without pose near enough has none. Frames are named by the time of their colour image.

    Intrinsics are those of the camera named in the folder's name (freiburg1, 2, 3), else the driver's default. The lens
    distortion of freiburg1 and freiburg2, up to some px in the corners, is left in the images.

    Args:
        root: the folder of a sequence.
        tolerance_s: how far apart the times of what belongs together may be, seconds.
        strict: refuse a malformed line, and a file that is listed and not there.

    Raises:
        InputError: as ``Dataset``; a list is missing, or no frame has both colour and depth.
    """

    def __init__(self, root: str | Path, tolerance_s: float = 0.02, *, strict: bool = True) -> None:
        root = Path(root)
        problems: list[str] = []
        present = {f"{kind}/{name}" for kind in ("rgb", "depth") for name in list_folder(root / kind)}
        colours, depths = (_read_list(root / f"{kind}.txt", present, problems) for kind in ("rgb", "depth"))
        pairs = associate([*colours], [*depths], tolerance_s)
        if not pairs:
            problems.append(
                f"{root / 'depth.txt'}: expected times within {tolerance_s} s of those in rgb.txt, found none. Is "
                "it of the same sequence?"
            )
        truth = root / "groundtruth.txt"
        poses = _read_poses(truth, problems) if truth.is_file() else {}
        times = sorted(poses)
        self._poses: dict[str, Matrix] = {}
        for time, file in colours.items():
            if near := _near(times, time, tolerance_s):
                self._poses[Path(file).stem] = poses[min(near, key=lambda other: abs(other - time))]
        self.intrinsics = next(
            (camera for name, camera in _CAMERAS.items() if name in root.resolve().name), _DEFAULT_CAMERA
        )
        files = {Path(colours[a]).stem: {"colour": colours[a], "depth": depths[b]} for a, b in pairs}
        unlisted = present - {*colours.values(), *depths.values()}
        listing = Listing(files, tuple(problems), tuple(sorted(name for name in unlisted if is_image(name))))
        super().__init__(root, listing, expected="frames", strict=strict)

    def read(self, name: str) -> SceneSample:
        """The frame of the time ``name``."""
        paths = self.paths(name)
        image, depth, mask = read_rgbd(paths["colour"], paths["depth"], depth_decoder(_LEVELS_PER_METRE))
        return SceneSample(
            image,
            name,
            depth=depth,
            mask=mask,
            intrinsics=self.intrinsics,
            camera_to_world=self._poses.get(name),
        )


def associate(first: list[float], second: list[float], tolerance_s: float) -> list[tuple[float, float]]:
    """Pairs of times at most ``tolerance_s`` apart, each time in one pair at most, closest pairs first; sorted."""
    others = sorted(second)
    candidates = sorted(
        (abs(time - other), time, other) for time in first for other in _near(others, time, tolerance_s)
    )
    free_first, free_second = set(first), set(second)
    pairs = []
    for _, time, other in candidates:
        if time in free_first and other in free_second:
            free_first.remove(time)
            free_second.remove(other)
            pairs.append((time, other))
    return sorted(pairs)


def rotation_of(quaternion: Matrix) -> Matrix:
    """(3, 3) rotation of a quaternion (x, y, z, w), which need not be of length 1 but may not be 0.

    Source: R v = v + 2 w (u x v) + 2 u x (u x v), with u = (x, y, z).
    """
    x, y, z, w = quaternion / np.linalg.norm(quaternion)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + 2 * w * cross + 2 * cross @ cross


def _near(times: list[float], time: float, tolerance: float) -> list[float]:
    """Those of the sorted ``times`` that lie within ``tolerance`` of ``time``."""
    return times[bisect_left(times, time - tolerance) : bisect_right(times, time + tolerance)]


def _lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Where it stands and the words of each line; comments and empty lines left out."""
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield f"{path}: line {number}", line.split()


def _read_list(path: Path, present: set[str], problems: list[str]) -> dict[float, str]:
    """Time -> file below the root, for those that are there; what is wrong with other lines is added to ``problems``."""
    files: dict[float, str] = {}
    for where, words in _lines(path):
        if len(words) != 2:
            problems.append(f"{where}: expected a time and a file, found {len(words)} words. Copy the file again.")
        elif words[1] not in present:
            problems.append(
                f"{where}: expected the file {path.parent / words[1]}, found nothing. Complete the sequence or remove the "
                "line."
            )
        else:
            try:
                files[float(parse_numbers(words[:1], 1, where)[0])] = words[1]
            except InputError as error:
                problems.append(str(error))
    return files


def _read_poses(path: Path, problems: list[str]) -> dict[float, Matrix]:
    """Time -> pose (4, 4), camera-to-world; what is wrong with a line is added to ``problems``."""
    poses = {}
    for where, words in _lines(path):
        try:
            values = parse_numbers(words, 8, where)
        except InputError as error:
            problems.append(str(error))
            continue
        if not np.linalg.norm(values[4:]) > 0.5:
            problems.append(f"{where}: expected a unit quaternion, found {values[4:].tolist()}. Remove the line.")
            continue
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation_of(values[4:]), values[1:4]
        poses[float(values[0])] = pose
    return poses
