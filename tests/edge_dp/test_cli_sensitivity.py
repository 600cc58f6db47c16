"""``edge-dp sensitivity``: table, JSON and hint for a network of one's own, and what is refused."""

import json

import numpy as np
import pytest

from edge_dp.cli import main

NETWORK = """
import torch
from torch import nn


class Chain(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.first, self.middle, self.last = (nn.Conv2d(4, 4, 1) for _ in range(3))
        with torch.no_grad():
            self.middle.weight[0] = 500.0
            self.last.weight[:, 0] = 0.0

    def forward(self, x):
        return self.last(self.middle(torch.relu(self.first(x))))
"""


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Call the verb on a network whose middle layer ruins its own resolution."""
    rng = np.random.default_rng(5)
    (tmp_path / "chain_of_three.py").write_text(NETWORK)
    (tmp_path / "samples").mkdir()
    for index in range(3):
        np.save(tmp_path / f"samples/{index}.npy", rng.random((1, 4, 8, 8), np.float32))
    monkeypatch.chdir(tmp_path)
    return lambda *words: main(["sensitivity", "chain_of_three:Chain", *words])


ARGUMENTS = ("--input", "x=1x4x8x8", "--calibration", "samples")


def test_table_blames_the_layer_and_says_what_to_do(call, capsys):
    assert call(*ARGUMENTS) == 0
    text = capsys.readouterr().out
    rows = [line.split("│")[2].strip() for line in text.splitlines() if line.startswith("│")]
    assert rows[0] == "middle"
    assert sorted(rows) == ["(input)", "first", "last", "middle"]
    assert "Chain: error over the size of the values, all outputs, 3 samples" in text
    assert "with --keep-float last --keep-float middle: " in text


def test_json_of_one_output(call, capsys):
    assert call(*ARGUMENTS, "--output", "depth", "--of", "depth", "--samples", "2", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["measure"], data["samples"]) == ("mean absolute error of depth", 2)
    assert data["remedies"][0]["keep_float"] == ["last", "middle"]
    layers = data["report"]["layers"]
    assert layers[0]["module"] == "middle"
    assert layers[0]["spared"] < 0.5 * data["report"]["quantised"]
    assert data["report"]["floating"] < 0.05 * data["report"]["quantised"]


def test_layers_kept_in_float_are_left_out(call, capsys):
    assert call(*ARGUMENTS, "--keep-float", "middle", "--keep-float", "last", "--json") == 0
    layers = json.loads(capsys.readouterr().out)["report"]["layers"]
    assert {layer["tensor"] for layer in layers} == {"x", "relu"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (ARGUMENTS[:2], "pass samples of what the network will see"),
        (ARGUMENTS[2:], "pass the shape of each input"),
        ((*ARGUMENTS, "--input", "x=1x4x8x8"), "--input: expected each name once"),
        ((*ARGUMENTS, "--size", "64x96"), "--size is not for a network of your own"),
        ((*ARGUMENTS, "--samples", "0"), "samples: expected at least 1, found 0"),
        ((*ARGUMENTS, "--of", "depth"), "Chain: expected one of its outputs, output, found depth"),
        ((*ARGUMENTS[:3], "nowhere"), "nowhere"),
        (("--input", "x=1x4x8x9", *ARGUMENTS[2:]), "expected shape (1, 4, 8, 9), found (1, 4, 8, 8)"),
    ],
)
def test_wrong_requests_exit_2(call, capsys, words, message):
    assert call(*words) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("edge-dp: ")
    assert message in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--samples", "3"), "dp_disparity_s: --samples is not for a checkpoint"),
        (("--keep-float", "disparity"), "dp_disparity_s: --keep-float is not for a checkpoint"),
        (("--calibration", "samples"), "dp_disparity_s: --calibration is not for a checkpoint"),
        (("--size", "50x96"), "multiples of 32"),
        (("--of", "depth"), "dp_disparity_s: expected one of its outputs, disparity, confidence, found depth"),
    ],
)
def test_what_is_not_for_a_checkpoint(capsys, words, message):
    assert main(["sensitivity", "dp_disparity_s", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_name_that_is_neither(capsys):
    assert main(["sensitivity", "nobody"]) == 2
    assert "nobody" in capsys.readouterr().err
