"""``edge-dp train``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

SUMMARY = "train a student by a recipe: simulate, label, distil, train quantisation-aware"
DESCRIPTION = (
    "Run a recipe: simulate captures, have a stereo teacher label them, train the float student, then train it "
    "quantisation-aware, and write the checkpoint. Killed at any moment, it goes on with --resume. On several GPUs or CPUs: "
    "torchrun --nproc-per-node N -m edge_dp.cli train --recipe R"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument(
        "name", nargs="?", metavar="recipe", help="shipped recipe or YAML file (default: dp_disparity_s)"
    )
    parser.add_argument("--recipe", metavar="RECIPE", help="the same by name")
    parser.add_argument(
        "--set",
        dest="changes",
        action="append",
        default=[],
        metavar="KEY.PATH=VALUE",
        help="a field of the recipe, instead of its own, such as float_stage.steps=100; any number of times",
    )
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/RECIPE)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in that folder")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: %(default)s)")
    parser.add_argument(
        "--captures",
        type=Path,
        metavar="FOLDER",
        help="where simulated captures and their labels are kept and found again by any run that wants the same ones "
        "(default: the run's folder)",
    )
    parser.add_argument("--workers", type=int, help="processes that simulate (default: all cores)")
    parser.add_argument("--seed", type=int, help="instead of the recipe's own")
    parser.add_argument("--json", action="store_true", help="print checkpoint, metrics and times as JSON")


def call(options: argparse.Namespace) -> int:
    """Run the verb."""
    from edge_dp.cli.progress import progress_bars
    from edge_dp.errors import InputError, MissingExtraError
    from edge_dp.training.recipe import read_recipe

    if options.workers is not None and options.workers < 1:
        raise InputError(f"--workers: expected at least 1, found {options.workers}")
    if options.name is not None and options.recipe is not None:
        raise InputError(f"expected one recipe, found {options.name} and --recipe {options.recipe}")
    changes = [*options.changes, *([] if options.seed is None else [f"seed={options.seed}"])]
    recipe = read_recipe(options.recipe or options.name or "dp_disparity_s", changes)
    folder = options.out or Path("runs") / recipe.name
    try:
        from edge_dp.training.distill import train
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"training needs {error.name}: pip install 'edge-dp[train]'") from error
    settings = {
        "resume": options.resume,
        "workers": options.workers,
        "device": options.device,
        "captures": options.captures,
    }
    if os.environ.get("RANK", "0") != "0":  # of torchrun's processes the first one speaks
        train(recipe, folder, progress=lambda *_: None, **settings)
        return 0
    with progress_bars() as progress:
        checkpoint = train(recipe, folder, progress=progress, **settings)
    _print_summary(checkpoint, as_json=options.json)
    return 0


def _print_summary(checkpoint: Path, *, as_json: bool) -> None:
    import json

    from edge_dp.files import json_load

    training = json_load(checkpoint / "training.json")
    summary = {
        "checkpoint": str(checkpoint),
        **{key: training[key] for key in ("metrics", "minutes", "minutes_of_part", "data_wait_share", "machine")},
    }
    if as_json:
        print(json.dumps(summary, allow_nan=False))
        return
    for stage, share in training["data_wait_share"].items():
        print(f"{stage}: {training['minutes_of_part'][stage]} min, {share:.1%} of it waiting for data")
    print(checkpoint)
