"""Every set of dual-pixel captures of the registry, built small in its published layout.

The views of each show two planes: the left half is farther than focus, d = +1 px, the right half nearer, d = -1 px. A new
data set needs a builder here.
"""

import pickle
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
import pytest

from edge_dp.data import open_dataset, recognise, write_pfm
from edge_dp.data.check import check_dataset
from edge_dp.data.registry import DATASETS
from edge_dp.errors import InputError, MissingExtraError
from edge_dp.sensors import load_sensor

HEIGHT, WIDTH = 96, 144
FAR_M, NEAR_M = 2.0, 0.5


@dataclass
class Built:
    """What a builder wrote, as a reader should give it."""

    names: tuple[str, ...]
    left: np.ndarray  # (H, W) linear light, dual-pixel axis along x
    options: dict[str, Any] = field(default_factory=dict)
    tolerance: float = 1e-5


def planes():
    """Left and right view in [0, 1] and the disparity, (HEIGHT, WIDTH) each: left(x) = right(x + d)."""
    texture = cv2.GaussianBlur(np.random.default_rng(7).random((HEIGHT, WIDTH + 2)), (0, 0), 1.2)
    texture = 0.1 + 0.8 * (texture - texture.min()) / np.ptp(texture)
    disparity = np.where(np.arange(WIDTH) < WIDTH // 2, 1, -1) * np.ones((HEIGHT, 1), int)
    columns = 1 + np.arange(WIDTH)
    return texture[:, columns + disparity[0]], texture[:, columns], disparity


LEFT, RIGHT, DISPARITY = planes()
DEPTH = np.where(DISPARITY > 0, FAR_M, NEAR_M)


def levels(view, bits=8):
    return np.round(view * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)


def srgb(view):
    """Linear light by the formula of IEC 61966-2-1."""
    return np.where(view <= 0.04045, view / 12.92, ((view + 0.055) / 1.055) ** 2.4)


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, image)
    elif path.suffix == ".pfm":
        write_pfm(path, image)
    else:
        assert cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 100] if path.suffix == ".jpg" else [])


def rgb(grey):
    return np.dstack([grey] * 3)


def affine_levels():
    """1 nearest, 255 farthest, 0 unknown in the first row."""
    truth = np.where(DISPARITY > 0, 200, 50).astype(np.uint8)
    truth[0] = 0
    return truth


def xin_crops(root):
    raw = [(1024 + np.round(view * 8000)).astype(np.uint16) for view in (LEFT, RIGHT)]
    for name in ("001", "003"):
        save(root / f"views/{name}_left.png", raw[0])
        save(root / f"views/{name}_right.png", raw[1])
        save(root / f"defocus_map/{name}_gt.png", affine_levels())
    return Built(("001", "003"), np.round(LEFT * 8000) / 16383)


def dp119(root):
    for scene in ("box/001", "casual/iphone/003", "casual/orbbec/005"):
        save(root / scene / "l.png", rgb(levels(LEFT)))
        save(root / scene / "r.png", rgb(levels(RIGHT)))
        grey = np.kron(np.round(DEPTH / 10 * 255), np.ones((3, 3))).astype(np.uint8)
        save(root / scene / "d.png", np.round(DEPTH * 1000).astype(np.uint16) if "orbbec" in scene else rgb(grey))
    for view, image in (("l", LEFT), ("r", RIGHT)):
        save(root / f"flat/001/1500/f20/{view}.png", rgb(levels(image)))
    names = ("box/001", "casual/iphone/003", "casual/orbbec/005", "flat/001/1500/f20")
    return Built(names, srgb(levels(LEFT) / 255))


def google2019(root):
    captures = ("20180302_mmmm_6527_20180303T130940", "20180303_mmmm_0001_20180304T130940")
    for split, views in (("train", ("center",)), ("test", ("center", "left"))):
        for capture in captures:
            for view in views:
                for side, image in (("left", LEFT), ("right", RIGHT)):
                    portrait = np.kron(np.rot90(levels(image), -1), np.ones((2, 2), np.uint8))
                    save(root / split / f"{side}_pd/{capture}/result_{side}Pd_{view}.png", portrait)
                truth = np.rot90(affine_levels(), -1)
                save(root / split / f"merged_depth/{capture}/result_merged_depth_{view}.png", truth)
                confidence = (truth > 0).astype(np.float32) / 2
                save(root / split / f"merged_conf/{capture}/result_merged_conf_{view}.npy", confidence)
                photograph = rgb(np.rot90(levels(LEFT), -1))
                save(root / split / f"scaled_images/{capture}/result_scaled_image_{view}.jpg", photograph)
    names = tuple(f"{capture}/{view}" for capture in captures for view in ("center", "left"))
    return Built(names, srgb(levels(LEFT) / 255))


