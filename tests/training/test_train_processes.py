"""Training as users start it: processes that are killed, that share a batch, and that have little installed."""

import dataclasses
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement
from safetensors.numpy import load_file

from edge_dp.config import from_mapping
from edge_dp.models.checkpoint import read_checkpoint
from edge_dp.training.recipe import Recipe

TINY = {
    "name": "tiny",
    "student": "dp_disparity_s",
    "seed": 3,
    "data": {
        "captures": 92,
        "held_out": 8,
        "simulation": {"scene": {"height": 32, "width": 64, "margin": 16, "disparity": [1.0, 3.0]}},
    },
    "float_stage": {"steps": 24, "batch": 4, "learning_rate": 0.003, "kernel_rate": 0.02, "ema": 0.9},
    "quantised_stage": {"steps": 8, "batch": 4, "learning_rate": 0.0005, "observe_steps": 4, "rounding_noise": 0.5},
    "log": {"every": 1, "pictures_every": 100},
    "save_every": 5,
}
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
TRAIN = (sys.executable, "-m", "edge_dp.cli", "train", "--workers", "1")


@pytest.fixture(scope="module")
def captures(tmp_path_factory):
    """The folder of shards that all these recipes share, made by a run that had no other work."""
    folder = tmp_path_factory.mktemp("captures")
    recipe = write_recipe(folder, float_stage={"steps": 1, "batch": 4, "learning_rate": 0.001}, quantised_stage=None)
    train(recipe, folder / "run")
    (shards,) = (folder / "run").glob("captures_*")
    return shards


def write_recipe(folder, **changes):
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY | changes))
    return path


def begin(folder, recipe, captures):
    """A run that was killed when its captures had been made."""
    settings = from_mapping(Recipe, yaml.safe_load(recipe.read_text()), "recipe")
    shutil.copytree(captures, folder / captures.name)
    (folder / "recipe.json").write_text(json.dumps(dataclasses.asdict(settings)))
    return folder


