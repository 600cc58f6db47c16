"""``edge-dp train``."""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "train a student by a recipe: simulate, label, distil, train quantisation-aware"
DESCRIPTION = (
    "Run a recipe: simulate captures, have a stereo teacher label them, train the float student, then train it "
    "quantisation-aware, and write the checkpoint. Killed at any moment, it goes on with --resume."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument(
        "recipe", nargs="?", default="dp_disparity_s", help="shipped recipe or YAML file (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/RECIPE)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in that folder")
    parser.add_argument("--workers", type=int, help="processes that simulate (default: all cores)")
    parser.add_argument("--seed", type=int, help="instead of the recipe's own")


def call(options: argparse.Namespace) -> int:
    """Run the verb."""
    from dataclasses import replace

    from edge_dp.cli.progress import progress_bars
    from edge_dp.errors import InputError, MissingExtraError
    from edge_dp.training.recipe import read_recipe

    if options.workers is not None and options.workers < 1:
        raise InputError(f"--workers: expected at least 1, found {options.workers}")
    recipe = read_recipe(options.recipe)
    if options.seed is not None:
        recipe = replace(recipe, seed=options.seed)
    folder = options.out or Path("runs") / recipe.name
    try:
        from edge_dp.training.distill import train
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"training needs {error.name}: pip install 'edge-dp[train]'") from error
    with progress_bars() as progress:
        checkpoint = train(recipe, folder, resume=options.resume, workers=options.workers, progress=progress)
    print(checkpoint)
    return 0
