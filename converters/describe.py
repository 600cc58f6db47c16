"""What a bundle says of its network: the manifest, before any artifact is written."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import torch
from torch.fx import Node
from torch.utils.flop_counter import FlopCounterMode

from edge_dp._version import VERSION
from edge_dp.bundle.card import Card
from edge_dp.bundle.manifest import SCHEMA, Artifact, GoldenCase, Manifest, Preprocessing, TensorSpec
from edge_dp.converters.base import QuantisedGraphs
from edge_dp.converters.calibration import Calibration
from edge_dp.converters.linear import LinearInput, kept_paths
from edge_dp.converters.source import Network
from edge_dp.models.checkpoint import Checkpoint
from edge_dp.models.confidence import B_MAX, B_MIN
from edge_dp.preprocessing import TRANSFERS
from edge_dp.quantization.ranges import ActivationRange
from edge_dp.sensors.profile import SensorProfile

_DISPARITY = "left(x) = right(x + d), x along the dual-pixel axis; d in px of the input, positive is farther than the focus plane"
_CORRECTED = "corrected for the field: as a lens equally strong all over that"
_CONFIDENCE = f"expected absolute error of the disparity = {B_MAX} * ({B_MIN} / {B_MAX}) ** confidence px of the input"
_LICENCE = "Apache-2.0"
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
_LAYOUTS = {4: "NCHW", 3: "NCL", 2: "NC"}


@dataclass(frozen=True)
class Description:
    """A manifest without artifacts and golden vectors."""

    draft: Manifest

    @property
    def card(self) -> str:
        """What artifacts carry in their metadata."""
        return Card.of(self.draft).text()

    def manifest(self, artifacts: Sequence[Artifact], golden: Sequence[GoldenCase]) -> Manifest:
        """The whole manifest."""
        return replace(self.draft, artifacts=tuple(artifacts), golden=tuple(golden))


def describe_checkpoint(
    network: Network,
    graphs: QuantisedGraphs,
    checkpoint: Checkpoint,
    sensor: SensorProfile | None = None,
    *,
    field_corrected: bool = False,
) -> Description:
    """Of a dual-pixel student, for any sensor or for one, whose field it corrects or leaves."""
    into, out = _border_ranges(network, graphs)
    (name, shape), training = network.signature.inputs[0], checkpoint.training
    is_linear = isinstance(network.module, LinearInput)
    views = TensorSpec(
        name,
        shape,
        "NCHW",
        TRANSFERS["linear" if is_linear else checkpoint.exposure.transfer],
        ("left", "right"),
        *_step(into[name]),
        value_range=(0.0, 1.0),
    )
    of_field = f"; {_CORRECTED} of {sensor.name} would show it" if field_corrected and sensor else ""
    meanings = {"disparity": ("px of the input", _DISPARITY + of_field), "confidence": ("", _CONFIDENCE)}
    outputs = tuple(
        TensorSpec(key, size, "NCHW", meanings[key][0], (key,), *_step(out[key]), meaning=meanings[key][1])
        for key, size in network.signature.outputs
    )
    exposure = checkpoint.exposure
    preprocessing = Preprocessing.for_sensor(exposure, sensor) if sensor else Preprocessing(exposure)
    preprocessing = preprocessing.without_exposure() if is_linear else replace(preprocessing, dither=views.scale)
    licences = {"code": _LICENCE} | {
        what: str(training[f"{what}_licence"])
        for what in ("data", "teacher", "weights")
        if f"{what}_licence" in training
    }
    return _description(
        network,
        graphs,
        inputs=(views,),
        outputs=outputs,
        preprocessing=preprocessing,
        sensor=sensor.to_dict() if sensor else None,
        field_corrected=field_corrected,
        keep_float=kept_paths(network.module),
        metrics=dict(training.get("metrics", {})),
        licences=licences,
        training=json.loads(json.dumps(training)),
    )


def describe_network(
    network: Network,
    graphs: QuantisedGraphs | None,
    calibration: Calibration,
    keep_float: Sequence[str] = (),
    int16: Sequence[str] = (),
) -> Description:
    """Of anyone's network: what can be known from its tensors; ``keep_float`` and ``int16`` as of ``export``."""
    into, out = _border_ranges(network, graphs)
    known = calibration.ranges if calibration.batches else {}
    inputs = tuple(
        TensorSpec(key, shape, _LAYOUTS.get(len(shape), ""), "", (), *_step(into[key]), value_range=known.get(key))
        for key, shape in network.signature.inputs
    )
    outputs = tuple(
        TensorSpec(key, shape, _LAYOUTS.get(len(shape), ""), "", (), *_step(out[key]))
        for key, shape in network.signature.outputs
    )
    paths = {"keep_float": tuple(keep_float), "int16": tuple(int16)} if graphs else {}
    return _description(network, graphs, inputs=inputs, outputs=outputs, **paths)


def _description(network: Network, graphs: QuantisedGraphs | None, **fields: Any) -> Description:
    return Description(
        Manifest(
            schema=SCHEMA,
            model=network.name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            parameters=sum(parameter.numel() for parameter in network.module.parameters()),
            multiply_adds=multiply_adds(network),
            artifacts=(),
            golden=(),
            quantization=graphs.ranges if graphs else (),
            versions={"edge-dp": VERSION, **{tool: version for tool in _TOOLS if (version := _version(tool))}},
            host={"machine": platform.machine(), "system": platform.system(), "python": platform.python_version()},
            **fields,
        )
    )


def _border_ranges(
    network: Network, graphs: QuantisedGraphs | None
) -> tuple[dict[str, ActivationRange | None], dict[str, ActivationRange | None]]:
    """Quantisation of each input and output by name; null where it stays in float."""
    inputs: dict[str, ActivationRange | None] = dict.fromkeys(name for name, _ in network.signature.inputs)
    outputs: dict[str, ActivationRange | None] = dict.fromkeys(name for name, _ in network.signature.outputs)
    if graphs is None:
        return inputs, outputs
    nodes = graphs.folded.graph.nodes
    places = [node for node in nodes if node.op == "placeholder"]
    for name, node in zip(inputs, places, strict=True):
        users = [user for user in node.users if "quantize_per_tensor" in str(user.target)]
        inputs[name] = _range(users[0]) if users else None
    (returned,) = next(node for node in nodes if node.op == "output").args
    for name, node in zip(outputs, returned, strict=True):
        outputs[name] = _range(node) if "dequantize_per_tensor" in str(node.target) else None
    return inputs, outputs


def _range(node: Node) -> ActivationRange:
    """Of a quantise or dequantise node, whose arguments after the tensor are scale and zero point."""
    scale, zero_point = node.args[1:3]
    assert isinstance(scale, float) and isinstance(zero_point, int)
    return ActivationRange(node.name, scale, zero_point)


def _step(entry: ActivationRange | None) -> tuple[float | None, int | None]:
    return (entry.scale, entry.zero_point) if entry else (None, None)


def multiply_adds(network: Network) -> int:
    """Of one inference, as torch counts them."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.module(*network.example)
    return counter.get_total_flops() // 2


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
