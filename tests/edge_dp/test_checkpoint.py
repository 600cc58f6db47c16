import dataclasses
import hashlib
import json
import struct

import numpy as np
import pytest
import torch
import yaml
from scipy.ndimage import gaussian_filter

from edge_dp.errors import ChecksumError, InputError, SchemaError
from edge_dp.models.card import model_card
from edge_dp.models.checkpoint import Checkpoint, read_checkpoint, shipped_checkpoints, write_checkpoint
from edge_dp.models.registry import STUDENTS, build_student, student_entry
from edge_dp.preprocessing import ExposureNormalisation, dither
from edge_dp.quantization.qat import convert, observe_weights, prepare, read_ranges, restore_ranges
from edge_dp.quantization.ranges import ActivationRange
from edge_dp.simulation.capture import SimulationConfig, simulate_capture
from edge_dp.simulation.scenes import SceneConfig
from edge_dp.simulation.sensor import DAYLIGHT

FILES = {"config.yaml", "weights.safetensors", "quantization.json", "training.json", "card.md"}
STUDENT = next(iter(STUDENTS))
TRAINING = {
    "data": "noise",
    "data_licence": "none",
    "teacher": "none",
    "teacher_licence": "none",
    "metrics": {"epe": 0.25},
}


def make_checkpoint(seed=0):
    torch.manual_seed(seed)
    student = build_student(STUDENT)
    student.fold_batch_norm()
    rng = np.random.default_rng(seed)
    ranges = tuple(ActivationRange(f"relu_{i}", float(np.float16(rng.uniform())), i - 128) for i in range(4))
    return Checkpoint(
        student=STUDENT,
        input_size=(96, 128),
        weights={name: tensor.numpy().copy() for name, tensor in student.state_dict().items()},
        ranges=ranges,
        exposure=ExposureNormalisation(target_mean=0.25, max_gain=100.0),
        training=TRAINING | {"seed": seed},
    )


@pytest.fixture
def checkpoint():
    return make_checkpoint()


@pytest.fixture
def folder(checkpoint, tmp_path):
    return write_checkpoint(checkpoint, tmp_path / "student")


def assert_same(found, expected):
    for field in ("student", "input_size", "ranges", "exposure", "training"):
        assert getattr(found, field) == getattr(expected, field)
    assert set(found.weights) == set(expected.weights)
    for name, array in expected.weights.items():
        assert found.weights[name].dtype == np.float32
        np.testing.assert_array_equal(found.weights[name], array)


