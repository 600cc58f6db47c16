"""Export: one checkpoint to one bundle with an artifact for every format and precision."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch.fx import GraphModule
from torch.utils.flop_counter import FlopCounterMode

from edge_dp._version import VERSION
from edge_dp.bundle.golden import golden_views
from edge_dp.bundle.manifest import (
    MANIFEST,
    SCHEMA,
    Artifact,
    Bundle,
    GoldenCase,
    Manifest,
    Preprocessing,
    TensorSpec,
    hash_tree,
    read_bundle,
    write_manifest,
)
from edge_dp.converters.base import Source
from edge_dp.converters.preflight import check_weights
from edge_dp.converters.registry import CONVERTERS, make_converter
from edge_dp.errors import InputError
from edge_dp.files import atomic_folder
from edge_dp.models.checkpoint import Checkpoint, read_checkpoint
from edge_dp.models.confidence import B_MAX, B_MIN
from edge_dp.quantization.qat import convert, observe_weights, prepare, restore_ranges, snap_biases
from edge_dp.quiet import quiet
from edge_dp.runtime.engines.base import Signature

Progress = Callable[[str, int, int], None]
"""Called with what is being done, steps done and steps in all."""

_DISPARITY = "left(x) = right(x + d), x along the dual-pixel axis; d in px of the input, positive is farther than the focus plane"
_CONFIDENCE = f"expected absolute error of the disparity = {B_MAX} * ({B_MIN} / {B_MAX}) ** confidence px of the input"
_TOOLS = (
    "torch",
    "torchao",
    "executorch",
    "litert-torch",
    "ai-edge-litert",
    "coremltools",
    "onnx",
    "onnxruntime",
    "numpy",
)


def export(
    checkpoint: str | Path | Checkpoint,
    out: str | Path,
    *,
    formats: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    progress: Progress = lambda *_: None,
) -> Bundle:
    """Write the bundle of a trained student.

    All integer artifacts come from the checkpoint's one quantisation: the same weights, the same activation ranges.

    Args:
        checkpoint: name of a shipped one, folder, or one in memory.
        out: the bundle's folder; an older bundle there is replaced once the new one is complete, anything else refused.
        formats: any of ``converters.registry.CONVERTERS``; all unless given.
        precisions: only these of each format's precisions; all unless given.
        size: height and width of the input; the checkpoint's own unless given.
        progress: see ``Progress``.

    Returns:
        The bundle as read back from disk.

    Raises:
        InputError, SchemaError, ChecksumError: the checkpoint, a format, precision or size is wrong.
        MissingExtraError: a format's toolchain is not installed.
        ExportError: an artifact could not be made, does not run, or is not integer where it promises to be. ``out`` is then
            untouched.
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = read_checkpoint(checkpoint)
    plan = _plan(formats, precisions)
    converters = {name: make_converter(name) for name, _ in plan}
    height, width = size or checkpoint.input_size
    total = len(plan) + 2
    progress("prepare", 0, total)
    source = prepare_source(checkpoint, height, width)
    views = golden_views(height, width, checkpoint.exposure)
    with atomic_folder(Path(out), marker=MANIFEST) as folder:
        progress("golden vectors", 1, total)
        golden = _write_golden(source, views, folder)
        artifacts: list[Artifact] = []
        probe = {source.input_names[0]: next(iter(views.values()))}
        for index, (name, precision) in enumerate(plan):
            progress(f"{name} {precision}", 2 + index, total)
            artifacts.append(converters[name].convert(source, precision, folder, probe))
        write_manifest(_manifest(checkpoint, source, artifacts, golden), folder)
    progress("done", total, total)
    return read_bundle(out)


def _plan(formats: Sequence[str] | None, precisions: Sequence[str] | None) -> list[tuple[str, str]]:
    """Format and precision of each artifact to write."""
    chosen = list(formats or CONVERTERS)
    if unknown := [name for name in chosen if name not in CONVERTERS]:
        raise InputError(f"{unknown[0]}: no such format; known are {', '.join(CONVERTERS)}")
    known = {precision for name in chosen for precision in CONVERTERS[name].precisions}
    if unknown := sorted(set(precisions or ()) - known):
        raise InputError(f"{unknown[0]}: no such precision; {', '.join(chosen)} have {', '.join(sorted(known))}")
    return [(name, p) for name in chosen for p in CONVERTERS[name].precisions if not precisions or p in precisions]