def train(recipe, folder, *arguments, command=TRAIN, environment=ENVIRONMENT, code=0):
    full = [*command, "--recipe", str(recipe), "--out", str(folder), *arguments]
    done = subprocess.run(full, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == code, done.stderr
    return done


def losses(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {(line["stage"], line["step"]): line["loss"] for line in lines}


def kill_at(stage, step, recipe, folder):
    """SIGKILL, as soon as the run has noted that step; it must not have ended."""
    command = [*TRAIN, "--recipe", str(recipe), "--out", str(folder), "--resume"]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wanted = re.compile(rf'"stage": "{stage}", "step": (\d+),')
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            assert process.poll() is None, "the run ended before it could be killed"
            log = folder / "log.jsonl"
            if log.is_file() and any(int(found) >= step for found in wanted.findall(log.read_text())):
                return
            time.sleep(0.005)
        pytest.fail("the step never came")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_run_that_is_killed_by_the_system_ends_in_the_same_bits(captures, tmp_path):
    recipe = write_recipe(tmp_path)
    whole, killed = (begin(tmp_path / name, recipe, captures) for name in ("whole", "killed"))
    summary = json.loads(train(recipe, whole, "--resume", "--json").stdout)
    kill_at("float", 7, recipe, killed)
    kill_at("quantised", 6, recipe, killed)
    assert not (killed / "checkpoint").exists()
    train(recipe, killed, "--resume")
    mine, its = read_checkpoint(killed / "checkpoint"), read_checkpoint(whole / "checkpoint")
    assert mine.ranges == its.ranges
    for name, array in its.weights.items():
        assert array.tobytes() == mine.weights[name].tobytes()
    assert losses(killed) == losses(whole) and len(losses(whole)) == 32

    assert summary["checkpoint"] == str(whole / "checkpoint")
    assert summary["metrics"] == its.training["metrics"]
    assert set(summary["data_wait_share"]) == {"float", "quantised"}


def two(recipe, folder, *arguments, **how):
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    return train(recipe, folder, *arguments, command=(*torchrun, "-m", "edge_dp.cli", *TRAIN[3:]), **how)


@pytest.fixture(scope="module")
def alone_and_together(captures, tmp_path_factory):
    """One recipe in double precision for 50 steps and then quantised, by one process and by two."""
    folder = tmp_path_factory.mktemp("two")
    stage = TINY["float_stage"] | {"steps": 50, "precision": "fp64", "blank_share": 0.1}
    recipe = write_recipe(folder, float_stage=stage, save_every=20)
    one, other = (begin(folder / name, recipe, captures) for name in ("one", "two"))
    train(recipe, one, "--resume")
    two(recipe, other, "--resume")
    return one, other


def test_two_processes_have_the_losses_of_one_for_50_steps(alone_and_together):
    """Batch-norm, masks and clipping all see the whole batch.

    In double: float32 differs by the order of additions, and Adam's first steps, which go by the sign of each gradient, make
    anything of that.
    """
    one, other = (losses(folder) for folder in alone_and_together)
    float_steps = [("float", step) for step in range(1, 51)]
    np.testing.assert_allclose(
        [other[key] for key in float_steps], [one[key] for key in float_steps], rtol=0, atol=1e-7
    )
    assert len({round(one[key], 3) for key in float_steps}) > 40  # something happened


def test_two_processes_end_with_the_weights_of_one(alone_and_together):
    one, other = (load_file(folder / "float.safetensors") for folder in alone_and_together)
    for name, value in one.items():
        if not name.startswith("random/"):
            np.testing.assert_allclose(other[name], value, rtol=0, atol=1e-7, err_msg=name)


def test_two_processes_observe_the_ranges_of_the_whole_batch(alone_and_together):
    """In float32, and while each fake-quantises by the range of its own part: nearly those of one process."""
    one, other = (read_checkpoint(folder / "checkpoint") for folder in alone_and_together)
    for mine, its in zip(other.ranges, one.ranges, strict=True):
        assert mine.tensor == its.tensor
        assert mine.scale == pytest.approx(its.scale, rel=0.05)
    assert other.training["machine"]["processes"] == 2


def test_run_of_two_processes_is_gone_on_with_by_one(alone_and_together, captures, tmp_path):
    """Its state says nothing of how many there were."""
    _, other = alone_and_together
    recipe = write_recipe(
        tmp_path, float_stage=json.loads((other / "recipe.json").read_text())["float_stage"], save_every=20
    )
    folder = tmp_path / "run"
    shutil.copytree(other, folder)
    (folder / "quantised.safetensors").unlink()
    shutil.rmtree(folder / "checkpoint")
    train(recipe, folder, "--resume")
    assert read_checkpoint(folder / "checkpoint").training["machine"]["processes"] == 1


def test_batch_that_cannot_be_shared_is_refused(captures, tmp_path):
    recipe = write_recipe(tmp_path, float_stage={"steps": 2, "batch": 3, "learning_rate": 0.001})
    done = two(recipe, tmp_path / "run", code=1)  # torchrun's own
    assert "batch: expected a multiple of the 2 processes, found 3" in done.stderr
    assert not (tmp_path / "run").exists()


def closure(*names):
    """Distributions that these need, without extras."""
    found, waiting = {}, list(names)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found:
            continue
        found[name] = importlib.metadata.distribution(name)
        requirements = map(Requirement, found[name].requires or [])
        waiting += [r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture(scope="module")
def lean(tmp_path_factory):
    """An environment with torch and edge_dp's own requirements alone, which are NumPy, OpenCV and readers of files."""
    site = tmp_path_factory.mktemp("site")
    for name, distribution in closure("torch", "edge-dp").items():
        for top in {
            file.parts[0] for file in distribution.files or [] if ".." not in file.parts and len(file.parts) > 1
        }:
            place = site / top
            if not place.exists() and top != "__pycache__":
                place.symlink_to(distribution.locate_file(top), target_is_directory=True)
        for file in distribution.files or []:
            if len(file.parts) == 1 and file.suffix in (".py", ".so"):
                (site / file.name).symlink_to(distribution.locate_file(file))
        assert name not in ("torchao", "executorch", "tensorboard", "scipy")
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "PYTHONNOUSERSITE": "1"}


LEAN_PYTHON = (sys.executable, "-S")


def test_everything_but_quantisation_converters_and_engines_imports_with_torch_numpy_and_opencv(lean):
    code = """
import importlib, importlib.util, pkgutil, edge_dp
for missing in ("torchao", "executorch", "onnx", "coremltools", "scipy", "h5py", "tensorboard", "lightning", "lightning_fabric"):
    assert importlib.util.find_spec(missing) is None, missing
apart = ("edge_dp.quantization", "edge_dp.converters", "edge_dp.runtime")
found = pkgutil.walk_packages(edge_dp.__path__, "edge_dp.", onerror=lambda name: None)  # it imports every package
names = [module.name for module in found if not module.name.startswith(apart) and not module.name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
print(len([name for name in names if name.startswith("edge_dp.training.")]), len(names))
"""
    elsewhere = Path(lean["PYTHONPATH"]).parent  # in a checkout, Python would find the sources there first
    done = subprocess.run(
        [*LEAN_PYTHON, "-c", code], env=lean, cwd=elsewhere, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    of_training, of_all = map(int, done.stdout.split())
    assert of_training >= 15 and of_all > 60


def test_float_stage_trains_with_torch_numpy_and_opencv(lean, captures, tmp_path):
    lean_train = (*LEAN_PYTHON, *TRAIN[1:])
    recipe = write_recipe(tmp_path)
    done = train(recipe, tmp_path / "all", command=lean_train, environment=lean, code=2)
    assert "edge-dp: quantised_stage needs torchao: pip install 'edge-dp[train]'" in done.stderr
    assert "Traceback" not in done.stderr

    recipe = write_recipe(tmp_path, float_stage=TINY["float_stage"] | {"steps": 3}, quantised_stage=None)
    folder = begin(tmp_path / "float", recipe, captures)
    done = train(recipe, folder, "--resume", command=lean_train, environment=lean)
    assert done.stderr.count("no TensorBoard logs: tensorboard is not installed") == 1
    assert len(losses(folder)) == 3
    assert read_checkpoint(Path(done.stdout.splitlines()[-1])).student == "dp_disparity_s"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--set", "float_stage.ema=2"],
            "tiny.yaml: float_stage: ema must be at least 0, which is off, and less than 1",
        ),
        (["--set", "float_stage.steps"], "float_stage.steps: expected key.path=value"),
        (["--workers", "0"], "--workers: expected at least 1, found 0"),
        (["other"], "expected one recipe, found other and --recipe"),
        (["--resume"], "nothing to resume"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, arguments, message):
    done = train(write_recipe(tmp_path), tmp_path / "run", *arguments, code=2)
    assert done.stderr.startswith("edge-dp: ") and message in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_gpu_that_is_not_there_is_said(tmp_path):
    done = train(
        write_recipe(tmp_path),
        tmp_path / "run",
        "--device",
        "cuda",
        code=2,
        environment=ENVIRONMENT | {"CUDA_VISIBLE_DEVICES": ""},
    )
    assert "device cuda: expected a GPU for each process" in done.stderr
