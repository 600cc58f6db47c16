"""Captures in, samples and disparity maps out."""

from edge_dp.data.dataset import Dataset, DpDataset
from edge_dp.data.disparity import read_disparity_png, write_disparity
from edge_dp.data.images import correct_field, read_pair, read_view, to_sample_orientation, to_sensor_orientation
from edge_dp.data.pfm import read_pfm, write_pfm
from edge_dp.data.registry import list_datasets, open_dataset, recognise
from edge_dp.data.roots import data_root
from edge_dp.data.sample import DpSample

__all__ = [
    "Dataset",
    "DpDataset",
    "DpSample",
    "correct_field",
    "data_root",
    "list_datasets",
    "open_dataset",
    "read_disparity_png",
    "read_pair",
    "read_pfm",
    "read_view",
    "recognise",
    "to_sample_orientation",
    "to_sensor_orientation",
    "write_disparity",
    "write_pfm",
]
