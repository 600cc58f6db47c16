"""Core ML programs of one op, written to a package as they stand, and read back.

Tests take torch and coremltools from here, so that a machine without them skips with a reason.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if any(importlib.util.find_spec(module) is None for module in ("coremltools", "torch")):
    pytest.skip("needs the coreml extra", allow_module_level=True)

import torch
from torch.nn import functional as F  # noqa: N812

from edge_dp.quiet import quiet
from edge_dp.runtime.engines.coreml import read_program

__all__ = ["FP16", "FP32", "F", "Precision", "ct", "evaluate", "mb", "read_program", "sample", "save", "torch", "types"]

with quiet():
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb  # noqa: N813
    from coremltools.converters.mil.mil import types


@dataclass(frozen=True)
class Precision:
    """The float type of a whole program."""

    numpy: Any
    mil: Any

    def const(self, value: Any) -> Any:
        """A parameter as the program holds it: floats in its float type, anything else as it is."""
        floating = isinstance(value, float) or (isinstance(value, np.ndarray) and value.dtype.kind == "f")
        return np.asarray(value).astype(self.numpy)[()] if floating else value

    def exact(self, value: Any) -> Any:
        """The same parameter for the oracle: what the program holds, as float64."""
        held = self.const(value)
        return torch.tensor(np.asarray(held, np.float64)) if isinstance(held, np.floating | np.ndarray) else held

    def allowed_error(self, expected: np.ndarray) -> np.ndarray:
        """1e-6 of the range for float32; for float16 half a step between halves besides."""
        error = np.full(expected.shape, 1e-6 * max(1.0, np.abs(expected).max()))
        return error + np.spacing(np.abs(expected).astype(np.float16)) / 2 if self.numpy is np.float16 else error


FP32 = Precision(np.float32, types.fp32)
FP16 = Precision(np.float16, types.fp16)


def save(folder: Path, shape: tuple[int, ...], build: Any, precision: Precision = FP32, target: Any = None) -> Path:
    """A package whose program is ``out = build(x)``, exactly as written: no pass of the converter runs."""
    target = target or ct.target.iOS17
    with quiet():

        @mb.program(input_specs=[mb.TensorSpec(shape, dtype=precision.mil)], opset_version=target)
        def program(x):
            return mb.identity(x=build(x), name="out")

        model = ct.convert(
            program,
            source="milinternal",
            convert_to="mlprogram",
            minimum_deployment_target=target,
            pass_pipeline=ct.PassPipeline.EMPTY,
            skip_model_load=True,
        )
        package = folder / "case.mlpackage"
        model.save(str(package))
    return package


def evaluate(folder: Path, x: Any, build: Any, precision: Precision = FP32, target: Any = None) -> Any:
    """``build(x)``, written to a package in ``folder``, read back and evaluated."""
    x = np.asarray(x, dtype=np.float32)
    return read_program(save(folder, x.shape, build, precision, target)).run({"x": x})["out"]


def sample(*shape: int, low: float = -2.0, seed: int = 0) -> Any:
    return np.random.default_rng(seed).uniform(low, 2.0, shape).astype(np.float32)
