"""The label factory: what a teacher that sees several cameras says, made into labels for one dual-pixel camera."""

from edge_dp.training.labels.config import FitConfig, LabelConfig
from edge_dp.training.labels.factory import (
    SHARD_SIZE,
    data_set_key,
    label_capture,
    label_set,
    labelled,
    share_of_launch,
    to_output_grid,
    write_labels,
    write_shards,
)
from edge_dp.training.labels.shards import Samples, label_settings, read_provenance, read_shards
from edge_dp.training.labels.sources import (
    DpMvVideos,
    RenderedCaptures,
    RenderedFolder,
    RigCapture,
    RigOptics,
    split_videos,
)
from edge_dp.training.labels.teachers import TeacherChoice

__all__ = [
    "SHARD_SIZE",
    "DpMvVideos",
    "FitConfig",
    "LabelConfig",
    "RenderedCaptures",
    "RenderedFolder",
    "RigCapture",
    "RigOptics",
    "Samples",
    "TeacherChoice",
    "data_set_key",
    "label_capture",
    "label_set",
    "label_settings",
    "labelled",
    "read_provenance",
    "read_shards",
    "share_of_launch",
    "split_videos",
    "to_output_grid",
    "write_labels",
    "write_shards",
]
