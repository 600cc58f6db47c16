"""``edge-dp label`` from the command line."""

import json

import pytest
import torch

from edge_dp.cli import main
from edge_dp.simulation.capture import SimulationConfig
from edge_dp.simulation.dataset import write_dataset
from edge_dp.simulation.scenes import SceneConfig
from edge_dp.training.labels import read_provenance, read_shards

from .dpmv_set import SIZE, write_frame
from .teachers.analytic_networks import Matcher


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rendered")
    write_dataset(folder, 3, 4, SimulationConfig(SceneConfig(height=32, width=64, margin=16)), rig=True, workers=1)
    return folder


@pytest.fixture(scope="module")
def dpmv(tmp_path_factory):
    root = tmp_path_factory.mktemp("dpmv")
    for video, index in (("first", 2), ("second", 4)):
        write_frame(root, video, "image_000", 21, index)
    return root


def label(out, kind, root, *more):
    return main(["label", str(out), "--from", kind, str(root), "--workers", "1", *more])


def test_rendered_captures_are_labelled_and_the_set_resumed(rendered, tmp_path, capsys):
    config = tmp_path / "labels.yaml"
    config.write_text("check: third_view\nmin_views: 2\n")
    assert label(tmp_path / "out", "rendered", rendered, "--config", str(config), "--json") == 0
    out, err = capsys.readouterr()
    (shard,) = (tmp_path / "out").glob("shard_*.npz")
    told = {"folder": str(tmp_path / "out"), "shards": 1, "captures": 3, "empty": 0, "skipped": 0}
    assert json.loads(out) == told | {"bytes": shard.stat().st_size}
    assert "label: 3/3" in err
    assert read_provenance(shard)["config"]["min_views"] == 2
    written = shard.read_bytes()
    shard.unlink()
    assert label(tmp_path / "out", "rendered", rendered, "--config", str(config)) == 2
    assert "Pass --resume" in capsys.readouterr().err
    assert label(tmp_path / "out", "rendered", rendered, "--config", str(config), "--resume") == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out")
    assert shard.read_bytes() == written
    assert label(tmp_path / "out", "rendered", rendered, "--resume") == 2
    assert "config.min_views: expected 1, found 2" in capsys.readouterr().err


def test_dpmv_is_labelled_by_whole_videos(dpmv, tmp_path, capsys):
    config = tmp_path / "small.yaml"
    config.write_text("fit: {window_px: 15, least_points: 8}\n")
    names = set()
    for split in ("train", "held_out"):
        more = ("--size", "64x80", "--held-out", "0.5", "--split", split, "--config", str(config))
        assert label(tmp_path / split, "dpmv", dpmv, *more) == 0, capsys.readouterr().err
        (shard,) = (tmp_path / split).glob("shard_*.npz")
        assert read_shards([shard]).views.shape == (1, 2, 64, 80)
        names.update(read_provenance(shard)["source"]["videos"])
    assert names == {"first", "second"}
    options = tmp_path / "sgm.yaml"
    options.write_text("block: 7\n")
    more = ("--cameras", "A", "--teacher", "sgm", "--teacher-options", str(options))
    assert label(tmp_path / "one", "dpmv", dpmv, *more) == 0
    found = read_provenance(tmp_path / "one" / "shard_0000.npz")
    assert found["source"]["cameras"] == "A" and found["teacher"]["options"]["block"] == 7
    assert read_shards([tmp_path / "one" / "shard_0000.npz"]).views.shape == (2, 2, *SIZE)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--workers", "0"), "--workers: expected 1 or more, found 0"),
        (("--every", "0"), "--every: expected 1 or more"),
        (("--every", "2"), "--every: expected with --from dpmv only"),
        (("--held-out", "0.1"), "--held-out: expected with --from dpmv only"),
        (("--teacher", "raft"), "raft: no such teacher; known are"),
        (("--config", "{bad}"), "unknown field 'checks'"),
        (("--teacher-options", "{list}"), "expected a mapping of options, found list"),
    ],
)
def test_bad_input_exits_with_2_and_writes_nothing(rendered, tmp_path, capsys, more, message):
    (tmp_path / "bad.yaml").write_text("checks: none\n")
    (tmp_path / "list.yaml").write_text("[1]\n")
    files = {name: str(tmp_path / f"{name}.yaml") for name in ("bad", "list")}
    assert label(tmp_path / "out", "rendered", rendered, *(text.format(**files) for text in more)) == 2
    err = capsys.readouterr().err
    assert err.startswith("edge-dp: ") and message in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("kind", "more", "message"),
    [
        ("video", (), "--from: expected rendered or dpmv, found 'video'"),
        ("dpmv", ("--split", "held_out"), "expected --held-out SHARE with it"),
        ("dpmv", ("--cameras", "B"), "cameras: expected A, C or AC"),
        ("dpmv", ("--held-out", "1"), "expected at least 0 and below 1"),
        ("dpmv", ("--optics", "{optics}"), "baseline_m: expected a number above 0"),
        ("dpmv", ("--sensor", "pixel9"), "sensor 'pixel9'"),
        ("rendered", (), "dataset.json"),
    ],
)
def test_what_does_not_fit_a_source_is_said(dpmv, tmp_path, capsys, kind, more, message):
    (tmp_path / "optics.yaml").write_text("focal_px: 500.0\nbaseline_m: 0.0\nfocus_m: 1.0\n")
    texts = (text.format(optics=tmp_path / "optics.yaml") for text in more)
    assert label(tmp_path / "out", kind, dpmv, *texts) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_consent_to_a_licence_is_asked_of_adapters_and_of_no_other_teacher(rendered, tmp_path, capsys):
    network = tmp_path / "network.pt"
    torch.jit.script(Matcher("igev")).save(str(network))
    options = tmp_path / "teacher.yaml"
    terms = {"code_licence": "MIT", "weights_licence": "CC-BY-NC-4.0", "commercial": False, "preset": "igev"}
    options.write_text(json.dumps({"path": str(network), **terms}))
    chosen = ("--teacher", "torchscript", "--teacher-options", str(options))
    assert label(tmp_path / "out", "rendered", rendered, *chosen) == 2
    assert "forbid commercial use" in capsys.readouterr().err
    assert not list(tmp_path.glob("out/shard_*"))
    label(tmp_path / "out", "rendered", rendered, *chosen, "--accept-non-commercial")
    assert "forbid commercial use" not in capsys.readouterr().err
    assert label(tmp_path / "sgm", "rendered", rendered, "--accept-non-commercial") == 0
