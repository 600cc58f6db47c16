"""The shipped bundle on other machines: an emulated arm64 phone, started twice, and a machine behind ssh."""

import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edge_dp.bundle.manifest import read_bundle
from edge_dp.runtime.emulator import CORES, find_machine, stop_machine
from edge_dp.runtime.finished import FOLDER
from edge_dp.runtime.latency import PRESETS
from edge_dp.runtime.plan import Plan
from edge_dp.runtime.validate import validate

from .sshd_here import SshdHere

CORE = "cortex-a76"
PHONE = f"emulated://{CORE}"
ONCE = replace(PRESETS["brief"], queries=1, warm_up=0)


@pytest.fixture(scope="module")
def copy(bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("on devices") / "bundle"
    shutil.copytree(bundle.folder, folder)
    return folder


@pytest.fixture(scope="module")
def first_boot(copy):
    return validate(read_bundle(copy), Plan(devices=(PHONE,)))


def test_the_shipped_bundle_passes_on_an_emulated_phone(first_boot):
    assert [(row.artifact, row.engine) for row in first_boot.rows] == [
        ("executorch-int8", "executorch-native"),
        ("executorch-fp32", "executorch-native"),
        ("tflite-int8", "litert"),
        ("tflite-fp32", "litert"),
    ]
    assert [(row.artifact, first_boot.missed(row)) for row in first_boot.rows if first_boot.missed(row)] == []
    assert first_boot.devices[PHONE]["machine"] == "aarch64"


@pytest.mark.slow
@pytest.mark.parametrize("core", [core for core in CORES if core != CORE])
def test_the_shipped_bundle_passes_on_every_emulated_core(copy, core):
    """Each has other instructions, and so other kernels; A53 has no dot product."""
    result = validate(read_bundle(copy), Plan(devices=(f"emulated://{core}",)))
    assert [(row.artifact, result.missed(row)) for row in result.rows if result.missed(row)] == []
    assert len(result.rows) == 4
    for row in result.rows:
        assert row.latency.instructions
        if row.precision == "int8":
            assert row.differs_from_host == {"disparity": 0, "confidence": 0}


def test_integers_are_the_hosts_bit_for_bit_and_running_again_changes_nothing(first_boot):
    for row in first_boot.rows:
        assert row.repeats_agree
        if row.precision == "int8":
            assert row.differs_from_host == {"disparity": 0, "confidence": 0}


def test_instructions_are_counted_and_called_that(first_boot):
    counts = {row.artifact: row.latency.instructions for row in first_boot.rows}
    assert {row.latency.kind for row in first_boot.rows} == {"instructions"}
    for family in ("executorch", "tflite"):
        assert 50e6 < counts[f"{family}-int8"] < 0.6 * counts[f"{family}-fp32"]


def test_a_phone_that_vanishes_leaves_what_is_finished_and_a_resumed_run_goes_on(copy, first_boot):
    """The second boot: stopped in mid-run, and the counts of what runs again are those of the first."""
    plan = Plan(artifacts=("executorch-int8", "executorch-fp32"), devices=(PHONE,))

    def stop_after_the_first(stage, done, total, text):
        if stage.startswith("compare") and done == 1 and total == 2 and find_machine(CORE):
            stop_machine(CORE)

    broken = validate(read_bundle(copy), plan, stop_after_the_first)
    assert [row.error is None for row in broken.rows] == [True, False]
    assert PHONE in broken.rows[1].error
    assert (copy / FOLDER).is_dir()
    whole = validate(read_bundle(copy), replace(plan, resume=True))
    assert whole.passed
    assert whole.rows[0] == broken.rows[0]
    assert not (copy / FOLDER).exists()
    counts = {row.artifact: row.latency.instructions for row in first_boot.rows}
    assert whole.rows[0].latency.instructions == pytest.approx(counts["executorch-int8"], rel=1e-6)
    assert whole.rows[1].latency.instructions == pytest.approx(counts["executorch-fp32"], rel=1e-6)


def test_engines_run_behind_ssh_and_each_is_compared_with_itself_on_the_host(copy, tmp_path, monkeypatch):
    """On this machine by way of the real sshd, with this Python. LiteRT's own kernels round otherwise than XNNPACK's."""
    machine = SshdHere(tmp_path, largest_file_kb=1 << 20, search=Path(sys.executable).parent)
    board = f"ssh://{machine.destination}"
    try:
        monkeypatch.setenv("EDGE_DP_SSH_OPTIONS", shlex.join(machine.options))
        engines = ("litert-builtin", "litert", "executorch", "executorch-native")
        plan = Plan(
            artifacts=("tflite-int8", "executorch-int8"), devices=("local", board), engines=engines, preset=ONCE
        )
        result = validate(read_bundle(copy), plan)
    finally:
        machine.close()
    there = [row for row in result.rows if row.device == board]
    assert sorted(row.engine for row in there) == sorted(engines)
    assert [result.missed(row) for row in result.rows] == [[]] * 8
    for row in there:
        assert row.differs_from_host == {"disparity": 0, "confidence": 0}
        assert row.latency.kind == "wall"
