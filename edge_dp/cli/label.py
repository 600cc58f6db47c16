"""``edge-dp label``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edge_dp.cli.arguments import image_size

if TYPE_CHECKING:
    from edge_dp.training.labels import DpMvVideos, RenderedFolder, TeacherChoice

SUMMARY = "label captures of a rig with what a teacher sees in its cameras, for a dual-pixel student"
DESCRIPTION = (
    "Have a teacher look at the cameras of a rig, keep what the other views confirm, turn it into dual-pixel disparity with mean "
    "and standard deviation, and write shards to train on, each with its provenance. Without known optics each capture is fitted "
    "to what matching its two dual-pixel views gives. The same input gives the same bytes, whatever the number of workers; under "
    "torchrun each process makes its share of the shards. Killed at any moment, it goes on with --resume."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("out", type=Path, help="folder of the labels")
    parser.add_argument(
        "--from",
        dest="source",
        nargs=2,
        required=True,
        metavar=("KIND", "ROOT"),
        help="rendered: a folder that edge-dp simulate --rig wrote; dpmv: videos in the layout of dpMV",
    )
    parser.add_argument("--teacher", default="sgm", metavar="NAME", help="who labels (default: %(default)s)")
    parser.add_argument(
        "--teacher-options", type=Path, metavar="FILE", help="YAML file with the teacher's settings (default: its own)"
    )
    parser.add_argument(
        "--accept-non-commercial", action="store_true", help="take a teacher whose licence forbids commercial use"
    )
    parser.add_argument("--config", type=Path, help="YAML file with fields of LabelConfig: check, min_views, fit, ...")
    parser.add_argument("--resume", action="store_true", help="go on with the labels in that folder")
    parser.add_argument("--workers", type=int, help="processes (default: all cores, divided by torchrun's processes)")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    dpmv = parser.add_argument_group("dpmv")
    dpmv.add_argument("--cameras", metavar="A|C|AC", help="beside B (default: those that there are)")
    dpmv.add_argument("--size", type=image_size, metavar="HxW", help="of the views in the labels (default: the files')")
    dpmv.add_argument("--every", type=int, default=1, metavar="N", help="take every Nth frame (default: all)")
    dpmv.add_argument(
        "--held-out", type=float, default=0.0, metavar="SHARE", help="of the videos that are left out of --split train"
    )
    dpmv.add_argument(
        "--split", choices=("train", "held_out"), default="train", help="which videos (default: %(default)s)"
    )
    dpmv.add_argument("--sensor", metavar="NAME", help="of the dual-pixel files, by name or path of a profile")
    dpmv.add_argument(
        "--optics",
        type=Path,
        metavar="FILE",
        help="YAML file with focal_px, baseline_m, focus_m and horizon_px of the rig, in place of a fit to each capture",
    )


def call(options: argparse.Namespace) -> int:
    """Run the verb."""
    import os

    from edge_dp.cli.progress import progress_bars
    from edge_dp.config import from_mapping
    from edge_dp.errors import InputError
    from edge_dp.files import yaml_load
    from edge_dp.training.labels import LabelConfig, label_set, read_provenance, share_of_launch

    for name in ("workers", "every"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f"--{name}: expected 1 or more, found {value}")
    config = LabelConfig()
    if options.config is not None:
        config = from_mapping(LabelConfig, yaml_load(options.config), str(options.config))
    teacher = _teacher(options)
    source = _source(options)
    rank, world = share_of_launch()
    workers = options.workers or max(1, (os.cpu_count() or 1) // world)
    total = len(range(rank, len(source), world))
    with progress_bars() as progress:
        shards = label_set(
            options.out,
            source,
            teacher,
            config,
            resume=options.resume,
            workers=workers,
            progress=lambda done: progress("label", done, total, "captures"),
        )
    mine = shards[rank::world]
    notes = [read_provenance(path) for path in mine]
    captures, empty, skipped = (sum(len(note[field]) for note in notes) for field in ("captures", "empty", "failed"))
    if options.json:
        import json

        size = sum(path.stat().st_size for path in mine)
        counts = {"shards": len(mine), "captures": captures, "empty": empty, "skipped": skipped, "bytes": size}
        print(json.dumps({"folder": str(options.out), **counts}))
    else:
        print(options.out)
    if empty or skipped:
        print(f"edge-dp: {empty} captures without a label, {skipped} skipped: the shards say why", file=sys.stderr)
    return 0


def _teacher(options: argparse.Namespace) -> TeacherChoice:
    """Whom --teacher, --teacher-options and --accept-non-commercial ask for."""
    from edge_dp.errors import SchemaError
    from edge_dp.files import yaml_load
    from edge_dp.training.labels import TeacherChoice
    from edge_dp.training.teachers.registry import teacher_entry

    given = yaml_load(options.teacher_options) if options.teacher_options else {}
    if not isinstance(given, dict):
        raise SchemaError(f"{options.teacher_options}: expected a mapping of options, found {type(given).__name__}")
    # Teachers whose licence is known once for all need no consent, and have no such option.
    asks = options.accept_non_commercial and teacher_entry(options.teacher).licence is None
    consent = {"accept_non_commercial": True} if asks else {}
    return TeacherChoice(options.teacher, given | consent)


def _source(options: argparse.Namespace) -> DpMvVideos | RenderedFolder:
    """What --from and the options of its kind ask for."""
    from edge_dp.config import from_mapping
    from edge_dp.errors import InputError
    from edge_dp.files import yaml_load
    from edge_dp.sensors import load_sensor
    from edge_dp.training.labels import DpMvVideos, RenderedFolder, RigOptics, split_videos

    kind, root = options.source[0], Path(options.source[1])
    if kind == "rendered":
        given = {
            "cameras": None,
            "size": None,
            "every": 1,
            "held_out": 0.0,
            "split": "train",
            "sensor": None,
            "optics": None,
        }
        for name, default in given.items():
            if getattr(options, name) != default:
                raise InputError(
                    f"--{name.replace('_', '-')}: expected with --from dpmv only, found --from rendered. Leave it out."
                )
        return RenderedFolder(root)
    if kind != "dpmv":
        raise InputError(f"--from: expected rendered or dpmv, found {kind!r}")
    if options.split == "held_out" and not options.held_out:
        raise InputError("--split held_out: expected --held-out SHARE with it, found none")
    optics = None
    if options.optics is not None:
        optics = from_mapping(RigOptics, yaml_load(options.optics), str(options.optics))
    source = DpMvVideos(
        root,
        cameras=options.cameras,
        every=options.every,
        size=options.size,
        sensor=load_sensor(options.sensor) if options.sensor else None,
        optics=optics,
    )
    train, held_out = split_videos(source.videos, options.held_out)
    return source.only(train if options.split == "train" else held_out)
