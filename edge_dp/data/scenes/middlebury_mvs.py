"""Reader for the Middlebury multi-view sets (temple, dino and their ring and sparse-ring parts): images with cameras.

Source: Seitz et al., "A Comparison and Evaluation of Multi-View Stereo Reconstruction Algorithms", CVPR 2006. Licence:
none stated; cite the paper.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge_dp.data.dataset import Dataset, Listing, is_image, list_folder
from edge_dp.data.scenes.files import check_pose, parse_numbers, read_colour, read_text
from edge_dp.data.scenes.scene_sample import Matrix, SceneSample, intrinsics_problem
from edge_dp.errors import InputError

_NUMBERS = 9 + 9 + 3


class MiddleburyMvs(Dataset[SceneSample]):
    """Views with intrinsics and pose; no depth is published for them.

    Layout: ``NAME_par.txt`` holds the number of views, then per view a line "image K R t", 9 + 9 + 3 numbers row by row:
    P = K [R | t], metres. The images, PNG, lie beside it.

    Args:
        root: the folder.
        strict: refuse a list of another number of views than it says, of an image that is not there, or of a camera that
            is none.

    Raises:
        InputError: as ``Dataset``; not one ``*_par.txt`` in the folder.
    """

    def __init__(self, root: str | Path, *, strict: bool = True) -> None:
        root = Path(root)
        present = list_folder(root)
        lists = sorted(name for name in present if name.endswith("_par.txt"))
        if len(lists) != 1:
            raise InputError(
                f"{root}: expected one NAME_par.txt, found {', '.join(lists) or 'none'}. Pass the folder that "
                "holds the images of one set."
            )
        path = root / lists[0]
        count, *lines = [line.split() for line in read_text(path).splitlines() if line.strip()] or [[]]
        problems = []
        if count != [str(len(lines))]:
            problems.append(
                f"{path}: line 1: expected the number of views, {len(lines)}, found {' '.join(count)!r}. The file is cut: "
                "copy it again."
            )
        self._cameras: dict[str, tuple[Matrix, Matrix]] = {}
        for number, (image, *words) in enumerate(lines, 2):
            where = f"{path}: line {number}"
            if image not in present:
                problems.append(f"{where}: expected the image {root / image}, found nothing. Complete the set.")
                continue
            try:
                self._cameras[image] = _camera(parse_numbers(words, _NUMBERS, where), where)
            except InputError as error:
                problems.append(str(error))
        listed = {line[0] for line in lines}
        listing = Listing(
            {image: {"colour": image} for image in self._cameras},
            tuple(problems),
            tuple(sorted(name for name in present - listed if is_image(name))),
        )
        super().__init__(root, listing, expected=f"views in {lists[0]}", strict=strict)

    def read(self, name: str) -> SceneSample:
        """The view whose image is called ``name``."""
        path = self.paths(name)["colour"]
        intrinsics, camera_to_world = self._cameras[name]
        return SceneSample(read_colour(path), name, intrinsics=intrinsics, camera_to_world=camera_to_world)


def _camera(values: Matrix, where: str) -> tuple[Matrix, Matrix]:
    """Intrinsics (3, 3) and camera-to-world (4, 4) from K, R and t of a line."""
    intrinsics, rotation, translation = values[:9].reshape(3, 3), values[9:18].reshape(3, 3), values[18:]
    if problem := intrinsics_problem(intrinsics):
        raise InputError(f"{where}: K: expected {problem[0]}, found {problem[1]}. Copy the file again.")
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation.T, -rotation.T @ translation
    return intrinsics, check_pose(pose, f"{where}: R")
