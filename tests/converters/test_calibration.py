"""Calibration data: what it may look like, and what is refused."""

import numpy as np
import pytest
import torch
from torch import nn

import edge_dp
from edge_dp.converters.calibration import read_samples, sample_files
from edge_dp.converters.source import network_of_module
from edge_dp.errors import InputError

from .small_networks import LEFT, RIGHT, SHAPE, Small, TwoViews, samples


def network_of(module, **shapes):
    return network_of_module(module, shapes, None, "net")


GOOD = np.linspace(0, 1, np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)


@pytest.mark.parametrize(
    ("calibration", "words"),
    [
        ([], "calibration: expected at least one sample, found none"),
        (7, "calibration: expected a sequence of samples, found int"),
        ({"x": GOOD}, "calibration: expected a sequence of samples, found dict"),
        ("samples/", "calibration: expected a sequence of samples, found str"),
        ([None], "calibration sample 0: x: expected an array of numbers, found NoneType"),
        ([GOOD, "night.npy"], "calibration sample 1: x: expected an array of numbers, found str"),
        ([GOOD * 1j], "calibration sample 0: x: expected an array of numbers, found complex64"),
        ([[[1.0], [2.0, 3.0]]], "calibration sample 0: expected 1 arrays, found 2"),
        ([np.zeros(SHAPE), np.zeros(SHAPE)], "calibration: input 'x' is 0 everywhere in 2 samples"),
        ([GOOD[0]], r"calibration sample 0: x: expected shape \(1, 2, 8, 12\), found \(2, 8, 12\)"),
        ([GOOD, GOOD[..., :8]], r"calibration sample 1: x: expected shape \(1, 2, 8, 12\), found \(1, 2, 8, 8\)"),
        ([GOOD, np.where(GOOD == 1, np.nan, GOOD)], "calibration sample 1: x: expected finite values"),
        ([torch.from_numpy(GOOD) / 0], "calibration sample 0: x: expected finite values"),
        ([{"y": GOOD}], r"calibration sample 0: expected x, found 'y' \('x' does not fit\)"),
        ([{"x": GOOD, "y": GOOD}], r"calibration sample 0: expected x, found 'x', 'y' \('y' does not fit\)"),
        ([{}], "calibration sample 0: expected x, found"),
        ([(GOOD, GOOD)], "calibration sample 0: expected 1 arrays, found 2"),
    ],
)
def test_calibration_that_teaches_nothing(calibration, words):
    with pytest.raises(InputError, match=words):
        read_samples(network_of(Small(), x=SHAPE), calibration)


def test_calibration_in_every_form_is_the_same():
    network = network_of(Small(), x=SHAPE)
    reference = read_samples(network, [GOOD])
    assert reference.ranges == {"x": (0.0, 1.0)}
    for sample in (GOOD.astype(np.float64), torch.from_numpy(GOOD), {"x": GOOD}, {"": GOOD}, [GOOD], (GOOD,)):
        (batch,) = read_samples(network, (s for s in [sample])).batches
        assert torch.equal(batch["x"], reference.batches[0]["x"]) and batch["x"].dtype == torch.float32
    counted = read_samples(network, [np.arange(GOOD.size, dtype=np.uint8).reshape(SHAPE)])
    assert counted.ranges == {"x": (0.0, 191.0)}


@pytest.mark.parametrize(
    ("module", "calibration", "words"),
    [
        (Small(), None, "onnx-int8: expected calibration data for integer precisions"),
        (Small(), [GOOD * 1e38], "expected finite activations, at most 1.67035e.07 from end to end, found"),
        (
            nn.Sequential(nn.Conv2d(2, 4, 1), nn.Hardtanh(-9, -8), nn.Conv2d(4, 1, 1)),
            [GOOD],
            "expected an activation that varies",
        ),
    ],
    ids=["none", "far too large", "dead network"],
)
def test_calibration_that_leads_to_no_range(module, calibration, words, tmp_path):
    name = "input" if isinstance(module, nn.Sequential) else "x"
    with pytest.raises(InputError, match=words):
        edge_dp.export(module, {name: SHAPE}, tmp_path / "b", formats="onnx", precision="int8", calibration=calibration)
    assert not list(tmp_path.iterdir())


def test_files_of_calibration_samples(tmp_path):
    for index, (left, right) in enumerate(samples(LEFT, RIGHT, count=2)):
        np.savez(tmp_path / f"{index}.npz", left=left, right=right)
    (tmp_path / "readme.txt").write_text("not a sample")
    found = read_samples(network_of(TwoViews(), left=LEFT, right=RIGHT), sample_files(tmp_path))
    assert len(found.batches) == 2
    np.testing.assert_array_equal(found.batches[1]["right"], samples(LEFT, RIGHT, count=2)[1][1])
    np.savez(tmp_path / "2.npz", left=left, right=left)
    with pytest.raises(InputError, match=r"2\.npz: right: expected shape \(1, 2, 8, 12\), found \(1, 1, 16, 24\)"):
        read_samples(network_of(TwoViews(), left=LEFT, right=RIGHT), sample_files(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("readme.txt", b"", "expected .npz or .npy files, one calibration sample each, found none"),
        ("a.npy", b"", "a.npy: not a readable .npy file"),
        ("a.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'", "a.npy: not a readable .npy file"),
        ("a.npz", b"PK\x03\x04 cut off", "a.npz: not a readable .npz file"),
        ("a.npz", b"no zip at all", "a.npz: not a readable .npz file"),
    ],
)
def test_files_that_are_no_samples(name, content, words, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words):
        sample_files(tmp_path)


def test_samples_of_a_folder_that_is_none(tmp_path):
    with pytest.raises(InputError, match=r"absent: expected a folder of \.npz or \.npy files"):
        sample_files(tmp_path / "absent")


def test_samples_with_pickles_are_not_opened(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"a\.npy: not a readable \.npy file"):
        sample_files(tmp_path)
