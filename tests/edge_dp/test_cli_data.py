"""``edge-dp data list`` and ``check``: exit codes, tables and JSON."""

import argparse
import json

import cv2
import numpy as np
import pytest

from edge_dp.cli import data
from edge_dp.data import list_datasets
from edge_dp.errors import InputError


@pytest.fixture
def captures(tmp_path):
    """Three scenes of 64x48 px in the layout of Xin et al.; the right view is the left one, moved by 1 px."""
    for folder in ("views", "defocus_map"):
        (tmp_path / folder).mkdir()
    for seed, name in enumerate(("001", "002", "003")):
        texture = cv2.GaussianBlur(np.random.default_rng(seed).random((48, 65)) * 60000, (0, 0), 1) / 5 + 1100
        for view, image in (("left", texture[:, 1:]), ("right", texture[:, :-1])):
            cv2.imwrite(str(tmp_path / f"views/{name}_{view}.png"), image.astype(np.uint16))
        cv2.imwrite(str(tmp_path / f"defocus_map/{name}_gt.png"), np.full((48, 64), 9, np.uint8))
    return tmp_path


def run(*words):
    parser = argparse.ArgumentParser()
    data.add_arguments(parser)
    return data.call(parser.parse_args([str(word) for word in words]))


def test_table_of_a_set_that_is_fine(captures, capsys):
    assert run("check", captures) == 0
    out = capsys.readouterr().out
    assert "xin2021: Xin et al., ICCV 2021" in out
    assert "64x48" in out
    assert "dual-pixel axis: promised x, measured x" in out
    assert "not measured: no ground truth that varies" in out
    assert "3 samples, 3 read, 0 problem(s)" in out


def test_odd_sets_are_named_and_end_with_one(captures, capsys):
    path = captures / "views/002_right.png"
    path.write_bytes(path.read_bytes()[:200])
    assert run("check", captures) == 1
    out = capsys.readouterr().out
    assert f"odd: {path}: expected a whole PNG" in out
    assert "1 problem(s)" in out


def test_json_has_all_of_it_and_is_alone_on_standard_output(captures, capsys):
    (captures / "views/003_left.png").unlink()
    assert run("check", captures, "--json", "--samples", 1) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["dataset"] == "xin2021"
    assert found["samples"] == 2
    assert found["measured"]["samples"] == 1
    assert found["promised_bits"] == [16]
    assert {row["role"]: row["count"] for row in found["files"]} == {"left": 2, "right": 2, "truth": 2}
    assert len(found["problems"]) == 1


def test_many_problems_are_cut_short_on_the_terminal(captures, capsys):
    for index in range(30):
        (captures / f"views/{index:03d}x.png").touch()
    assert run("check", captures) == 1
    out = capsys.readouterr().out
    assert out.count("odd: ") == 20
    assert "... and 10 more: pass --json for all" in out


def test_what_is_not_recognised_is_bad_input(tmp_path):
    with pytest.raises(InputError, match=r"expected the folder of a data set, found an empty folder") as caught:
        run("check", tmp_path)
    assert caught.value.exit_code == 2
    with pytest.raises(InputError, match="expected one of"):
        run("check", tmp_path, "--dataset", "kitti")


def test_list_has_every_set_with_kind_licence_and_layout(capsys):
    assert run("list", "--json") == 0
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert tuple(sorted(entries)) == list_datasets()
    assert {"dual_pixel", "light_field", "scene"} <= {entry["kind"] for entry in entries.values()}
    assert entries["dp119"]["licence"] == "MIT"
    assert entries["google2019"]["dp_axis"] == "y"
    assert entries["tum_rgbd"]["dp_axis"] is None
    assert run("list") == 0
    out = capsys.readouterr().out
    assert all(name in out for name in entries)
    assert "[CATEGORY/]SCENE" in out  # brackets are no markup
    assert "CC BY 4.0" in out


def test_scenes_have_lines_of_their_own(tmp_path, capsys):
    for folder in ("color", "depth"):
        (tmp_path / folder).mkdir()
    cv2.imwrite(str(tmp_path / "color/1.png"), np.full((480, 640, 3), 90, np.uint8))
    depth = np.full((480, 640), 1500, np.uint16)
    depth[:120] = 0
    cv2.imwrite(str(tmp_path / "depth/1.png"), depth)
    (tmp_path / "trajectory.log").write_text("0 0 1\n1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n")
    assert run("check", tmp_path) == 0
    out = capsys.readouterr().out
    assert "known: 75% of the pixels" in out
    assert "depth: 1.50 to 1.50 m, median 1.50 m" in out
    assert "poses: rotations in 1 sample(s), orthonormal within 0e+00" in out
    assert "stereo" not in out
    assert "dual-pixel" not in out
    assert run("check", tmp_path, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["promised_axis"], found["measured"]["typical_m"]) == ("scene", None, 1.5)
