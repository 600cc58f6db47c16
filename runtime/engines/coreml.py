"""Core ML packages: by Apple's runtime on macOS, and by the reference evaluator everywhere."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_dp.errors import EngineError, MissingExtraError
from edge_dp.quiet import quiet
from edge_dp.runtime.engines.base import Engine, Signature, Tensors
from edge_dp.runtime.engines.torch_threads import torch_threads

if TYPE_CHECKING:
    from edge_dp.runtime.engines.mil import MilProgram, TensorType

MODEL = Path("Data/com.apple.CoreML/model.mlmodel")
"""The program within a package."""

METADATA_OF_TOOL = "com.github.apple.coremltools"
"""What the keys of coremltools' own metadata begin with."""

COMPUTE_UNITS = ("ALL", "CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE")


class CoreMLEngine(Engine):
    """Runs a ``.mlpackage`` with Apple's Core ML. macOS only.

    Core ML chooses its own threads: ``threads`` has no effect.

    Args:
        artifact: the ``.mlpackage`` folder.
        signature: names and shapes of the inputs and outputs.
        threads: see above.
        compute_units: which processors Core ML may use, one of ``COMPUTE_UNITS``. Results differ between them.
    """

    name = "coreml"

    def __init__(self, artifact: Path, signature: Signature, threads: int = 1, compute_units: str = "ALL") -> None:
        super().__init__(artifact, signature, threads)
        if compute_units not in COMPUTE_UNITS:
            raise EngineError(f"{artifact}: expected compute units {', '.join(COMPUTE_UNITS)}, found {compute_units!r}")
        self.compute_units = compute_units
        self._model: Any = None

    def _activate(self) -> None:
        if platform.system() != "Darwin":
            raise EngineError(f"{self.artifact}: Core ML exists on macOS only; use the engine coreml-reference here")
        with quiet():
            ct = _coremltools()
            self._model = ct.models.MLModel(str(self.artifact), compute_units=ct.ComputeUnit[self.compute_units])

    def _infer(self, inputs: Tensors) -> list[NDArray[np.float32]]:
        outputs = self._model.predict(dict(inputs))
        return [np.array(outputs[name], dtype=np.float32) for name, _ in self.signature.outputs]

    def _deactivate(self) -> None:
        self._model = None


class CoreMLReferenceEngine(Engine):
    """Reads a ``.mlpackage`` back from disk and evaluates its MIL program, on any machine.

    A reference: it shows that the package says what the model meant, in the arithmetic described at ``MilProgram``. It
    says nothing about the Neural Engine, nor about how fast or how exactly an iPhone runs the package.

    ``activate`` raises EngineError, naming the package, where a file is missing or damaged, an op has no reference, or
    inputs and outputs are not those of the signature.
    """

    name = "coreml-reference"

    def __init__(self, artifact: Path, signature: Signature, threads: int = 1) -> None:
        super().__init__(artifact, signature, threads)
        self._program: MilProgram | None = None

    def _activate(self) -> None:
        program = read_program(self.artifact)
        self._check_border("inputs", program.inputs, self.signature.inputs)
        self._check_border("outputs", program.outputs, self.signature.outputs)
        self._program = program

    def _check_border(
        self, side: str, found: dict[str, TensorType], promised: tuple[tuple[str, tuple[int, ...]], ...]
    ) -> None:
        shapes = {name: kind.shape for name, kind in found.items()}
        if shapes != dict(promised):
            raise EngineError(f"{self.artifact}: expected {side} {dict(promised)}, found {shapes} in the package")

    def _infer(self, inputs: Tensors) -> list[NDArray[np.float32]]:
        assert self._program is not None  # the base class runs active engines only
        with torch_threads(self.threads):
            outputs = self._program.run(inputs)
        return [outputs[name] for name, _ in self.signature.outputs]

    def _deactivate(self) -> None:
        self._program = None


def load_function(package: Path) -> Any:
    """The MIL function ``main`` of a saved package, as coremltools reads it back from disk.

    Args:
        package: a ``.mlpackage`` folder holding an ML program.

    Raises:
        EngineError: the package is damaged, incomplete or not an ML program.
        MissingExtraError: coremltools is not installed.
    """
    with quiet():
        ct = _coremltools()
        from coremltools.converters.mil.frontend.milproto.load import load

        try:
            model = ct.models.MLModel(str(package), skip_model_load=True)
            spec = model.get_spec()
            weights = model.weights_dir or ""
            return load(spec, specification_version=spec.specificationVersion, file_weights_dir=weights).functions[
                "main"
            ]
        except Exception as error:  # coremltools, protobuf and the weight reader each raise their own kinds
            words = " ".join(str(error).split())[:300] or type(error).__name__
            raise EngineError(
                f"{package}: no readable ML program: damaged, incomplete or newer than coremltools "
                f"{ct.__version__} ({words})"
            ) from error


def read_metadata(package: Path) -> dict[str, str]:
    """The texts that a saved package carries, by key: what its exporter wrote, and the versions of the tools.

    Raises:
        EngineError: the package is damaged or incomplete.
        MissingExtraError: coremltools is not installed.
    """
    with quiet():
        _coremltools()
        from coremltools.proto import Model_pb2

        spec = Model_pb2.Model()
        try:
            spec.ParseFromString((package / MODEL).read_bytes())
        except Exception as error:  # protobuf has its own kind, a missing file another
            raise EngineError(f"{package}: no readable model: {' '.join(str(error).split())[:300]}") from error
        return dict(spec.description.metadata.userDefined)


def read_program(package: Path, halves: bool = True) -> MilProgram:
    """The ``main`` function of a saved package, ready to run, its constants unpacked; ``halves`` as in ``MilProgram``.

    Raises:
        EngineError: as ``load_function``, or an operation has no reference here.
        MissingExtraError: coremltools or torch is not installed.
    """
    function = load_function(package)
    with quiet():
        from edge_dp.runtime.engines.mil import MilProgram

        return MilProgram(function, str(package), halves)


def _coremltools() -> Any:
    try:
        import coremltools
    except ImportError as error:
        raise MissingExtraError(f"coremltools cannot be imported ({error}): pip install 'edge-dp[coreml]'") from error
    return coremltools
