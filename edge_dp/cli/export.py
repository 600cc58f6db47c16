"""``edge-dp export``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from edge_dp.cli.target import add_target, is_network, network_arguments
from edge_dp.errors import InputError

if TYPE_CHECKING:
    from edge_dp.bundle.manifest import Bundle
    from edge_dp.converters.configs import FormatConfig
    from edge_dp.converters.export import Progress

SUMMARY = "write the bundle of a checkpoint or of any network: ExecuTorch, Core ML, TFLite and ONNX artifacts"
DESCRIPTION = (
    "Convert a trained checkpoint, or any torch.nn.Module with --input, to every format, load and run each artifact once, and "
    "write the bundle. An existing bundle is replaced only when the new one is complete."
)
EPILOG = """examples:
  edge-dp export dp_disparity_s --out bundle
  edge-dp export my.models:build --input left=1x1x384x512 --input right=1x1x384x512 --calibration samples/ --out bundle
  edge-dp export my.models:build --input x=1x3x224x224 --precision fp32 --format tflite --out bundle"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    add_target(parser)
    parser.add_argument(
        "--int16",
        action="append",
        metavar="MODULE",
        help="path of a module of any network with 16-bit activations, for int8 TFLite alone; may be repeated",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the bundle")
    parser.add_argument("--format", dest="formats", action="append", help="only this format; may be repeated")
    parser.add_argument("--precision", dest="precisions", action="append", help="only this precision; may be repeated")
    parser.add_argument(
        "--float-io", action="store_true", help="int8 TFLite with float32 inputs and outputs, instead of int8 ones"
    )
    parser.add_argument(
        "--unsigned-onnx",
        action="store_true",
        help="int8 ONNX with uint8 activations: faster on x86, but only ARM and x86 with VNNI give the same results",
    )
    parser.add_argument(
        "--backend",
        default="xnnpack",
        help="of ExecuTorch: xnnpack (default), coreml or vulkan, with a --precision it has",
    )
    parser.add_argument(
        "--require-full-delegation", action="store_true", help="fail where an engine's delegate does not take all work"
    )
    parser.add_argument(
        "--sensor", metavar="NAME", help="of a checkpoint: whose captures it is for; its profile goes into the manifest"
    )
    parser.add_argument(
        "--correct-field",
        action="store_true",
        help="with --sensor: let the artifacts correct disparity and confidence for that sensor's field, so that the "
        "disparity is affine in inverse depth",
    )
    parser.add_argument(
        "--linear-input",
        action="store_true",
        help="of a checkpoint: let the artifacts do exposure, transfer and dither, in float, and take linear planes",
    )
    parser.add_argument("--json", action="store_true", help="print the artifacts as JSON")


def call(options: argparse.Namespace) -> int:
    """Run the verb."""
    from edge_dp.cli.progress import progress_bars
    from edge_dp.cli.tables import artifact_table

    export = _export_network if is_network(options) else _export_checkpoint
    with progress_bars() as progress:

        def report(text: str, done: int, total: int) -> None:
            progress("export", done, total, text)

        bundle = export(options, _formats(options), report)
    if options.json:
        import dataclasses
        import json

        print(json.dumps([dataclasses.asdict(artifact) for artifact in bundle.manifest.artifacts]))
    else:
        artifact_table(bundle)
    return 0


def _export_checkpoint(options: argparse.Namespace, formats: list[FormatConfig], progress: Progress) -> Bundle:
    import edge_dp
    from edge_dp.sensors import load_sensor

    if options.int16:
        raise InputError(f"{options.model}: --int16 is not for a checkpoint")
    if options.correct_field and not options.sensor:
        raise InputError("--correct-field: expected the sensor whose field it is, found none. Pass --sensor too.")
    return edge_dp.export_checkpoint(
        options.model,
        options.out,
        formats=formats,
        size=options.size,
        sensor=load_sensor(options.sensor) if options.sensor else None,
        correct_field=options.correct_field,
        linear_input=options.linear_input,
        require_full_delegation=options.require_full_delegation,
        progress=progress,
    )


def _export_network(options: argparse.Namespace, formats: list[FormatConfig], progress: Progress) -> Bundle:
    import edge_dp

    if options.sensor or options.correct_field or options.linear_input:
        raise InputError(
            f"{options.model}: --sensor, --correct-field and --linear-input are not for a network of your own"
        )
    return edge_dp.export(
        **network_arguments(options),
        out=options.out,
        formats=formats,
        int16=options.int16 or (),
        require_full_delegation=options.require_full_delegation,
        progress=progress,
    )


def _formats(options: argparse.Namespace) -> list[FormatConfig]:
    """The artifacts that the options ask for."""
    from edge_dp.converters.configs import ExecuTorchConfig, plan

    if options.backend != "xnnpack":
        if options.formats != ["executorch"] or not options.precisions:
            raise InputError(f"--backend {options.backend}: expected --format executorch and a --precision beside it")
        configs = plan([ExecuTorchConfig(precision=p, backend=options.backend) for p in options.precisions])
    else:
        configs = plan(options.formats, options.precisions)
    if options.float_io:
        configs = _with_option(configs, "--float-io", "tflite", "float_io")
    if options.unsigned_onnx:
        configs = _with_option(configs, "--unsigned-onnx", "onnx", "unsigned")
    return configs


def _with_option(configs: list[FormatConfig], argument: str, form: str, field: str) -> list[FormatConfig]:
    """``field`` set in the int8 config of format ``form``."""
    from dataclasses import replace
    from typing import Any

    if not any(config.format == form and config.precision == "int8" for config in configs):
        raise InputError(f"{argument}: expected the format {form} in precision int8 among those to write")
    chosen: dict[str, Any] = {field: True}
    return [replace(c, **chosen) if c.format == form and c.precision == "int8" else c for c in configs]
