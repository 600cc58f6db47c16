"""Layouts as lists of parts, the lazy sequence, and the registry."""

import tracemalloc

import cv2
import numpy as np
import pytest

from edge_dp.data import DpDataset, list_datasets, open_dataset, recognise
from edge_dp.data.dataset import Dataset, Part, folders_in, list_folder, match_files, match_order
from edge_dp.data.registry import DATASETS, dataset_entry
from edge_dp.errors import InputError

PARTS = (
    Part("left", "views/{}_left.png"),
    Part("right", "views/{}_right.png"),
    Part("truth", "truth/{}/{}.png", required=False),
)


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def test_a_part_says_where_its_files_lie():
    part = Part("left", "test/left_pd/{}/result_leftPd_{}.png")
    assert (part.folder, part.depth) == ("test/left_pd", 1)
    assert part.path("a_capture/center") == "test/left_pd/a_capture/result_leftPd_center.png"
    assert part.pattern().fullmatch("a_capture/result_leftPd_center.png").groups() == ("a_capture", "center")
    assert part.pattern().fullmatch("a_capture/result_leftPd_center_png") is None
    flat = Part("left", "{}_L.jpg")
    assert (flat.folder, flat.depth, flat.path("005")) == ("", 0, "005_L.jpg")
    grouped = Part("left", "box/{}/l.png", prefix="box/")
    assert grouped.path("box/001") == "box/001/l.png"


def test_files_are_matched_by_name(tmp_path):
    touch(tmp_path, "views/b_left.png", "views/b_right.png", "views/a_left.png", "views/a_right.png")
    touch(tmp_path, "views/c_left.png", "views/odd.png", "views/notes.txt", "views/.hidden_left.png")
    listing = match_files(tmp_path, PARTS)
    assert listing.files == {
        "a": {"left": "views/a_left.png", "right": "views/a_right.png"},
        "b": {"left": "views/b_left.png", "right": "views/b_right.png"},
    }
    (problem,) = listing.problems
    assert "c_right.png: expected beside views/c_left.png, found nothing" in problem
    assert listing.unknown == ("views/odd.png",)


def test_files_that_are_not_required_make_no_sample(tmp_path):
    touch(tmp_path, "views/a_left.png", "views/a_right.png", "truth/x/y.png")
    assert set(match_files(tmp_path, PARTS).files) == {"a"}


def test_files_paired_by_order(tmp_path):
    touch(tmp_path, "l/2_L.png", "l/1_L.png", "t/9.png", "t/0.png", "t/Thumbs.db")
    listing = match_order(tmp_path, {"left": "l", "target": "t"})
    assert listing.files == {
        "1_L": {"left": "l/1_L.png", "target": "t/0.png"},
        "2_L": {"left": "l/2_L.png", "target": "t/9.png"},
    }
    (tmp_path / "t/9.png").unlink()
    (problem,) = match_order(tmp_path, {"left": "l", "target": "t"}).problems
    assert "t: expected 2 images, as many as in l, found 1. They are paired by their order" in problem


@pytest.mark.parametrize(("name", "found"), [("absent", "nothing"), ("a_file", "a file")])
def test_a_root_that_is_no_folder(tmp_path, name, found):
    (tmp_path / "a_file").touch()
    for call in (recognise, lambda root: open_dataset("dp119", root), lambda root: open_dataset("dpdd_pixel", root)):
        with pytest.raises(InputError, match=f"{name}: expected the folder of a data set, found {found}"):
            call(tmp_path / name)


