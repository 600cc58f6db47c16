"""Every set of dual-pixel captures of the registry, built small in its published layout.

The views of each show two planes: the left half is farther than focus, d = +1 px, the right half nearer, d = -1 px. A new
data set needs a builder here.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from edge_dp.data import write_pfm
from edge_dp.srgb import srgb_to_linear

HEIGHT, WIDTH = 96, 144
FAR_M, NEAR_M = 2.0, 0.5


@dataclass
class Built:
    """What a builder wrote, as a reader should give it."""

    names: tuple[str, ...]
    left: np.ndarray  # (H, W) linear light, dual-pixel axis along x
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
    return Built(names, srgb_to_linear(levels(LEFT) / 255))


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
    return Built(names, srgb_to_linear(levels(LEFT) / 255))


def iccp2020(root):
    for name in ("005", "017"):
        for letter, image in (("L", LEFT), ("R", RIGHT), ("B", (LEFT + RIGHT) / 2)):
            save(root / f"{name}_{letter}.jpg", rgb(levels(image)))
        truth = affine_levels()
        save(root / f"{name}_D.TIF", np.where(truth > 0, 255 - truth, 0).astype(np.uint8))
    return Built(("005", "017"), srgb_to_linear(levels(LEFT) / 255), tolerance=0.02)


def dpdd_canon(root):
    for shot in (917, 985):
        for split in ("val", "test"):
            for letter, image in (("l", LEFT), ("r", RIGHT)):
                save(root / f"{split}_{letter}/source/1P0A{shot:04d}_{letter.upper()}.png", rgb(levels(image, 16)))
            save(root / f"{split}_c/source/1P0A{shot:04d}.png", rgb(levels(LEFT, 16)))
            save(root / f"{split}_c/target/1P0A{shot - 1:04d}.png", rgb(levels(RIGHT, 16)))
    return Built(("1P0A0917_L", "1P0A0985_L"), srgb_to_linear(levels(LEFT, 16) / 65535))


def dpdd_pixel(root):
    for letter, image in (("l", LEFT), ("r", RIGHT), ("c", LEFT)):
        save(root / f"test_{letter}/source/20200304_01.png", levels(image, 16))
    return Built(("20200304_01",), srgb_to_linear(levels(LEFT, 16) / 65535))


def rdpd(root):
    for sequence in ("seq_001", "seq_002"):
        for letter, image in (("l", LEFT), ("r", RIGHT), ("c", (LEFT + RIGHT) / 2)):
            save(root / f"test_{letter}/source/{sequence}/0000001.png", rgb(levels(image)))
        save(root / f"test_c/target/{sequence}/0000001.png", rgb(levels(RIGHT)))
    return Built(("seq_001/0000001", "seq_002/0000001"), srgb_to_linear(levels(LEFT) / 255))


def dddnet_nyu(root):
    for name in ("6001", "6002"):
        save(root / f"testing/dp/{name}_l.png", rgb(levels(LEFT)))
        save(root / f"testing/dp/{name}_r.png", rgb(levels(RIGHT)))
        save(root / f"testing/gt/{name}_m.png", rgb(levels(RIGHT)))
        save(root / f"testing/disp/{name}_dm.pfm", 3.0 * DISPARITY + 1)
        save(root / f"testing/disp/{name}_dl.pfm", 3.0 * DISPARITY + 1)
    return Built(("6001", "6002"), srgb_to_linear(levels(LEFT) / 255))


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
    return Built(names, srgb_to_linear(levels(LEFT, 16) / 65535))


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