def correct_checksum(folder, name):
    """What someone who edits a file on purpose would do as well."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def edit_config(folder, **changes):
    config = yaml.safe_load((folder / "config.yaml").read_text()) | changes
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def test_what_is_written_is_read_back_exactly(checkpoint, folder):
    assert_same(read_checkpoint(folder), checkpoint)
    assert_same(read_checkpoint(str(folder)), checkpoint)


def test_weights_lie_in_the_file_as_safetensors_defines_it(checkpoint, folder):
    """Eight bytes of header length, a JSON header, then raw little-endian float32: read here without the library."""
    data = (folder / "weights.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    assert set(header) == set(checkpoint.weights)
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        assert entry["dtype"] == "F32"
        array = np.frombuffer(data[begin:end], "<f4").reshape(entry["shape"])
        np.testing.assert_array_equal(array, checkpoint.weights[name])


def test_weights_in_any_memory_order_are_written_by_value(checkpoint, tmp_path):
    weights = {name: np.asfortranarray(array) for name, array in checkpoint.weights.items()}
    written = write_checkpoint(dataclasses.replace(checkpoint, weights=weights), tmp_path / "fortran")
    assert_same(read_checkpoint(written), checkpoint)


def test_folder_holds_four_readable_files_and_no_pickle(folder):
    assert {path.name for path in folder.iterdir()} == FILES
    for name in ("quantization.json", "training.json"):
        json.loads((folder / name).read_text(encoding="utf-8"))
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    for name in ("weights.safetensors", "quantization.json"):
        assert config["sha256"][name] == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert config["student"] == STUDENT


def test_built_student_computes_what_the_weights_say(checkpoint, folder):
    built = read_checkpoint(folder).build()
    assert not built.training
    torch.manual_seed(0)
    original = build_student(STUDENT)
    original.fold_batch_norm()
    original.eval()
    views = torch.rand(1, 2, 64, 64)
    with torch.no_grad():
        for a, b in zip(built(views), original(views), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_weights_of_another_network_are_refused(checkpoint, change):
    weights = dict(checkpoint.weights)
    name = "disparity.weight"
    if change == "missing":
        del weights[name]
    elif change == "unexpected":
        weights["other.weight"] = weights[name]
    else:
        weights[name] = weights[name][:, :-1]
    with pytest.raises(InputError, match=f"weights do not fit {STUDENT}: "):
        dataclasses.replace(checkpoint, weights=weights).build()


@pytest.mark.parametrize("position", [0, 100, -1])
def test_flipped_byte_in_the_weights_is_found_and_the_file_named(folder, position):
    path = folder / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(ChecksumError, match=r"student/weights\.safetensors: checksum [0-9a-f]{12} is not the"):
        read_checkpoint(folder)


def test_edited_quantisation_is_found_and_the_file_named(folder):
    path = folder / "quantization.json"
    table = json.loads(path.read_text())
    table["activations"][1]["zero_point"] += 1
    path.write_text(json.dumps(table))
    with pytest.raises(ChecksumError, match=r"student/quantization\.json: checksum"):
        read_checkpoint(folder)


@pytest.mark.parametrize("name", ["weights.safetensors", "quantization.json"])
def test_config_without_a_checksum_is_refused(folder, name):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    del config["sha256"][name]
    edit_config(folder, sha256=config["sha256"])
    with pytest.raises(ChecksumError, match=name):
        read_checkpoint(folder)


@pytest.mark.parametrize("keep", [0, 4, 200, -4])
def test_truncated_weights_are_refused_even_with_a_matching_checksum(folder, keep):
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    correct_checksum(folder, path.name)
    with pytest.raises(InputError, match=r"weights\.safetensors: not safetensors"):
        read_checkpoint(folder)


def test_newer_schema_says_what_to_upgrade(folder):
    edit_config(folder, schema=3, something_new={"a": 1})
    with pytest.raises(SchemaError, match=r"config\.yaml: schema 3 is newer .*upgrade edge-dp"):
        read_checkpoint(folder)


def test_fields_of_a_newer_minor_version_are_passed_over(checkpoint, folder):
    edit_config(folder, something_new=1)
    assert_same(read_checkpoint(folder), checkpoint)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": "1"}, "schema: expected int"),
        ({"student": 3}, "student: expected str"),
        ({"input_size": [96]}, "input_size: expected 2 values, found 1"),
        ({"exposure": {"target_mean": "bright"}}, "exposure: target_mean: expected float"),
        ({"sha256": None}, "sha256: expected a mapping"),
    ],
)
def test_wrong_field_of_the_config_is_named(folder, changes, message):
    edit_config(folder, **changes)
    with pytest.raises(SchemaError, match=rf"config\.yaml: {message}"):
        read_checkpoint(folder)


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2\n", "", "\x00", "!!python/object/apply:os.getcwd []"])
def test_config_that_is_no_mapping_in_yaml_is_refused(folder, text):
    (folder / "config.yaml").write_text(text)
    with pytest.raises(SchemaError, match=r"config\.yaml"):
        read_checkpoint(folder)


def test_wrong_row_of_the_quantisation_is_named(folder):
    path = folder / "quantization.json"
    table = json.loads(path.read_text())
    table["activations"][2]["scale"] = "large"
    path.write_text(json.dumps(table))
    correct_checksum(folder, path.name)
    with pytest.raises(SchemaError, match=r"quantization\.json: activations\[2\]: scale: expected float"):
        read_checkpoint(folder)


@pytest.mark.parametrize("name", sorted(FILES - {"config.yaml", "card.md"}))
def test_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(InputError, match=name):
        read_checkpoint(folder)


def test_unknown_name_lists_the_shipped_checkpoints(tmp_path):
    shipped = ", ".join(shipped_checkpoints()) or "none"
    for place in ("no_such_student", tmp_path):
        with pytest.raises(InputError, match=f"no checkpoint there .*shipped: {shipped}"):
            read_checkpoint(place)


def test_failure_while_writing_leaves_the_old_checkpoint_whole(checkpoint, folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    newer = make_checkpoint(seed=1)
    broken = dataclasses.replace(newer, training=TRAINING | {"metrics": {"epe": float("nan")}})
    with pytest.raises(InputError, match="NaN"):
        write_checkpoint(broken, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert_same(read_checkpoint(folder), checkpoint)
    assert [path.name for path in folder.parent.iterdir()] == ["student"]  # nothing half-written beside it
    write_checkpoint(newer, folder)
    assert_same(read_checkpoint(folder), newer)


def test_folder_that_holds_something_else_is_not_replaced(checkpoint, tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match="found other files"):
        write_checkpoint(checkpoint, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


@pytest.mark.parametrize("table", [{"schema": 1, "activations": None}, {"schema": 1, "activations": 3}, {"schema": 3}])
def test_quantisation_without_a_list_of_activations_or_of_a_newer_schema_is_refused(folder, table):
    (folder / "quantization.json").write_text(json.dumps(table))
    correct_checksum(folder, "quantization.json")
    with pytest.raises(SchemaError, match=r"quantization\.json"):
        read_checkpoint(folder)


@pytest.fixture(params=shipped_checkpoints())
def shipped(request):
    return request.param


def test_shipped_checkpoint_is_small_and_holds_no_pickle(shipped):
    files = list(shipped_checkpoints()[shipped].iterdir())
    assert {path.name for path in files} == FILES
    assert sum(path.stat().st_size for path in files) < 5_000_000


def test_shipped_checkpoint_builds_a_student_within_its_budget(shipped):
    checkpoint = read_checkpoint(shipped)
    entry = student_entry(checkpoint.student)
    student = checkpoint.build()
    student.check_input_shape((1, 2, *checkpoint.input_size))
    assert sum(parameter.numel() for parameter in student.parameters()) <= entry.parameters
    assert all(np.isfinite(array).all() for array in checkpoint.weights.values())


def test_shipped_student_sees_disparity_and_its_int8_graph_sees_the_same(shipped):
    """Simulated captures of another seed than any recipe's: much better than no network, and quantisation costs little.

    The control with one eye sees no disparity, and is to show just that.
    """
    checkpoint = read_checkpoint(shipped)
    is_blind = student_entry(checkpoint.student).monocular
    student = checkpoint.build()
    shape = (1, 2, 96, 128)
    prepared = prepare(student, (torch.zeros(shape),))
    restore_ranges(prepared, checkpoint.ranges)
    observe_weights(prepared)
    captures = [simulate_capture(987_654, i, SimulationConfig(SceneConfig(height=96, width=128))) for i in range(8)]
    views = torch.from_numpy(np.stack([checkpoint.exposure(capture.views[:, 0]) for capture in captures]))
    truth = np.stack([capture.disparity.reshape(48, 2, 64, 2).mean(axis=(1, 3)) for capture in captures])
    with torch.no_grad():
        exact, quantised = (module(views)[0].numpy()[:, 0] for module in (student, convert(prepared)))
    without = np.abs(truth - np.median(truth)).mean()
    for error in (np.abs(exact - truth).mean() / without, np.abs(quantised - truth).mean() / without):
        assert 0.7 < error < 1.1 if is_blind else error < 0.55
    assert np.abs(exact - quantised).mean() < (0.25 if is_blind else 0.15)


def test_dither_keeps_borders_between_levels_from_looking_like_disparity():
    """Captures out of focus all over and hardly noisy: the network in float, and rounded with and without the dither."""
    checkpoint = read_checkpoint("dp_disparity_s")
    student = checkpoint.build()
    prepared = prepare(student, (torch.zeros(1, 2, 192, 256),))
    restore_ranges(prepared, checkpoint.ranges)
    scene = SceneConfig(height=192, width=256, margin=40, disparity=(-1.5, 1.5))
    captures = [simulate_capture(99, i, SimulationConfig(scene, sensor=DAYLIGHT)).views[:, 0] for i in range(12)]
    views = [gaussian_filter(checkpoint.exposure(capture), (0, 3, 3))[None] for capture in captures]
    noise = dither(192, 256, checkpoint.ranges[0].scale)

    def px_from_float(added):
        return np.mean(
            [
                float((prepared(torch.from_numpy(view + added))[0] - student(torch.from_numpy(view))[0]).abs().mean())
                for view in views
            ]
        )

    with torch.no_grad():
        assert px_from_float(noise) < 0.06
        assert px_from_float(np.float32(0.0)) > 0.2


def test_ranges_of_a_shipped_checkpoint_are_those_of_the_graph_in_its_order(shipped):
    """Ranges go by the names of activations, which an exported graph numbers: operations that change place lose them."""
    checkpoint = read_checkpoint(shipped)
    prepared = prepare(checkpoint.build(), (torch.zeros(1, 2, 96, 128),))
    restore_ranges(prepared, checkpoint.ranges)
    assert tuple(read_ranges(prepared)) == checkpoint.ranges


def test_shipped_checkpoint_names_teacher_data_and_their_licences(shipped):
    training = read_checkpoint(shipped).training
    for key in ("data", "data_licence", "teacher", "teacher_licence"):
        assert isinstance(training[key], str) and training[key].strip()


def test_shipped_checkpoint_states_its_held_out_error_for_each_precision(shipped):
    checkpoint = read_checkpoint(shipped)
    metrics = checkpoint.training["metrics"]
    assert 0 < metrics["held_out_epe_px_float"] < (1.5 if student_entry(checkpoint.student).monocular else 1)
    assert 0 < metrics["held_out_epe_px_quantised"] < 1.5 * metrics["held_out_epe_px_float"] + 0.02


def test_shipped_model_card_is_made_of_its_checkpoint(shipped):
    card = (shipped_checkpoints()[shipped] / "card.md").read_text(encoding="utf-8")
    assert card == model_card(read_checkpoint(shipped))


def test_model_card_names_size_teacher_licences_metrics_and_limits(checkpoint):
    training = TRAINING | {"teacher": "sgm", "teacher_licence": "Apache-2.0", "limits": ["no fog", "a|b"]}
    card = model_card(dataclasses.replace(checkpoint, training=training))
    parameters = sum(array.size for array in checkpoint.weights.values())
    for row in (f"| Parameters | {parameters:,} |", "| Teacher | sgm |", "| Licence of the teacher | Apache-2.0 |"):
        assert row in card
    assert "| epe | 0.25 |" in card and "- no fog\n" in card
    assert "not stated" in model_card(checkpoint)
