"""A reference evaluator for MIL, the language inside a Core ML ``.mlpackage``.

It executes what a package says, op by op, from the formulas in the MIL specification, so that a package can be checked
where Core ML does not exist. It is a reference, not an emulation: it says nothing about the Neural Engine, the GPU or
Apple's CPU kernels, whose order of summation, rounding and fused ops are not public.

``program`` walks a program; the other modules hold one registered function per op, grouped by what the ops do.
"""

from edge_dp.runtime.engines.mil import (  # noqa: F401 - importing them registers their ops
    convolution,
    elementwise,
    functions,
    layout,
    logic,
    pooling,
    quantization,
    reduction,
    resampling,
)
from edge_dp.runtime.engines.mil.program import MilProgram, TensorType
from edge_dp.runtime.engines.mil.registry import OPS, mil_op

__all__ = ["OPS", "MilProgram", "TensorType", "mil_op"]
