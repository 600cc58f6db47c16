"""Optics of a dual pixel: the thin lens, and point-spread functions. Metres, px and the signs of the thin lens module."""

from edge_dp.optics.thin_lens import (
    affine_of_inverse_depth,
    circle_of_confusion,
    circle_of_confusion_px,
    depth_to_disparity,
    disparity_to_depth,
    lens_of_affine,
)

__all__ = [
    "affine_of_inverse_depth",
    "circle_of_confusion",
    "circle_of_confusion_px",
    "depth_to_disparity",
    "disparity_to_depth",
    "lens_of_affine",
]
