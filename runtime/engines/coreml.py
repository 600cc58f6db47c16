"""Core ML packages read back from disk: their metadata, their program, and the reference evaluator of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_dp.errors import EngineError, MissingExtraError
from edge_dp.quiet import quiet

if TYPE_CHECKING:
    from edge_dp.runtime.engines.mil import MilProgram

MODEL = Path("Data/com.apple.CoreML/model.mlmodel")
"""The program within a package."""

METADATA_OF_TOOL = "com.github.apple.coremltools"
"""What the keys of coremltools' own metadata begin with."""


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
