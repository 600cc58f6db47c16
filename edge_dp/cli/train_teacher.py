"""``edge-dp train-teacher``."""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "train the stereo network that teaches, on rendered rigs"
DESCRIPTION = (
    "Render scenes as three cameras in a row see them and train the stereo network of the teacher stereo_net on them, by their "
    "truth or by what the cameras saw. Killed at any moment, it goes on with --resume. Use the result as the option weights of "
    "stereo_net."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument(
        "recipe", nargs="?", default="stereo_net", help="shipped recipe or YAML file (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/RECIPE)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in that folder")
    parser.add_argument("--json", action="store_true", help="print where the weights lie, and their card, as JSON")


def call(options: argparse.Namespace) -> int:
    """Run the verb."""
    import json

    from edge_dp.cli.progress import progress_bars
    from edge_dp.errors import MissingExtraError
    from edge_dp.files import json_load

    try:
        from edge_dp.training.teachers.stereo_training import read_stereo_recipe, train_stereo
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"training needs {error.name}: pip install 'edge-dp[train]'") from error
    recipe = read_stereo_recipe(options.recipe)
    with progress_bars() as progress:
        weights = train_stereo(
            recipe, options.out or Path("runs") / recipe.name, resume=options.resume, progress=progress
        )
    if options.json:
        card = json_load(weights.with_suffix(".json"))
        print(json.dumps({"weights": str(weights), "card": card}, allow_nan=False))
    else:
        print(weights)
    return 0
