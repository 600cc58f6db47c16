"""``edge-dp export``."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge_dp.cli.arguments import image_size

SUMMARY = "write the bundle of a checkpoint: ExecuTorch, Core ML, TFLite and ONNX artifacts"
DESCRIPTION = (
    "Convert a trained checkpoint to every format, load and run each artifact once, and write the bundle. An existing bundle "
    "is replaced only when the new one is complete."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("checkpoint", help="name of a shipped checkpoint (dp_disparity_s) or folder of one")
    parser.add_argument("--out", type=Path, required=True, help="folder of the bundle")
    parser.add_argument("--format", dest="formats", action="append", help="only this format; may be repeated")
    parser.add_argument("--precision", dest="precisions", action="append", help="only this precision; may be repeated")
    parser.add_argument(
        "--size", type=image_size, metavar="HxW", help="height and width of the input (default: the checkpoint's)"
    )
    parser.add_argument("--json", action="store_true", help="print the artifacts as JSON")


def call(options: argparse.Namespace) -> int:
    """Run the verb."""
    import edge_dp
    from edge_dp.cli.progress import progress_bars
    from edge_dp.cli.tables import artifact_table

    with progress_bars() as progress:
        bundle = edge_dp.export(
            options.checkpoint,
            options.out,
            formats=options.formats,
            precisions=options.precisions,
            size=options.size,
            progress=lambda text, done, total: progress("export", done, total, text),
        )
    if options.json:
        import dataclasses
        import json

        print(json.dumps([dataclasses.asdict(artifact) for artifact in bundle.manifest.artifacts]))
    else:
        artifact_table(bundle)
    return 0