def iccp2020(root):
    for name in ("005", "017"):
        for letter, image in (("L", LEFT), ("R", RIGHT), ("B", (LEFT + RIGHT) / 2)):
            save(root / f"{name}_{letter}.jpg", rgb(levels(image)))
        truth = affine_levels()
        save(root / f"{name}_D.TIF", np.where(truth > 0, 255 - truth, 0).astype(np.uint8))
    return Built(("005", "017"), srgb(levels(LEFT) / 255), tolerance=0.02)


def dpdd_canon(root):
    for shot in (917, 985):
        for split in ("val", "test"):
            for letter, image in (("l", LEFT), ("r", RIGHT)):
                save(root / f"{split}_{letter}/source/1P0A{shot:04d}_{letter.upper()}.png", rgb(levels(image, 16)))
            save(root / f"{split}_c/source/1P0A{shot:04d}.png", rgb(levels(LEFT, 16)))
            save(root / f"{split}_c/target/1P0A{shot - 1:04d}.png", rgb(levels(RIGHT, 16)))
    return Built(("1P0A0917_L", "1P0A0985_L"), srgb(levels(LEFT, 16) / 65535))


def dpdd_pixel(root):
    for letter, image in (("l", LEFT), ("r", RIGHT), ("c", LEFT)):
        save(root / f"test_{letter}/source/20200304_01.png", levels(image, 16))
    return Built(("20200304_01",), srgb(levels(LEFT, 16) / 65535))


def rdpd(root):
    for sequence in ("seq_001", "seq_002"):
        for letter, image in (("l", LEFT), ("r", RIGHT), ("c", (LEFT + RIGHT) / 2)):
            save(root / f"test_{letter}/source/{sequence}/0000001.png", rgb(levels(image)))
        save(root / f"test_c/target/{sequence}/0000001.png", rgb(levels(RIGHT)))
    return Built(("seq_001/0000001", "seq_002/0000001"), srgb(levels(LEFT) / 255))


def dddnet_nyu(root):
    for name in ("6001", "6002"):
        save(root / f"testing/dp/{name}_l.png", rgb(levels(LEFT)))
        save(root / f"testing/dp/{name}_r.png", rgb(levels(RIGHT)))
        save(root / f"testing/gt/{name}_m.png", rgb(levels(RIGHT)))
        save(root / f"testing/disp/{name}_dm.pfm", 3.0 * DISPARITY + 1)
        save(root / f"testing/disp/{name}_dl.pfm", 3.0 * DISPARITY + 1)
    return Built(("6001", "6002"), srgb(levels(LEFT) / 255))


