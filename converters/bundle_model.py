"""The model that a bundle was exported from, made again from its checkpoint or network and the bundle's own table of ranges."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.fx import GraphModule

from edge_dp.bundle.manifest import Bundle
from edge_dp.converters.linear import KEPT
from edge_dp.converters.source import Network, network_of_checkpoint, network_of_module, weights_only
from edge_dp.errors import InputError
from edge_dp.models.checkpoint import read_checkpoint
from edge_dp.quantization.half_up import half_up
from edge_dp.quantization.qat import convert, observe_weights, prepare, restore_ranges, snap_biases
from edge_dp.quiet import quiet
from edge_dp.runtime.agent import torch_threads
from edge_dp.runtime.dataset_parity import Reference
from edge_dp.runtime.engines.base import Tensors
from edge_dp.sensors.profile import SensorProfile

Model = str | Path | nn.Module
"""Name or folder of a checkpoint, or a network with its weights."""


def network_of_bundle(bundle: Bundle, model: Model | None = None) -> Network:
    """The float network at the bundle's input size.

    Args:
        model: what the bundle was exported from; the checkpoint that the manifest names unless given.

    Raises:
        InputError: there is no such model, or it gives other outputs than the bundle's golden vectors have.
    """
    manifest = bundle.manifest
    model = manifest.model if model is None else model
    if isinstance(model, nn.Module):
        shapes = {spec.name: spec.shape for spec in manifest.inputs}
        network = network_of_module(model, shapes, [spec.name for spec in manifest.outputs], manifest.model)
    else:
        try:
            checkpoint = read_checkpoint(model)
        except InputError as error:
            raise InputError(
                f"{bundle.folder}: the model that it was exported from is needed to tell right from wrong: {error} "
                "Pass it with --model."
            ) from error
        sensor = manifest.sensor if manifest.field_corrected else None
        field = None if sensor is None else SensorProfile.from_dict(sensor, f"{bundle.folder}: sensor")
        height, width = manifest.inputs[0].shape[2:]
        network = network_of_checkpoint(checkpoint, height, width, field, manifest.keep_float == KEPT)
    _check_outputs(bundle, network)
    return network


def prepared_of_bundle(
    bundle: Bundle,
    network: Network,
    keep_float: Sequence[str] | None = None,
    int16: Sequence[str] | None = None,
    *,
    weights: bool = True,
) -> GraphModule:
    """The network fake-quantised with the bundle's own ranges, as it was when the bundle was exported.

    Args:
        keep_float, int16: paths of modules, as the network was exported with; those that the manifest names unless given.
        weights: whether they are int8.

    Raises:
        InputError: the bundle has no table of ranges.
        SchemaError: the table is of another graph.
    """
    manifest = bundle.manifest
    if not manifest.quantization:
        raise InputError(
            f"{bundle.folder}: expected a quantisation table, found none: the bundle was exported in float alone"
        )
    kept, wide = (
        [f"{network.prefix}{path}" for path in (stored if given is None else given)]
        for given, stored in ((keep_float, manifest.keep_float), (int16, manifest.int16))
    )
    with quiet(), torch.no_grad():
        prepared = prepare(network.module, network.example, keep_float=kept, int16=wide)
        restore_ranges(prepared, manifest.quantization)
        observe_weights(prepared)
        if weights:
            snap_biases(prepared)
    return prepared


def reference_of_bundle(bundle: Bundle, model: Model | None = None) -> Reference:
    """What the bundle's artifacts are compared with, for any inputs: the forms of the model that its golden outputs are of.

    Args:
        model: as of ``network_of_bundle``.

    Returns:
        Outputs of one of ``edge_dp.bundle.manifest.REFERENCES`` for some inputs, both float32 arrays by name. Of the quantised
        form, ties of bilinear resizes are rounded half up, as golden vectors have them.

    Raises:
        InputError: as of ``network_of_bundle``; calling it for a quantised form, the bundle has no table of ranges.
    """
    network = network_of_bundle(bundle, model)
    forms: dict[str, nn.Module] = {"float": network.module}
    names = [name for name, _ in network.signature.inputs], [name for name, _ in network.signature.outputs]

    def run(form: str, inputs: Sequence[Tensors]) -> list[Tensors]:
        if form not in forms:
            forms[form] = _quantised_form(bundle, network, form)
        outputs = []
        with torch.no_grad(), torch_threads(1):
            for tensors in inputs:
                results = forms[form](*(torch.from_numpy(np.ascontiguousarray(tensors[name])) for name in names[0]))
                outputs.append({name: result.numpy() for name, result in zip(names[1], results, strict=True)})
        return outputs

    return run


def _quantised_form(bundle: Bundle, network: Network, form: str) -> nn.Module:
    prepared = prepared_of_bundle(bundle, network)
    with quiet(), torch.no_grad():
        if form == "weights":
            return weights_only(convert(prepared, keep_clamps=True))
        return half_up(convert(prepared))


def _check_outputs(bundle: Bundle, network: Network) -> None:
    """Refuse a model that is not the bundle's: everything would be blamed."""
    case = bundle.manifest.golden[0]
    inputs = bundle.golden_inputs(case)
    with torch.no_grad():
        outputs = network.module(*(torch.from_numpy(np.array(array)) for array in inputs.values()))
    for (name, wanted), found in zip(bundle.golden_outputs(case, "float").items(), outputs, strict=True):
        if not np.allclose(found.numpy(), wanted, rtol=1e-3, atol=1e-3 * float(np.abs(wanted).max(initial=0.0))):
            raise InputError(
                f"{bundle.folder}: expected the model that it was exported from, found one with another {name} for golden case "
                f"{case.name}. Pass the right one with --model."
            )
