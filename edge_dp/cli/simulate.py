"""``edge-dp simulate``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from edge_dp.cli.arguments import distance_range, image_size

if TYPE_CHECKING:
    from edge_dp.simulation.pictures import PictureSource

SUMMARY = "write a data set of simulated dual-pixel captures, of any size, in shards"
DESCRIPTION = (
    "Simulate dual-pixel captures with their true disparity: of procedural scenes, or with --from of pictures whose depth or "
    "stereo disparity is known. The same seed and configuration give the same bytes, whatever the number of workers. Killed at "
    "any moment, it goes on with --resume. Read the folder with edge_dp.data.simulated.SimulatedDataset; dataset.json in it "
    "describes every array."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("out", type=Path, help="folder of the data set")
    parser.add_argument("--count", type=int, required=True, help="captures")
    parser.add_argument("--seed", type=int, default=0, help="another one gives other captures (default: %(default)s)")
    parser.add_argument(
        "--config", type=Path, help="YAML file with fields of SimulationConfig: scene, lens, sensor, rig_gain"
    )
    parser.add_argument(
        "--size", type=image_size, metavar="HxW", help="height and width of the views (default: the configuration's)"
    )
    parser.add_argument(
        "--from",
        dest="root",
        type=Path,
        metavar="ROOT",
        help="folder of a data set of scenes (see: edge-dp data list) whose pictures are drawn instead of procedural scenes",
    )
    parser.add_argument(
        "--sensor",
        metavar="NAME",
        help="with --from: give metric depth the disparity that this sensor's lens does, by name or path of a profile (default: "
        "draw the limits of disparity as for procedural scenes)",
    )
    parser.add_argument(
        "--focus",
        type=distance_range,
        metavar="METRES[:METRES]",
        help="with --sensor: focus distance, or nearest and farthest, drawn uniformly in 1/m; inf is the horizon",
    )
    parser.add_argument("--workers", type=int, help="processes that simulate (default: all cores)")
    parser.add_argument(
        "--rig",
        action="store_true",
        help="also write the pinhole views, middle, right and left, that a stereo teacher needs",
    )
    parser.add_argument("--resume", action="store_true", help="go on with the data set in that folder")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")


def call(options: argparse.Namespace) -> int:
    """Run the verb."""
    from dataclasses import replace

    from edge_dp.cli.progress import progress_bars
    from edge_dp.config import from_mapping
    from edge_dp.errors import InputError
    from edge_dp.files import yaml_load
    from edge_dp.simulation.capture import SimulationConfig
    from edge_dp.simulation.dataset import write_dataset

    for name, least in (("count", 1), ("seed", 0), ("workers", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise InputError(f"--{name}: expected {least} or more, found {value}")
    config = SimulationConfig()
    if options.config is not None:
        config = from_mapping(SimulationConfig, yaml_load(options.config), str(options.config))
    if options.size is not None:
        height, width = options.size
        config = replace(config, scene=replace(config.scene, height=height, width=width))
    with progress_bars() as progress:
        shards = write_dataset(
            options.out,
            options.count,
            options.seed,
            config,
            pictures=_pictures(options),
            rig=options.rig,
            resume=options.resume,
            workers=options.workers,
            progress=lambda done: progress("simulate", done, options.count, "captures"),
        )
    if options.json:
        import json

        size = sum(path.stat().st_size for path in shards)
        print(json.dumps({"folder": str(options.out), "captures": options.count, "shards": len(shards), "bytes": size}))
    else:
        print(options.out)
    return 0


def _pictures(options: argparse.Namespace) -> PictureSource | None:
    """What --from, --sensor and --focus ask for; None for procedural scenes."""
    from edge_dp.errors import InputError
    from edge_dp.sensors import load_sensor
    from edge_dp.simulation.pictures import MetricOptics, open_pictures

    for name, needed in (("sensor", "root"), ("sensor", "focus"), ("focus", "sensor")):
        if getattr(options, name) is not None and getattr(options, needed) is None:
            flag = "from" if needed == "root" else needed
            raise InputError(f"--{name}: expected --{flag} with it, found none. See --help.")
    if options.root is None:
        return None
    optics = None if options.sensor is None else MetricOptics(load_sensor(options.sensor), options.focus)
    return open_pictures(options.root, optics)
