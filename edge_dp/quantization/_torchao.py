"""What edge_dp uses of torchao's PT2E base, imported in silence: torchao complains of every GPU library it cannot load."""

from __future__ import annotations

from edge_dp.errors import MissingExtraError
from edge_dp.quiet import quiet

try:
    with quiet():
        from torchao.quantization.pt2e import (
            FakeQuantize,
            FakeQuantizeBase,
            FixedQParamsFakeQuantize,
            FusedMovingAvgObsFakeQuantize,
            MovingAverageMinMaxObserver,
            MovingAveragePerChannelMinMaxObserver,
        )
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_qat_pt2e
        from torchao.quantization.pt2e.quantizer import (
            FixedQParamsQuantizationSpec,
            QuantizationAnnotation,
            QuantizationSpec,
            Quantizer,
            SharedQuantizationSpec,
        )
except ModuleNotFoundError as error:
    raise MissingExtraError(f"quantisation needs {error.name}: pip install 'edge-dp[train]'") from error

__all__ = [
    "FakeQuantize",
    "FakeQuantizeBase",
    "FixedQParamsFakeQuantize",
    "FixedQParamsQuantizationSpec",
    "FusedMovingAvgObsFakeQuantize",
    "MovingAverageMinMaxObserver",
    "MovingAveragePerChannelMinMaxObserver",
    "QuantizationAnnotation",
    "QuantizationSpec",
    "Quantizer",
    "SharedQuantizationSpec",
    "convert_pt2e",
    "prepare_qat_pt2e",
]
