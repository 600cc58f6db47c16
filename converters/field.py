"""A student that corrects its disparity for the field of one sensor, inside the artifact."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule

from edge_dp.data.images import field_strength
from edge_dp.errors import InputError
from edge_dp.models.confidence import LOG_RATIO
from edge_dp.quantization.qat import activations, set_output_ranges
from edge_dp.quantization.ranges import ActivationRange
from edge_dp.sensors.profile import SensorProfile


class FieldCorrected(nn.Module):
    """d / s(x, y) of a student's disparity d, and the confidence of that: the error that it promises, divided by s too.

    Args:
        student: gives disparity and confidence, (1, 1, h, w) each.
        strength: (h, w), s, as of ``edge_dp.data.images.field_strength``.
    """

    def __init__(self, student: nn.Module, strength: NDArray[np.float32]) -> None:
        super().__init__()
        self.student = student
        self.gain: Tensor
        self.shift: Tensor
        gain = 1 / torch.from_numpy(np.array(strength, np.float64))
        self.register_buffer("gain", gain.float()[None, None])
        # The confidence is affine in the log of the expected error.
        self.register_buffer("shift", (gain.log() / LOG_RATIO).float()[None, None])

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """(1, 2, H, W) views -> disparity and confidence, (1, 1, h, w) each."""
        disparity, confidence = self.student(views)
        return disparity * self.gain, confidence + self.shift


def field_corrected(student: nn.Module, sensor: SensorProfile, shape: Sequence[int]) -> FieldCorrected:
    """The student with the field of ``sensor`` corrected.

    Args:
        shape: of its input, (1, 2, H, W).

    Raises:
        InputError: the profile does not say how the sensor's strength varies.
    """
    with torch.no_grad():
        disparity, _ = student(torch.zeros(tuple(shape)))
    strength = field_strength(sensor, *disparity.shape[2:])
    if strength is None:
        raise InputError(
            f"sensor {sensor.name}: expected a profile with an alpha_field, found none: how its strength varies over the field "
            "is not known. Fit it with 'edge-dp sensors fit', or leave the field uncorrected."
        )
    return FieldCorrected(student, strength)


def with_corrected_outputs(
    prepared: GraphModule, ranges: Sequence[ActivationRange], network: FieldCorrected
) -> tuple[ActivationRange, ...]:
    """The student's own ranges, and those of the corrected outputs: whatever it can tell still fits in.

    Args:
        prepared: ``network``, fake-quantised; gets the outputs' ranges.
        ranges: of the student.
    """
    (outputs,) = next(node for node in prepared.graph.nodes if node.op == "output").args
    corrected = [output.args[0] for output in outputs]
    read = [next(value for value in node.all_input_nodes if value.args[0].op != "get_attr") for node in corrected]
    table = {entry.tensor: entry for entry in ranges}
    ends = [
        tuple(entry.scale * (level - entry.zero_point) for level in (-128, 127))
        for entry in (table[value.args[0].name] for value in read)
    ]
    (low, high), (least, most) = ends
    steepest = float(network.gain.max())
    shifts = float(network.shift.min()), float(network.shift.max())
    set_output_ranges(prepared, [(steepest * low, steepest * high), (least + shifts[0], most + shifts[1])])
    names = {node.name for node in corrected}
    added = (ActivationRange(t, float(fq.scale), int(fq.zero_point)) for t, fq in activations(prepared) if t in names)
    return (*ranges, *added)
