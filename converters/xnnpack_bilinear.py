"""Lets ExecuTorch hand XNNPACK a bilinear upsampling between integers.

XNNPACK resizes int8 in integers, but executorch 1.5.1 offers it float32 only and so wraps every upsampling in two
conversions. Two small classes close the gap: one tells the partitioner that the operation may be quantised, one writes the
scale and zero point of its two tensors. Input and output must share them, as the portable quantiser sees to.
"""

from __future__ import annotations

from typing import Any

import torch
from executorch.backends.xnnpack.operators.node_visitor import NodeVisitor, register_node_visitor
from executorch.backends.xnnpack.operators.quant_params import QuantParams
from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
from executorch.backends.xnnpack.partition.config.generic_node_configs import UpsampleBilinear2dConfig
from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.serialization.xnnpack_graph_schema import XNNGraph, XNNStaticResizeBilinear2D, XNode
from executorch.backends.xnnpack.utils.utils import get_input_node
from executorch.backends.xnnpack.utils.xnnpack_constants import XNN_FLAG_ALIGN_CORNERS


class _IntegerUpsampling(UpsampleBilinear2dConfig):  # type: ignore[misc]  # executorch ships no types
    def supported_precision_types(self) -> list[ConfigPrecisionType]:
        return [ConfigPrecisionType.FP32, ConfigPrecisionType.STATIC_QUANT]


@register_node_visitor
class _UpsamplingVisitor(NodeVisitor):  # type: ignore[misc]
    """Takes the place of executorch's own visitor of the same operation."""

    target = "aten.upsample_bilinear2d.vec"

    def define_node(
        self, node: torch.fx.Node, xnn_graph: XNNGraph, vals_to_ids: dict[torch.fx.Node, int], debug_handle: int
    ) -> None:
        source = get_input_node(node, 0)
        before = QuantParams.from_inputs(source, self._exported_program)
        after = QuantParams.from_outputs(node)
        self.define_tensor(source, xnn_graph, vals_to_ids, convert_to_nhwc=True, quant_params=before)
        self.define_tensor(node, xnn_graph, vals_to_ids, convert_to_nhwc=True, quant_params=after)
        height, width = node.meta["val"].shape[-2:]
        resize = XNNStaticResizeBilinear2D(
            new_height=height,
            new_width=width,
            input_id=vals_to_ids[source],
            output_id=vals_to_ids[node],
            flags=XNN_FLAG_ALIGN_CORNERS if node.args[2] else 0,
        )
        xnn_graph.xnodes.append(XNode(xnode_union=resize, debug_handle=debug_handle))


def integer_partitioner() -> Any:
    """An XNNPACK partitioner for ``to_edge_transform_and_lower`` that takes quantised upsampling too."""
    configs = [
        _IntegerUpsampling if config is UpsampleBilinear2dConfig else config for config in ALL_PARTITIONER_CONFIGS
    ]
    return XnnpackPartitioner(configs=configs)