def test_opening_opens_no_file_and_takes_little_memory(tmp_path):
    """Files without content do for opening. 6000 of them within 12 MB: 100,000 within 200 MB."""
    for index in range(1500):
        touch(tmp_path, f"unrectified/B/dp_data/v{index % 10}/image_{index:03d}_left.jpg")
        touch(tmp_path, f"unrectified/B/dp_data/v{index % 10}/image_{index:03d}_right.jpg")
        touch(tmp_path, f"disp_pixel4_BA/v{index % 10}/image_{index:03d}_disp.pfm")
        touch(tmp_path, f"disp_pixel4_BA/v{index % 10}/image_{index:03d}_disp.png")
    tracemalloc.start()
    try:
        dataset = open_dataset("dpmv", tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(dataset) == 1500
    assert peak < 12e6
    with pytest.raises(InputError, match=r"image_000_left\.jpg: expected an image .* found 0 bytes"):
        dataset[0]


def test_the_registry_holds_what_the_readers_need():
    assert list_datasets() == tuple(sorted(DATASETS))
    for name in list_datasets():
        entry = dataset_entry(name)
        assert issubclass(entry.reader(), Dataset)
        assert issubclass(entry.reader(), DpDataset) == (entry.kind != "scene")
        assert (entry.dp_axis in ("x", "y")) == (entry.kind != "scene")
        assert entry.bits
        assert entry.markers
        assert bool(entry.splits) == bool(entry.split_folder)
        for text in (entry.title, entry.source, entry.licence, entry.layout, entry.test_set):
            assert text
        assert entry.sign or entry.kind == "scene"
    with pytest.raises(InputError, match=r"data set 'kitti': expected one of .*dp119.*xin2021"):
        open_dataset("kitti", ".")


@pytest.mark.parametrize("name", list_datasets())
def test_a_folder_that_is_not_of_the_set(name, tmp_path):
    with pytest.raises(InputError, match=r"expected .*, found"):
        open_dataset(name, tmp_path)
    with pytest.raises(InputError, match=r"expected .*, found"):
        open_dataset(name, tmp_path / "absent")
    with pytest.raises(InputError, match=rf"data set {name}: options: expected of .*strict.*, found apperture, wide"):
        open_dataset(name, tmp_path, wide=True, apperture=2)


def test_what_is_no_data_set_is_not_recognised(tmp_path):
    with pytest.raises(InputError, match=r"expected the folder of a data set, found an empty folder\. .* data list"):
        recognise(tmp_path)


def test_a_folder_that_is_almost_right(tmp_path):
    touch(tmp_path, "view/001_left.png", "view/001_right.png", "defocus_map/001_gt.png")
    with pytest.raises(InputError, match=r"found defocus_map, view; xin2021 needs views/\*_left\.png; .*Check names"):
        recognise(tmp_path)


def test_folders_are_listed_without_what_is_hidden(tmp_path):
    touch(tmp_path, "b/c/1.png", "a/2.png", ".git/3.png", "4.png", ".5.png")
    assert list_folder(tmp_path) == {"a", "b", "4.png"}
    assert [path.relative_to(tmp_path).as_posix() for path in folders_in(tmp_path, depth=1)] == [".", "a", "b"]
    assert [path.name for path in folders_in(tmp_path, depth=2)][1:] == ["a", "b", "c"]
    with pytest.raises(InputError, match=r"4\.png: expected a folder to read, found: Not a directory"):
        list_folder(tmp_path / "4.png")


def test_a_folder_of_data_sets_is_no_data_set(tmp_path):
    touch(tmp_path, "canon/box/001/l.png", "notes/readme.txt")
    with pytest.raises(InputError, match=r"found folders that hold some: canon \(dp119\)\. Pass one"):
        recognise(tmp_path)


def test_an_all_in_focus_image_is_checked_like_the_views(tmp_path):
    for letter, value in (("l", 900), ("r", 800), ("c", 850)):
        touch(tmp_path, f"test_{letter}/source/1.png")
        image = np.full((6, 8, 3), value, np.uint16)
        image[0] += 100
        cv2.imwrite(str(tmp_path / f"test_{letter}/source/1.png"), image)
    touch(tmp_path, "test_c/target/0.png")
    cv2.imwrite(str(tmp_path / "test_c/target/0.png"), np.full((6, 9, 3), 900, np.uint16))
    with pytest.raises(InputError, match=r"target/0\.png: expected 8x6 as the views, found 9x6"):
        open_dataset("dpdd_canon", tmp_path)[0]
