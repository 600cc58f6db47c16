"""A bundle made by hand: two inputs, two outputs, a file and a package as artifacts, three golden cases."""

import copy
import json
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from edge_dp.bundle.manifest import (
    MANIFEST,
    Artifact,
    GoldenCase,
    Kernels,
    Manifest,
    Preprocessing,
    TensorSpec,
    hash_tree,
    write_manifest,
)
from edge_dp.preprocessing import ExposureNormalisation
from edge_dp.quantization.ranges import ActivationRange
from edge_dp.sensors import load_sensor

INPUTS = (
    TensorSpec("views", (1, 2, 4, 6), "NCHW", "linear light", ("left", "right"), 2**-8, -128, value_range=(0.0, 1.0)),
    TensorSpec("focus", (1, 3), "NC", "dioptres"),
)
OUTPUTS = (
    TensorSpec("disparity", (1, 1, 2, 3), "NCHW", "px", ("disparity",), 0.25, 3, meaning="left(x) = right(x + d)"),
    TensorSpec("score", (1,)),
)
TENSORS = {spec.name: spec for spec in (*INPUTS, *OUTPUTS)}
REFERENCES = ("float", "weights", "quantised")


def write_bundle(folder, **changes):
    """Write the bundle into ``folder``, with some fields of its manifest replaced; the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "net.int8.tflite").write_bytes(b"artifact")
    (folder / "net.fp16.mlpackage/Data").mkdir(parents=True)
    (folder / "net.fp16.mlpackage/Manifest.json").write_text("{}")
    (folder / "net.fp16.mlpackage/Data/weight.bin").write_bytes(b"weights")
    artifacts = (
        _artifact(
            folder, "tflite-int8", "quantised", "net.int8.tflite", Kernels({"CONV_2D": 3}, {}, {"SOFTMAX": 0.25})
        ),
        _artifact(folder, "coreml-fp16", "float", "net.fp16.mlpackage", Kernels({}, {"conv": 3})),
    )
    sensor = load_sensor("pixel4")
    manifest = Manifest(
        schema=1,
        model="net",
        created="2024-01-01T00:00:00+00:00",
        parameters=1234,
        multiply_adds=5678,
        inputs=INPUTS,
        outputs=OUTPUTS,
        preprocessing=Preprocessing.for_sensor(ExposureNormalisation(), sensor),
        sensor=json.loads(json.dumps(sensor.to_dict())),
        artifacts=artifacts,
        golden=tuple(_golden(folder, kind, seed) for seed, kind in enumerate(("typical", "extreme", "random"))),
        quantization=(ActivationRange("views", 2**-8, -128), ActivationRange("relu", 0.25, 3)),
        metrics={"epe_px": 0.25},
        licences={"code": "Apache-2.0", "weights": "CC0-1.0", "data": "CC0-1.0", "teacher": "none"},
        training={"teacher": "none", "seed": 7},
        versions={"edge-dp": "0.1.0"},
        host={"machine": "x86_64"},
    )
    manifest = replace(manifest, **changes)
    write_manifest(manifest, folder)
    return manifest


def edit(folder, change):
    """Apply ``change`` to the JSON of the manifest."""
    data = json.loads((folder / MANIFEST).read_text())
    change(data)
    (folder / MANIFEST).write_text(json.dumps(data))


def rewrite_array(folder, case, tensor, array, of="inputs"):
    """Replace a golden array and its checksum, as a careless exporter would have written it."""
    entry = json.loads((folder / MANIFEST).read_text())["golden"][case]
    file = entry["inputs"][tensor] if of == "inputs" else {**entry["outputs"], **entry["artifacts"]}[of][tensor]
    np.save(folder / file, array)
    digest = hash_tree(folder / file, folder)[file]
    edit(folder, lambda data: data["golden"][case]["files"].update({file: digest}))
    return file


# Values for mutations: of every JSON type, among them what breaks arithmetic, terminals, paths and files.
_VALUES = st.sampled_from(
    [
        None,
        True,
        0,
        -1,
        2**70,
        1e308,
        float("nan"),
        "",
        "a\nb",
        "\ud800",
        "../x",
        "/",
        ".",
        "\0",
        "x" * 300,
        [],
        [[]],
        {},
        {"": 0},
        {"name": []},
        [1, "a"],
        "float",
        [0.0, 1.0],
        {"a": {"b": "golden/typical/views.npy"}},
    ]
)


@st.composite
def mutated(draw, original):
    """``original`` with one to three values replaced, removed, doubled or renamed, anywhere."""
    data = copy.deepcopy(original)
    for _ in range(draw(st.integers(1, 3))):
        place = data
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and place[key] and draw(st.booleans()):
                place = place[key]
                continue
            action = draw(st.sampled_from(["replace", "remove", "rename", "double"]))
            value = place[key] if action == "double" else place.pop(key)
            if action == "remove":
                break
            if action == "replace":
                value = draw(_VALUES)
            if isinstance(place, dict):
                place[draw(st.sampled_from(["", "other", "a/../.."])) if action in ("rename", "double") else key] = (
                    value
                )
            else:
                place.insert(key, value)
            break
    return data


def _artifact(folder, name, reference, path, kernels):
    files = hash_tree(folder / path, folder)
    size = sum((folder / file).stat().st_size for file in files)
    form, _, precision = name.partition("-")
    return Artifact(name, form, precision, reference, path, size, files, kernels, {"float_io": False})


def _golden(folder, kind, seed):
    place = folder / "golden" / kind
    place.mkdir(parents=True)
    rng = np.random.default_rng(seed)

    def save(name, what=""):
        path = place / f"{name}{what}.npy"
        np.save(path, rng.random(TENSORS[name].shape, np.float32))
        return path.relative_to(folder).as_posix()

    inputs = {spec.name: save(spec.name) for spec in INPUTS}
    outputs = {r: {spec.name: save(spec.name, f".{r}") for spec in OUTPUTS} for r in REFERENCES}
    artifacts = {"tflite-int8": {spec.name: save(spec.name, ".tflite-int8") for spec in OUTPUTS}}
    return GoldenCase(kind, inputs, outputs, hash_tree(place, folder), kind, artifacts)
