"""Scenes with known geometry, for the simulator and for stereo and multi-view teachers: one file per data set."""

from edge_dp.data.scenes.files import read_sun_depth
from edge_dp.data.scenes.middlebury import MiddleburyStereo
from edge_dp.data.scenes.middlebury_mvs import MiddleburyMvs
from edge_dp.data.scenes.open3d import Open3DScenes
from edge_dp.data.scenes.scene_sample import SceneSample
from edge_dp.data.scenes.seven_scenes import SevenScenes
from edge_dp.data.scenes.tum import TumRgbd

__all__ = [
    "MiddleburyMvs",
    "MiddleburyStereo",
    "Open3DScenes",
    "SceneSample",
    "SevenScenes",
    "TumRgbd",
    "read_sun_depth",
]
