"""Export: one network to one bundle with an artifact for every format and precision asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from edge_dp.bundle.manifest import MANIFEST, Artifact, Bundle, Manifest, read_bundle, write_manifest
from edge_dp.converters.base import QuantisedGraphs, Source
from edge_dp.converters.calibration import Calibration, Sample, read_samples
from edge_dp.converters.configs import FormatConfig, Formats, plan
from edge_dp.converters.describe import Description, describe_checkpoint, describe_network
from edge_dp.converters.golden import Case, checkpoint_cases, expected_outputs, network_cases, write_golden
from edge_dp.converters.preflight import check_network
from edge_dp.converters.registry import make_converter
from edge_dp.converters.source import (
    Inputs,
    Network,
    input_shapes,
    network_of_checkpoint,
    network_of_module,
    quantise_checkpoint,
    quantise_module,
)
from edge_dp.converters.stages import Stages, measure_stages, write_stages
from edge_dp.errors import ExportError, InputError
from edge_dp.files import atomic_folder, check_replaceable
from edge_dp.models.checkpoint import Checkpoint, read_checkpoint
from edge_dp.sensors.profile import SensorProfile

Progress = Callable[[str, int, int], None]
"""Called with what is being done, steps done and steps in all."""
_FLOAT_SNR_DB = 10.0  # of every output; anything that is the same network has more, whatever its precision


def export(
    module: nn.Module,
    inputs: Inputs,
    out: str | Path,
    *,
    outputs: Sequence[str] | None = None,
    name: str | None = None,
    formats: Formats | None = None,
    precision: str | Sequence[str] | None = None,
    calibration: Iterable[Sample] | None = None,
    keep_float: Sequence[str] = (),
    int16: Sequence[str] = (),
    require_full_delegation: bool = False,
    progress: Progress = lambda *_: None,
) -> Bundle:
    """Write the bundle of anyone's network.

    Everything that a format cannot take is refused before the slow work starts, each with module path and a suggestion.

    Args:
        module: any module of fixed input shapes that returns a tensor, or a tuple or dict of tensors. Not changed.
        inputs: shape (or an example) by name, in the order of ``forward``; or examples alone, named as in ``forward``.
        out: the bundle's folder; an older bundle there is replaced once the new one is complete, anything else refused.
        outputs: names; unless given, the keys of a returned dict, else ``output``, or ``output_0`` and so on.
        name: of the model; that of the class unless given.
        formats: names or configs, see ``edge_dp.converters.configs``; all formats unless given.
        precision: only these of each named format's precisions; each format's own two unless given.
        calibration: samples of what the network will see, for integer precisions: a mapping of arrays by input name, a sequence
            of arrays in order, or an array for a single input; each shaped as its input. Some tens to hundreds do.
        keep_float: paths of modules that stay in float in integer artifacts, such as a sub-pixel head.
        int16: paths of modules with 16-bit activations and int8 weights, the rest being int8: an output of theirs has steps 256
            times as fine. TFLite alone executes them, with its 16x8 kernels and outside XNNPACK: of the integer artifacts only
            ``tflite-int8`` can be asked for, and with ``require_full_delegation`` not even that.
        require_full_delegation: refuse artifacts that leave work outside their delegate.
        progress: see ``Progress``.

    Returns:
        The bundle as read back from disk.

    Raises:
        InputError: the inputs, calibration data, a format, precision or path is wrong.
        MissingExtraError: a format's toolchain is not installed.
        ExportError: the network cannot be taken by a format, an artifact could not be made, does not run, or is not integer
            where it promises to be, or in float computes something else. ``out`` is then untouched.
    """
    configs = _planned(out, formats, precision)
    network = network_of_module(module, input_shapes(module, inputs), outputs, name or type(module).__name__)
    integer = any(config.reference != "float" for config in configs)
    if integer and calibration is None:
        asked = ", ".join(config.name for config in configs if config.reference != "float")
        raise InputError(
            f"{asked}: expected calibration data for integer precisions; pass some, or ask for floats alone"
        )
    check_network(network, configs, keep_float, int16)
    samples = read_samples(network, calibration) if calibration is not None else Calibration.none(network)
    graphs = None
    if integer:
        graphs = quantise_module(
            network,
            samples.batches,
            keep_float,
            lambda done: progress("calibrate", done, len(samples.batches)),
            int16=int16,
        )
    cases = network_cases(network, samples)
    description = describe_network(network, graphs, samples, keep_float, int16)
    return _Job(network, graphs, cases, configs, description, require_full_delegation).write(Path(out), progress)


def export_checkpoint(
    checkpoint: str | Path | Checkpoint,
    out: str | Path,
    *,
    formats: Formats | None = None,
    precision: str | Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    sensor: SensorProfile | None = None,
    correct_field: bool = False,
    linear_input: bool = False,
    require_full_delegation: bool = False,
    progress: Progress = lambda *_: None,
) -> Bundle:
    """Write the bundle of a trained student.

    All integer artifacts come from the checkpoint's one quantisation: the same weights, the same activation ranges.

    Args:
        checkpoint: name of a shipped one, folder, or one in memory.
        size: height and width of the input; the checkpoint's own unless given.
        sensor: whose captures the bundle is for; the manifest then holds its profile, levels and gain.
        correct_field: let the artifacts themselves correct disparity and confidence for that sensor's field, so that the
            disparity is affine in inverse depth. They then are for captures that show the field of that sensor alone.
        linear_input: let the artifacts themselves do exposure, transfer and dither, in float, so that an app passes them linear
            planes and nothing else. Integer artifacts then take float32 and begin with a few float kernels.
        out, formats, precision, require_full_delegation, progress: as in ``export``.

    Returns:
        The bundle as read back from disk.

    Raises:
        InputError, SchemaError, ChecksumError: the checkpoint, a format, precision or size is wrong.
        MissingExtraError, ExportError: as in ``export``.
    """
    configs = _planned(out, formats, precision)
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = read_checkpoint(checkpoint)
    if correct_field and sensor is None:
        raise InputError("correct_field: expected a sensor, whose field it is, found none. Pass it.")
    field = sensor if correct_field else None
    height, width = size or checkpoint.input_size
    network = network_of_checkpoint(checkpoint, height, width, field, linear_input)
    graphs = quantise_checkpoint(network, checkpoint)
    cases = checkpoint_cases(network, None if linear_input else checkpoint.exposure)
    description = describe_checkpoint(network, graphs, checkpoint, sensor, field_corrected=correct_field)
    return _Job(network, graphs, cases, configs, description, require_full_delegation).write(Path(out), progress)


def _planned(out: str | Path, formats: Formats | None, precision: str | Sequence[str] | None) -> list[FormatConfig]:
    """The artifacts to write; refuses now what would be refused only after the calibration."""
    configs = plan(formats, precision)
    check_replaceable(out, MANIFEST)
    for config in configs:
        make_converter(config.format)
    return configs


@dataclass(frozen=True)
class _Job:
    """Everything that is known before the first toolchain starts."""

    network: Network
    graphs: QuantisedGraphs | None
    cases: Sequence[Case]
    configs: Sequence[FormatConfig]
    description: Description
    require_full_delegation: bool

    def write(self, out: Path, progress: Progress) -> Bundle:
        converters = {config.format: make_converter(config.format) for config in self.configs}
        total = len(self.configs) + 1
        network = self.network
        source = Source(network.name, network.module, self.graphs, network.signature, self.description.card)
        probes = {case.name: case.inputs for case in self.cases}
        artifacts: list[Artifact] = []
        outputs = {}
        with atomic_folder(out, marker=MANIFEST) as folder:
            for index, config in enumerate(self.configs):
                progress(f"{config.format} {config.label}", index, total)
                written = converters[config.format].convert(
                    source, config, folder, probes, require_full_delegation=self.require_full_delegation
                )
                artifacts.append(written.artifact)
                outputs[config.name] = written.outputs
            progress("golden vectors", total - 1, total)
            references = {config.reference for config in self.configs}
            expected = expected_outputs(source, self.cases, references)
            golden = write_golden(self.cases, expected, outputs, folder)
            manifest: Manifest = self.description.manifest(artifacts, golden)
            stages = measure_stages(source, manifest, self.cases, expected, outputs)
            _check_floats(stages, artifacts)
            write_stages(stages, folder)
            write_manifest(manifest, folder)
        progress("done", total, total)
        return read_bundle(out)


def _check_floats(stages: Stages, artifacts: Sequence[Artifact]) -> None:
    """Raise ExportError where an artifact that computes in float gives something else than the network.

    A coarse check: toolchains have exchanged operands without a word, whereas precision is what ``edge-dp validate`` judges.
    """
    floats = {artifact.name for artifact in artifacts if artifact.reference != "quantised"}
    for row in stages.rows:
        for output, error in (row.typical or row.statistics).items() if row.stage in floats else ():
            if error.snr_db is not None and error.snr_db < _FLOAT_SNR_DB:
                raise ExportError(
                    f"{row.stage}: expected {output} as the network computes it, found it {error.snr_db:.1f} dB above its "
                    f"error, less than {_FLOAT_SNR_DB:g}. The toolchain wrote another network, or float16 is not enough for "
                    "this one: leave the artifact out, or export parts of the network to see which operation it is."
                )


def quantised_source(checkpoint: Checkpoint, height: int, width: int) -> Source:
    """The checkpoint's network in the forms that converters need, at one input size.

    Raises:
        InputError: the size, or weights and quantisation that do not fit the student.
        ExportError: weights that are not finite.
    """
    network = network_of_checkpoint(checkpoint, height, width)
    with torch.no_grad():
        graphs = quantise_checkpoint(network, checkpoint)
    return Source(network.name, network.module, graphs, network.signature)
