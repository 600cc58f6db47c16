"""A rendered rig written as dpMV is: portrait photographs of three cameras side by side, landscape dual-pixel views, JPEG."""

import dataclasses
import math

import cv2
import numpy as np

from edge_dp.simulation.capture import SimulationConfig, draw_capture
from edge_dp.simulation.lens import LensConfig
from edge_dp.simulation.render import render_disparity, render_pinhole, render_views
from edge_dp.simulation.rig import SideCamera, render_side
from edge_dp.simulation.scenes import SceneConfig
from edge_dp.srgb import linear_to_srgb

SIZE = (128, 160)  # of the dual-pixel views
GAIN = 4.0
CONFIG = SimulationConfig(
    SceneConfig(
        *SIZE,
        margin=32,
        disparity=(-2.5, 3.5),
        one_sided_share=0,
        textureless_share=0,
        repeated_share=0,
        saturated_share=0,
    ),
    LensConfig(models={"half_aperture": 1.0}),
)


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 97])


def write_frame(root, video, frame, seed, index):
    """Write one frame; its true disparity (H, W) and the side camera A.

    The rig's baseline is horizontal in portrait, hence vertical in the frame of the dual-pixel views: up there is right here.
    """
    draw = draw_capture(seed, index, CONFIG)
    scene, margin = draw.scene, CONFIG.scene.margin
    camera = SideCamera(offset=2.0 + GAIN * scene.farthest, gain=GAIN, angle=-math.pi / 2)
    pinholes = {
        "A": render_side(scene, camera, margin),
        "B": render_pinhole(scene, margin),
        "C": render_side(scene, dataclasses.replace(camera, angle=math.pi / 2), margin),
    }
    for name, light in pinholes.items():
        levels = np.rint(255 * linear_to_srgb(light[0].clip(0, 1))).astype(np.uint8)
        portrait = cv2.rotate(levels, cv2.ROTATE_90_CLOCKWISE)
        save(root / f"rectified/{name}/Video_data/{video}/{frame}.jpg", np.dstack([portrait] * 3))
    views = render_views(scene, draw.psf, margin, draw.window)[:, 0]
    for side, view in zip(("left", "right"), views, strict=True):
        levels = np.rint(255 * np.sqrt(view.clip(0, 1))).astype(np.uint8)
        save(root / f"unrectified/B/dp_data/{video}/{frame}_{side}.jpg", levels)
    return render_disparity(scene, margin), camera
