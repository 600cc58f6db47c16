"""Lets ExecuTorch hand XNNPACK in integers what executorch 1.5.1 would wrap in conversions to float, or leave outside.

XNNPACK's own kernels take int8 for more operations than executorch offers: three small means close the gap.

- A partitioner config says that an operation may be quantised (sigmoid, pad, bilinear upsampling), and that the constants of
  arithmetic belong into the payload.
- A node visitor writes the scale and zero point of an operation's tensors where executorch's own leaves them out.
- A node visitor writes an operation that XNNPACK lacks as several that it has, all of them moves of bytes: nearest upsampling
  by whole factors, slices with a step.

Data movement needs one quantisation on both sides, as the portable quantiser sees to.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from executorch.backends.xnnpack._passes.channels_last_tagged_reshape_pass import ChannelsLastTaggedReshapePass
from executorch.backends.xnnpack.operators.node_visitor import NodeVisitor, get_tensor_value, register_node_visitor
from executorch.backends.xnnpack.operators.quant_params import QuantParams
from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
from executorch.backends.xnnpack.partition.config import generic_node_configs as generic
from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.serialization import xnnpack_graph_schema as schema
from executorch.backends.xnnpack.utils.utils import PERM_NHWC_TO_NCHW, get_input_node, is_param_node
from executorch.backends.xnnpack.utils.xnnpack_constants import XNN_FLAG_ALIGN_CORNERS, XNN_INVALID_VALUE_ID
from executorch.exir.backend.utils import is_shape_dynamic
from executorch.exir.dialects._ops import ops as exir_ops

from edge_dp.quantization.graph import argument

_LARGEST_CONCATENATION = 5
"""Inputs that one concatenation of executorch's schema takes."""

ChannelsLastTaggedReshapePass.memory_sensitive_ops_nhwc.add(exir_ops.edge.aten.upsample_nearest2d.vec)


# ---- what may be quantised ------------------------------------------------------------------------------------------------


class _Integer(generic.GenericNodePartitionerConfig):  # type: ignore[misc]  # executorch ships no types
    """Mixed into a config of executorch: the operation may be quantised too."""

    def supported_precision_types(self) -> list[ConfigPrecisionType]:
        return [ConfigPrecisionType.FP32, ConfigPrecisionType.STATIC_QUANT]


class _Upsampling(_Integer, generic.UpsampleBilinear2dConfig):  # type: ignore[misc]
    pass


class _Padding(_Integer, generic.ConstantPadConfig):  # type: ignore[misc]
    pass


class _Sigmoid(_Integer, generic.SigmoidConfig):  # type: ignore[misc]
    pass


class _Slice(_Integer, generic.SliceCopyConfig):  # type: ignore[misc]
    """With any step, where executorch takes 1 only."""

    def check_constraints(self, node: torch.fx.Node, ep: Any) -> bool:
        return self.check_common_constraints(node, ep) and not is_shape_dynamic(node)


class _NearestUpsampling(_Integer):
    """By whole factors."""

    target_name = "upsample_nearest2d.vec"

    def check_constraints(self, node: torch.fx.Node, ep: Any) -> bool:
        if not self.check_common_constraints(node, ep) or is_shape_dynamic(node):
            return False
        return all(_steps(factor) is not None for factor in _factors(node))

    def get_original_aten(self) -> Any:
        return torch.ops.aten.upsample_nearest2d.vec


class _Arithmetic(generic.GenericNodePartitionerConfig):  # type: ignore[misc]
    """Mixed into a config of executorch: constants go into the payload, where executorch would pass them in at every run."""

    def get_node_and_deps(self, node: torch.fx.Node, ep: Any) -> list[torch.fx.Node]:
        taken = super().get_node_and_deps(node, ep)
        read = [source for user in taken for source in user.all_input_nodes]
        return [*taken, *(source for source in read if is_param_node(ep, source))]


class _Addition(_Arithmetic, generic.AddConfig):  # type: ignore[misc]
    pass


class _Subtraction(_Arithmetic, generic.SubConfig):  # type: ignore[misc]
    pass


class _Multiplication(_Arithmetic, generic.MulConfig):  # type: ignore[misc]
    pass


_OURS = {
    generic.AddConfig: _Addition,
    generic.SubConfig: _Subtraction,
    generic.MulConfig: _Multiplication,
    generic.UpsampleBilinear2dConfig: _Upsampling,
    generic.ConstantPadConfig: _Padding,
    generic.SigmoidConfig: _Sigmoid,
    generic.SliceCopyConfig: _Slice,
}