def dp5k(root):
    scene = root / "test/20220113_141531"
    for camera in ("cam0", "cam1"):
        for number in ("1.8", "5.6"):
            for letter, image in (("l", LEFT), ("r", RIGHT), ("c", LEFT)):
                save(scene / camera / f"FN_{number}_{letter}.png", rgb(levels(image, 16)))
        save(scene / camera / "FN_22.png", rgb(levels(RIGHT, 16)))
        depth = np.round(DEPTH * 1000).astype(np.uint16)
        depth[0] = 0
        save(scene / camera / "dep.png", depth)
    (scene / "meta_data.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    names = tuple(f"20220113_141531/{camera}/{number}" for camera in ("cam0", "cam1") for number in ("1.8", "5.6"))
    return Built(names, srgb(levels(LEFT, 16) / 65535))


def dpmv(root):
    for video in ("20230320_165047_009", "20230511_115712_218"):
        for side, image in (("left", LEFT), ("right", RIGHT)):
            save(root / f"unrectified/B/dp_data/{video}/image_350_{side}.jpg", levels(image))
        rig = np.rot90(np.where(DISPARITY > 0, 10.0, 25.0), -1)  # portrait; nearer is larger
        save(root / f"disp_pixel4_BA/{video}/image_350_disp.pfm", rig)
        save(root / f"disp_pixel4_BA/{video}/image_351_disp.pfm", rig)  # of a frame without dual-pixel views
        save(root / f"rectified/B/Video_data/{video}/image_350.jpg", rgb(np.rot90(levels(LEFT), -1)))
    names = ("20230320_165047_009/image_350", "20230511_115712_218/image_350")
    return Built(names, (levels(LEFT) / 255) ** 2, tolerance=0.02)


BUILDERS = {
    "xin2021": xin_crops,
    "dp119": dp119,
    "google2019": google2019,
    "iccp2020": iccp2020,
    "dpdd_canon": dpdd_canon,
    "dpdd_pixel": dpdd_pixel,
    "rdpd": rdpd,
    "dddnet_nyu": dddnet_nyu,
    "dp5k": dp5k,
    "dpmv": dpmv,
}
WITHOUT_TRUTH = {"dpdd_canon", "dpdd_pixel", "rdpd"}


@pytest.fixture(params=[name for name, entry in DATASETS.items() if entry.kind == "dual_pixel"])
def published(request, tmp_path):
    """Name, root and content of a set in its published layout."""
    root = tmp_path / "some folder"
    return request.param, root, BUILDERS[request.param](root)


def collate(samples):
    import torch

    return torch.stack([torch.from_numpy(np.concatenate([sample.left, sample.right])) for sample in samples])


def test_a_set_in_its_published_layout_is_recognised_and_read(published):
    name, root, built = published
    assert recognise(root).name == name
    dataset = open_dataset(name, root)
    assert dataset.names == built.names
    for sample in dataset:
        assert sample.left.shape == sample.right.shape == (1, HEIGHT, WIDTH)
        np.testing.assert_allclose(sample.left[0], built.left, atol=built.tolerance)
    assert [sample.name for sample in dataset] == list(built.names)
    assert dataset[-1].name == built.names[-1]
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_what_is_farther_comes_out_larger(published):
    name, root, _ = published
    sample = open_dataset(name, root)[0]
    truth = sample.depth if sample.depth is not None else sample.affine_disparity
    assert (truth is None) == (name in WITHOUT_TRUTH)
    if truth is not None:
        far, near = (sample.mask & (np.sign(DISPARITY) == sign) for sign in (1, -1))
        assert far.sum() > 0.4 * far.size
        assert near.sum() > 0.4 * near.size
        assert truth[far].min() > truth[near].max()


def test_the_check_measures_what_the_set_promises(published):
    name, root, built = published
    findings = check_dataset(root)
    assert findings.problems == ()
    assert findings.dataset == name
    assert findings.measured.dp_axis == DATASETS[name].dp_axis
    assert findings.measured.shift_along_px == pytest.approx(1, abs=0.1)
    assert findings.measured.shift_across_px < 0.1
    if name in WITHOUT_TRUTH:
        assert findings.measured.correlation is None
    else:
        assert findings.measured.correlation > 0.7
    assert findings.samples >= len(built.names)


def test_swapped_views_are_found(published):
    """Not where nothing says what is farther: there is no way to tell."""
    name, root, built = published
    if name in WITHOUT_TRUTH:
        return
    for split in DATASETS[name].splits_in(root) or (None,):
        files = open_dataset(name, root, **({"split": split} if split else {}))
        for sample in files.names:
            paths = files.paths(sample)
            spare = root / "spare"
            paths["left"].rename(spare)
            paths["right"].rename(paths["left"])
            spare.rename(paths["right"])
    problem = check_dataset(root).problems[-1]
    assert "sign: expected left(x) = right(x + d)" in problem
    assert "pass a sensor with swap_views" in problem
    mended = open_dataset(name, root, sensor=replace(open_dataset(name, root).sensor, swap_views=True))
    np.testing.assert_allclose(mended[0].left[0], built.left, atol=built.tolerance)


@pytest.mark.parametrize("workers", [0, 2])
def test_torch_loads_every_set(published, workers):
    data = pytest.importorskip("torch.utils.data", reason="the extra train is not installed")
    name, root, built = published
    if workers and name not in ("xin2021", "google2019"):  # starting workers takes a second or more
        pickle.loads(pickle.dumps(open_dataset(name, root)))
        return
    loader = data.DataLoader(open_dataset(name, root), batch_size=2, num_workers=workers, collate_fn=collate)
    batches = list(loader)
    assert sum(len(batch) for batch in batches) == len(built.names)
    assert batches[0].shape[1:] == (2, HEIGHT, WIDTH)
    np.testing.assert_allclose(batches[0][0, 0], built.left, atol=built.tolerance)


def test_a_missing_right_view_is_named(published):
    name, root, built = published
    path = open_dataset(name, root).paths(built.names[0])["right"]
    path.unlink()
    with pytest.raises(InputError, match=r"expected (beside .*left|1 images|beside)|expected \d+ images") as caught:
        open_dataset(name, root)
    assert str(path if not name.startswith("dpdd") else path.parent) in str(caught.value)
    assert any(str(path.parent) in problem for problem in check_dataset(root).problems)


# What is particular to one set


def test_google_depth_is_turned_with_the_views_and_confidence_masks_it(tmp_path):
    google2019(tmp_path)
    sample = open_dataset("google2019", tmp_path, views=("center",))[0]
    truth = affine_levels()
    np.testing.assert_allclose(sample.affine_disparity, truth / 255, rtol=1e-6)
    np.testing.assert_array_equal(sample.mask, truth > 0)
    assert sample.confidence.max() == 0.5


def test_google_views_of_16_bit_are_read_as_linear(tmp_path):
    google2019(tmp_path)
    for side in ("left", "right"):
        for path in (tmp_path / f"train/{side}_pd").rglob("*.png"):
            save(path, cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(np.uint16) * 257)
    sample = open_dataset("google2019", tmp_path, split="train")[0]
    np.testing.assert_allclose(sample.left[0], levels(LEFT) / 255, atol=1e-5)


def test_google_oddities(tmp_path):
    google2019(tmp_path)
    with pytest.raises(InputError, match=r"split: expected one of train, test, found 'val'"):
        open_dataset("google2019", tmp_path, split="val")
    with pytest.raises(InputError, match=r"views: expected of center, left, right, top, bottom, found middle"):
        open_dataset("google2019", tmp_path, views=("middle",))
    dataset = open_dataset("google2019", tmp_path)
    paths = dataset.paths(dataset.names[0])
    np.save(paths["confidence"], np.array([object()]), allow_pickle=True)
    with pytest.raises(InputError, match=r"result_merged_conf_center\.npy: expected an array of floats"):
        dataset[0]
    save(paths["truth"], np.zeros((100, 96), np.uint8))
    with pytest.raises(InputError, match=r"merged_depth_center\.png: expected a size that divides that of the views"):
        dataset[0]


def test_dp119_depth_in_metres(tmp_path):
    dp119(tmp_path)
    for sample in open_dataset("dp119", tmp_path, groups=("box", "casual/iphone", "casual/orbbec")):
        np.testing.assert_allclose(sample.depth, DEPTH, atol=0.02)
        assert sample.mask.all()
    flat = open_dataset("dp119", tmp_path, groups=("flat",))[0]
    assert flat.sensor.f_number == 20
    assert (flat.depth == np.float32(1.5)).all()


def test_dp119_depth_that_does_not_hold_is_masked(tmp_path):
    dp119(tmp_path)
    depth = np.full((HEIGHT, WIDTH), 255, np.uint8)  # 10 m
    depth[0], depth[1] = 7, 128  # 0.27 m, 5.02 m
    save(tmp_path / "box/001/d.png", depth)
    sample = open_dataset("dp119", tmp_path)[0]
    assert not sample.mask[0].any()
    assert sample.mask[1].all()
    assert not sample.mask[2:].any()
    save(tmp_path / "box/001/d.png", depth[:, :40])
    with pytest.raises(InputError, match=r"d\.png: expected the shape of the views, 144x96, at any size, found 40x96"):
        open_dataset("dp119", tmp_path)[0]


def test_dp119_folders_that_are_no_distance(tmp_path):
    dp119(tmp_path)
    (tmp_path / "flat/001/1500").rename(tmp_path / "flat/001/far")
    with pytest.raises(InputError, match=r"flat/001/far/f20: expected MILLIMETRES/fNUMBER, found far/f20"):
        open_dataset("dp119", tmp_path)[3]


def test_real_dp119_planes_lie_on_their_side_of_focus(data_root):
    """Focus is at 1 m: 0.6 m is nearer, 1.5 m farther, in the ground truth and by matching."""
    scenes = open_dataset("dp119", data_root / "dual_pixel" / "canon_r6", groups=("flat",))
    assert [float(sample.depth[0, 0]) for sample in scenes] == pytest.approx([0.6, 0.6, 1.5, 1.5])
    assert [sample.sensor.f_number for sample in scenes] == [20, 4, 20, 4]
    whole = open_dataset("dp119", data_root / "dual_pixel" / "canon_r6")
    assert len(whole) == 13
    box = whole[0]
    assert box.left.shape == (1, 512, 768)
    assert 0.3 <= box.depth[box.mask].min() < box.depth[box.mask].max() < 10


def test_dpdd_pairs_by_order_and_keeps_the_target(tmp_path):
    dpdd_canon(tmp_path)
    dataset = open_dataset("dpdd_canon", tmp_path, colour=True)
    sample = dataset[1]
    assert sample.left.shape == sample.all_in_focus.shape == (3, HEIGHT, WIDTH)
    np.testing.assert_allclose(sample.all_in_focus[0], srgb(levels(RIGHT, 16) / 65535), atol=1e-5)
    assert dataset.paths("1P0A0985_L")["all_in_focus"].name == "1P0A0984.png"


def test_colour_is_red_green_blue(tmp_path):
    rdpd(tmp_path)
    for letter in ("l", "r"):
        image = rgb(levels(LEFT if letter == "l" else RIGHT))
        image[..., 0], image[..., 2] = 10, 200  # OpenCV writes blue, green, red
        save(tmp_path / f"test_{letter}/source/seq_001/0000001.png", image)
    sample = open_dataset("rdpd", tmp_path, colour=True)[0]
    np.testing.assert_allclose(sample.left[0], srgb(200 / 255), rtol=1e-5)
    np.testing.assert_allclose(sample.left[1], srgb(levels(LEFT) / 255), atol=1e-5)
    np.testing.assert_allclose(sample.left[2], srgb(10 / 255), rtol=1e-5)


def test_colour_of_grey_files_is_refused(tmp_path):
    dddnet_nyu(tmp_path)
    for letter in ("l", "r"):
        save(tmp_path / f"testing/dp/6001_{letter}.png", levels(LEFT if letter == "l" else RIGHT))
    with pytest.raises(InputError, match=r"6001_l\.png: expected three channels, found one"):
        open_dataset("dddnet_nyu", tmp_path, colour=True)[0]


def test_dddnet_sign_can_be_turned(tmp_path):
    dddnet_nyu(tmp_path)
    plus, minus = (open_dataset("dddnet_nyu", tmp_path, sign=sign)[0].affine_disparity for sign in (1, -1))
    np.testing.assert_array_equal(plus, 3 * DISPARITY + 1)
    np.testing.assert_array_equal(minus, -plus)
    with pytest.raises(InputError, match=r"sign: expected 1 or -1, found 2"):
        open_dataset("dddnet_nyu", tmp_path, sign=2)


def test_dp5k_says_depth_aperture_and_focus(tmp_path, monkeypatch):
    dp5k(tmp_path)
    dataset = open_dataset("dp5k", tmp_path)
    sample = dataset[1]
    assert (sample.sensor.f_number, sample.sensor.focal_length_m) == (5.6, 0.085)
    np.testing.assert_allclose(sample.depth[1:], DEPTH[1:])
    assert not sample.mask[0].any()
    monkeypatch.setattr("edge_dp.data.dual_pixel.dp5k.needs", lambda *modules: lambda: f"{modules[0]} not installed")
    with pytest.raises(MissingExtraError, match=r"meta_data\.h5: .* h5py not installed: pip install 'edge-dp\[data\]'"):
        dataset.focus_distance(dataset.names[1])


def test_dp5k_focus_distance_in_metres(tmp_path):
    h5py = pytest.importorskip("h5py", reason="the extra data is not installed")
    dp5k(tmp_path)
    with h5py.File(tmp_path / "test/20220113_141531/meta_data.h5", "w") as stored:
        stored["focus_dis_0"] = np.array([[1234.0]])
        stored["focus_dis_1"] = -1.0
    dataset = open_dataset("dp5k", tmp_path)
    assert dataset.focus_distance("20220113_141531/cam0/1.8") == pytest.approx(1.234)
    with pytest.raises(InputError, match=r"focus_dis_1: expected millimetres above 0, found -1"):
        dataset.focus_distance("20220113_141531/cam1/1.8")
    metadata = tmp_path / "test/20220113_141531/meta_data.h5"
    with h5py.File(metadata, "w") as stored:
        stored["focus_dis_0"] = np.array([1.0, 2.0])
    for name, message in (
        ("cam0/1.8", "focus_dis_0: expected a number"),
        ("cam1/1.8", "focus_dis_1: expected a number"),
    ):
        with pytest.raises(InputError, match=rf"meta_data\.h5: {message}, found"):
            dataset.focus_distance(f"20220113_141531/{name}")
    metadata.write_bytes(metadata.read_bytes()[:300])
    with pytest.raises(InputError, match=r"meta_data\.h5: focus_dis_0: expected a number, found: .*truncated"):
        dataset.focus_distance("20220113_141531/cam0/1.8")
    metadata.unlink()
    bare = open_dataset("dp5k", tmp_path)
    assert bare[0].depth is not None
    with pytest.raises(InputError, match=r"expected meta_data\.h5 in its scene, found none"):
        bare.focus_distance(bare.names[0])


def test_an_empty_split_is_a_problem_of_its_own(tmp_path):
    dpdd_canon(tmp_path)
    for path in (tmp_path / "val_l/source").iterdir():
        path.unlink()
    findings = check_dataset(tmp_path)
    assert findings.samples == 2
    assert any("as many as in val_l/source" in problem for problem in findings.problems)
    for folder in ("val_r/source", "val_c/source", "val_c/target"):
        for path in (tmp_path / folder).iterdir():
            path.unlink()
    (problem,) = check_dataset(tmp_path).problems
    assert "expected val_l/source/*.png, found none" in problem


def test_dp5k_without_its_depth(tmp_path):
    dp5k(tmp_path)
    (tmp_path / "test/20220113_141531/cam1/dep.png").unlink()
    with pytest.raises(InputError, match=r"cam1/dep\.png: expected beside .*cam1/FN_1\.8_l\.png, found nothing"):
        open_dataset("dp5k", tmp_path)
    assert len(open_dataset("dp5k", tmp_path, strict=False)) == 2


def test_dpmv_gives_the_rig_disparity_as_affine_only(tmp_path):
    dpmv(tmp_path)
    sample = open_dataset("dpmv", tmp_path)[0]
    assert sample.disparity is None
    np.testing.assert_array_equal(sample.affine_disparity, np.where(DISPARITY > 0, -10, -25))
    (tmp_path / "disp_pixel4_BA/20230320_165047_009/image_350_disp.pfm").unlink()
    assert open_dataset("dpmv", tmp_path)[0].affine_disparity is None


def test_a_truncated_view_and_a_wrong_depth_are_named(tmp_path):
    dp119(tmp_path)
    path = tmp_path / "box/001/r.png"
    path.write_bytes(path.read_bytes()[:300])
    dataset = open_dataset("dp119", tmp_path)
    with pytest.raises(InputError, match=r"box/001/r\.png: expected an image .* truncated"):
        dataset[0]
    save(tmp_path / "casual/orbbec/005/d.png", levels(LEFT))
    with pytest.raises(InputError, match=r"orbbec/005/d\.png: expected uint16, one channel, found uint8"):
        dataset[2]
    with pytest.raises(InputError, match=r"expected the name of a sample, found 'box/999'"):
        dataset.read("box/999")


def test_another_sensor_replaces_the_profile(tmp_path):
    xin_crops(tmp_path)
    doubled = replace(load_sensor("pixel4"), white_level=1024 + 16383 / 2)
    plain, bright = (open_dataset("xin2021", tmp_path, sensor=sensor)[0] for sensor in (None, doubled))
    np.testing.assert_allclose(bright.left, 2 * plain.left, rtol=1e-5)