def prepare_source(checkpoint: Checkpoint, height: int, width: int) -> Source:
    """The checkpoint's network at one input size, in the forms that converters need.

    Raises:
        InputError: the size, or weights and quantisation that do not fit the student.
        ExportError: weights that are not finite.
    """
    module = checkpoint.build()
    check_weights(module)
    shape = (1, 2, height, width)
    module.check_input_shape(shape)
    with quiet(), torch.no_grad():
        prepared = prepare(module, shape)
        restore_ranges(prepared, checkpoint.ranges)
        observe_weights(prepared, shape)
        snap_biases(prepared)
        folded, unfolded = convert(prepared), convert(prepared, fold=False)
        outputs = dict(zip(("disparity", "confidence"), module(torch.zeros(shape)), strict=True))
    shapes = tuple((name, tuple(value.shape)) for name, value in outputs.items())
    return Source(checkpoint.student, module, folded, unfolded, Signature((("views", shape),), shapes))


def _write_golden(source: Source, views: dict[str, np.ndarray], folder: Path) -> list[GoldenCase]:
    references = {"float": source.module, "quantised": source.folded}
    cases = []
    for name, array in views.items():
        place = folder / "golden" / name
        place.mkdir(parents=True)
        np.save(place / "views.npy", array)
        outputs: dict[str, dict[str, str]] = {}
        for reference, module in references.items():
            with torch.no_grad():
                results = module(torch.from_numpy(array))
            outputs[reference] = {}
            for tensor, result in zip(source.output_names, results, strict=True):
                np.save(place / f"{tensor}.{reference}.npy", result.numpy())
                outputs[reference][tensor] = f"golden/{name}/{tensor}.{reference}.npy"
        cases.append(GoldenCase(name, {"views": f"golden/{name}/views.npy"}, outputs, hash_tree(place, folder)))
    return cases


def _manifest(
    checkpoint: Checkpoint,
    source: Source,
    artifacts: list[Artifact],
    golden: list[GoldenCase],
) -> Manifest:
    ranges = {entry.tensor: entry for entry in checkpoint.ranges}
    shapes = dict(source.signature.outputs)
    by_output = _output_ranges(source.folded, source.output_names)
    outputs = []
    for name, unit in (("disparity", "px of the input"), ("confidence", "code")):
        entry = ranges[by_output[name]]
        outputs.append(TensorSpec(name, shapes[name], "NCHW", unit, (name,), entry.scale, entry.zero_point))
    first = checkpoint.ranges[0]
    views = TensorSpec(
        "views",
        source.signature.inputs[0][1],
        "NCHW",
        "linear light, [0, 1]",
        ("left", "right"),
        first.scale,
        first.zero_point,
    )
    return Manifest(
        schema=SCHEMA,
        model=source.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        parameters=sum(parameter.numel() for parameter in source.module.parameters()),
        multiply_adds=_multiply_adds(source),
        inputs=(views,),
        outputs=tuple(outputs),
        disparity_convention=_DISPARITY,
        confidence_convention=_CONFIDENCE,
        preprocessing=Preprocessing(exposure=checkpoint.exposure),
        artifacts=tuple(artifacts),
        golden=tuple(golden),
        quantization=checkpoint.ranges,
        training=json.loads(json.dumps(checkpoint.training)),
        versions={"edge-dp": VERSION, **{tool: version for tool in _TOOLS if (version := _version(tool))}},
        host={"machine": platform.machine(), "system": platform.system(), "python": platform.python_version()},
    )


def _multiply_adds(source: Source) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        source.module(*source.example)
    return counter.get_total_flops() // 2


def _output_ranges(converted: GraphModule, names: list[str]) -> dict[str, str]:
    """Which activation each output is: its dequantise node's quantise node's input."""
    (returned,) = next(node for node in converted.graph.nodes if node.op == "output").args
    return {name: node.args[0].args[0].name for name, node in zip(names, returned, strict=True)}


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