def integer_partitioner() -> Any:
    """An XNNPACK partitioner for ``to_edge_transform_and_lower`` that takes every operation of the portable set in integers."""
    configs = [_OURS.get(config, config) for config in ALL_PARTITIONER_CONFIGS]
    return XnnpackPartitioner(configs=[*configs, _NearestUpsampling])


# ---- how it is written ----------------------------------------------------------------------------------------------------


class _Visitor(NodeVisitor):  # type: ignore[misc]
    """Writes one operation as several, each of which moves bytes."""

    def _border(
        self, node: torch.fx.Node, graph: schema.XNNGraph, ids: dict[torch.fx.Node, int], channels_last: bool = False
    ) -> tuple[int, int]:
        """Define the input and the output of ``node`` with their quantisation; their ids."""
        source = get_input_node(node, 0)
        before, after = QuantParams.from_inputs(source, self._exported_program), QuantParams.from_outputs(node)
        self.define_tensor(source, graph, ids, convert_to_nhwc=channels_last, quant_params=before)
        self.define_tensor(node, graph, ids, convert_to_nhwc=channels_last, quant_params=after)
        return ids[source], ids[node]

    @staticmethod
    def _dims(graph: schema.XNNGraph, value: int) -> list[int]:
        return list(get_tensor_value(graph.xvalues[value]).dims)

    @staticmethod
    def _between(graph: schema.XNNGraph, like: int, dims: list[int]) -> int:
        """A value inside the graph with the type and quantisation of ``like``."""
        union, inside = graph.xvalues[like].xvalue_union, len(graph.xvalues)
        tensor = replace(
            get_tensor_value(graph.xvalues[like]),
            num_dims=len(dims),
            dims=dims,
            external_id=XNN_INVALID_VALUE_ID,
            constant_buffer_idx=0,
            flags=0,
            id_out=inside,
        )
        if isinstance(union, schema.XNNQuantizedTensorValue):
            graph.xvalues.append(schema.XValue(replace(union, tensor_value=tensor)))
        else:
            graph.xvalues.append(schema.XValue(tensor))
        return inside

    def _reshape(
        self, graph: schema.XNNGraph, source: int, dims: list[int], handle: int, into: int | None = None
    ) -> int:
        result = self._between(graph, source, dims) if into is None else into
        node = schema.XNNStaticReshape(num_dims=len(dims), new_shape=dims, input_id=source, output_id=result, flags=0)
        graph.xnodes.append(schema.XNode(node, handle))
        return result


@register_node_visitor
class _UpsamplingVisitor(_Visitor):
    """As executorch's own, with the quantisation of both tensors."""

    target = "aten.upsample_bilinear2d.vec"

    def define_node(
        self, node: torch.fx.Node, xnn_graph: schema.XNNGraph, vals_to_ids: dict[torch.fx.Node, int], debug_handle: int
    ) -> None:
        source, result = self._border(node, xnn_graph, vals_to_ids, channels_last=True)
        height, width = node.meta["val"].shape[-2:]
        resize = schema.XNNStaticResizeBilinear2D(
            new_height=height,
            new_width=width,
            input_id=source,
            output_id=result,
            flags=XNN_FLAG_ALIGN_CORNERS if node.args[2] else 0,
        )
        xnn_graph.xnodes.append(schema.XNode(resize, debug_handle))


@register_node_visitor
class _NearestUpsamplingVisitor(_Visitor):
    """Each row and column repeated: (..., n, inner) -> (..., n, 1, inner), concatenated with itself -> (..., n f, inner)."""

    target = "aten.upsample_nearest2d.vec"

    def define_node(
        self, node: torch.fx.Node, xnn_graph: schema.XNNGraph, vals_to_ids: dict[torch.fx.Node, int], debug_handle: int
    ) -> None:
        value, result = self._border(node, xnn_graph, vals_to_ids, channels_last=True)
        batch, height, width, channels = self._dims(xnn_graph, value)
        rows, columns = (_steps(factor) or [] for factor in _factors(node))
        for count, axis in [(count, 2) for count in columns] + [(count, 1) for count in rows]:
            apart = [batch, height, width, 1, channels] if axis == 2 else [batch, height, 1, width, channels]
            source = self._reshape(xnn_graph, value, apart, debug_handle)
            repeated = [count if index == axis + 1 else size for index, size in enumerate(apart)]
            value = self._between(xnn_graph, source, repeated)
            xnn_graph.xnodes.append(schema.XNode(_concatenation(axis + 1, [source] * count, value), debug_handle))
            height, width = (height, width * count) if axis == 2 else (height * count, width)
            value = self._reshape(xnn_graph, value, [batch, height, width, channels], debug_handle)
        self._reshape(xnn_graph, value, [batch, height, width, channels], debug_handle, into=result)


