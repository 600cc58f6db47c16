"""Blame of one artifact of a bundle."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from edge_dp.bundle.manifest import Artifact, Bundle, GoldenCase
from edge_dp.converters.blame.reference import LayerGraph
from edge_dp.converters.blame.search import Search, Seen, Tolerance
from edge_dp.converters.bundle_model import Model, network_of_bundle, prepared_of_bundle
from edge_dp.errors import EdgeDpError, InputError, MissingExtraError, SchemaError
from edge_dp.quiet import quiet
from edge_dp.runtime.blame import Blame
from edge_dp.runtime.cell import signature
from edge_dp.runtime.engines import engine_named, make_engine


@dataclass(frozen=True, slots=True)
class Tapping:
    """How the inside of a format is shown.

    tap: module whose function ``tap`` rewrites an artifact. engine: runs the result.
    """

    tap: str
    engine: str


TAPPINGS = {
    "executorch": Tapping("edge_dp.converters.blame.executorch", "executorch"),
    "tflite": Tapping("edge_dp.converters.blame.tflite", "litert"),
    "onnx": Tapping("edge_dp.converters.blame.onnx", "onnxruntime"),
    "coreml": Tapping("edge_dp.converters.blame.coreml", "coreml-reference"),
}
"""By format. Core ML itself gives no integers."""

TOLERANCES = {
    "int8": Tolerance(1.5),  # engines round apart by a step
    "w8a8": Tolerance(1.5),
    "w8a16": Tolerance(1.0, 2**-8),  # a few roundings to half
    "int16x8": Tolerance(1.0, 2**-8),
    "fp16": Tolerance(1.0, 2**-8),
    "fp32": Tolerance(0.02, 1e-5),
}
"""By precision: what ``Search`` takes for rounding, in steps of int8."""


def blame(
    bundle: Bundle,
    artifact: str,
    *,
    model: Model | None = None,
    keep_float: Sequence[str] | None = None,
    int16: Sequence[str] | None = None,
    case: str | None = None,
    isolated: bool = True,
) -> Blame:
    """Find the first layer at which an artifact leaves the converted graph.

    Args:
        artifact: its name in the bundle.
        model: what the bundle was exported from: name or folder of a checkpoint, or the network itself with its weights. The
            checkpoint that the manifest names unless given.
        keep_float, int16: paths of modules, as the network was exported with; those that the manifest names unless given.
        case: golden case to run; the first typical one unless given.
        isolated: run the rewritten artifact in a worker process, which a damaged one may crash.

    Raises:
        InputError: no such artifact or case, no model, or one that gives other outputs than the bundle's.
        EngineError, ExportError, SchemaError: the artifact cannot be read or run, or shows nothing of its inside.
    """
    chosen = bundle.manifest.artifact(artifact)
    if chosen.format not in TAPPINGS or chosen.precision not in TOLERANCES:
        known = f"a format of {', '.join(TAPPINGS)} and a precision of {', '.join(TOLERANCES)}"
        raise InputError(f"{artifact}: expected {known}, found {chosen.format} and {chosen.precision}")
    golden = _case(bundle, case)
    bundle.check_files({**golden.files, **chosen.files})
    graph = reference_graph(bundle, model, keep_float, int16, weights=chosen.reference != "float")
    return _search(bundle, chosen, golden, graph, isolated)


def reference_graph(
    bundle: Bundle,
    model: Model | None = None,
    keep_float: Sequence[str] | None = None,
    int16: Sequence[str] | None = None,
    *,
    weights: bool = True,
) -> LayerGraph:
    """The converted graph of a bundle, from its model and its table of ranges.

    Args:
        weights: whether they are int8.

    Raises:
        InputError: as in ``blame``, or the bundle has no table.
    """
    network = network_of_bundle(bundle, model)
    prepared = prepared_of_bundle(bundle, network, keep_float, int16, weights=weights)
    inputs, outputs = ([name for name, _ in side] for side in (network.signature.inputs, network.signature.outputs))
    return LayerGraph(prepared, weights=weights, prefix=network.prefix, inputs=inputs, outputs=outputs)


def _case(bundle: Bundle, name: str | None) -> GoldenCase:
    cases = bundle.manifest.golden
    if not cases:
        raise InputError(f"{bundle.folder}: the bundle has no golden vectors to compare with")
    if name is None:
        return next((case for case in cases if case.kind == "typical"), cases[0])
    for case in cases:
        if case.name == name:
            return case
    raise InputError(f"{name}: no such golden case; the bundle has {', '.join(case.name for case in cases)}")


def _search(bundle: Bundle, artifact: Artifact, case: GoldenCase, graph: LayerGraph, isolated: bool) -> Blame:
    tapping = TAPPINGS[artifact.format]
    source, inputs = bundle.path(artifact.path), bundle.golden_inputs(case)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / source.name
        with _in_words(source), quiet():
            tapped = import_module(tapping.tap).tap(source, path, signature(bundle))
        entry = engine_named(tapping.engine)
        with make_engine(entry, path, tapped.signature, isolated=isolated) as engine:
            found = engine.infer(inputs)
    seen = [Seen(tap, tap.codes(found[tap.output])) for tap in tapped.taps]
    integers = artifact.reference == "quantised"
    return Search(graph, integers, inputs, found, seen, TOLERANCES[artifact.precision]).blame()


@contextlib.contextmanager
def _in_words(artifact: Path) -> Iterator[None]:
    """Whatever a reader of the format makes of a damaged artifact becomes an error that names it."""
    try:
        yield
    except EdgeDpError:
        raise
    except ImportError as error:
        raise MissingExtraError(f"{artifact}: {error}. pip install 'edge-dp[all]'") from error
    except Exception as error:  # readers raise anything
        words = " ".join(str(error).split())[:300] or type(error).__name__
        raise SchemaError(f"{artifact}: expected an artifact that can be read, found: {words}") from error