@register_node_visitor
class _SliceVisitor(_Visitor):
    """With a step: n step elements from ``start`` on, as n rows of ``step``, of which the first column stays."""

    target = "aten.slice_copy.Tensor"

    def define_node(
        self, node: torch.fx.Node, xnn_graph: schema.XNNGraph, vals_to_ids: dict[torch.fx.Node, int], debug_handle: int
    ) -> None:
        value, result = self._border(node, xnn_graph, vals_to_ids)
        dims, wanted = self._dims(xnn_graph, value), self._dims(xnn_graph, result)
        axis = argument(node, 1, 0) % len(dims)
        size = get_input_node(node, 0).meta["val"].shape[axis]
        start, _, step = slice(argument(node, 2), argument(node, 3), argument(node, 4, 1)).indices(size)
        if "XNN_NHWC_NODE" in node.meta:
            axis = PERM_NHWC_TO_NCHW[axis]
        if step == 1:
            return self._slice(xnn_graph, value, axis, start, wanted, debug_handle, result)
        count = wanted[axis]
        if (lacking := start + count * step - size) > 0:
            value = self._pad_end(xnn_graph, value, axis, lacking, debug_handle)
        whole = [count * step if index == axis else extent for index, extent in enumerate(dims)]
        inside = self._between(xnn_graph, value, whole)
        self._slice(xnn_graph, value, axis, start, whole, debug_handle, inside)
        apart = [*dims[:axis], count, step, *dims[axis + 1 :]]
        inside = self._reshape(xnn_graph, inside, apart, debug_handle)
        first = [*dims[:axis], count, 1, *dims[axis + 1 :]]
        kept = self._between(xnn_graph, inside, first)
        self._slice(xnn_graph, inside, axis + 1, 0, first, debug_handle, kept)
        self._reshape(xnn_graph, kept, wanted, debug_handle, into=result)
        return None

    @staticmethod
    def _slice(
        graph: schema.XNNGraph, source: int, axis: int, start: int, sizes: list[int], handle: int, into: int
    ) -> None:
        node = schema.XNNStaticSlice(
            num_dims=len(sizes),
            offsets=[start if index == axis else 0 for index in range(len(sizes))],
            sizes=sizes,
            input_id=source,
            output_id=into,
            flags=0,
        )
        graph.xnodes.append(schema.XNode(node, handle))

    def _pad_end(self, graph: schema.XNNGraph, source: int, axis: int, amount: int, handle: int) -> int:
        """Elements that a step skips, so that every row of a slice with a step is whole."""
        dims = self._dims(graph, source)
        after = [amount if index == axis else 0 for index in range(len(dims))]
        result = self._between(graph, source, [size + more for size, more in zip(dims, after, strict=True)])
        node = schema.XNNStaticConstantPad(
            pre_paddings=[0] * len(dims),
            post_paddings=after,
            padding_value=0.0,
            input_id=source,
            output_id=result,
            flags=0,
        )
        graph.xnodes.append(schema.XNode(node, handle))
        return result


def _concatenation(axis: int, inputs: list[int], output: int) -> Any:
    kind = getattr(schema, f"XNNConcatenate{len(inputs)}")
    ids = inputs + [XNN_INVALID_VALUE_ID] * (_LARGEST_CONCATENATION - len(inputs))
    named = {f"input{index}_id": value for index, value in enumerate(ids, 1)}
    return kind(axis=axis, output_id=output, flags=0, **named)


def _factors(node: torch.fx.Node) -> list[int]:
    """Of rows and columns; 0 where it is no whole number."""
    before, after = get_input_node(node, 0).meta["val"].shape[-2:], node.meta["val"].shape[-2:]
    return [large // small if large % small == 0 else 0 for small, large in zip(before, after, strict=True)]


def _steps(factor: int) -> list[int] | None:
    """``factor`` as a product of numbers that one concatenation takes; None where there is no such product."""
    steps: list[int] = []
    for count in range(_LARGEST_CONCATENATION, 1, -1):
        while factor > 0 and factor % count == 0:
            steps.append(count)
            factor //= count
    return steps if factor == 1 else None
