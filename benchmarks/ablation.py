"""What each part of the distillation is worth: short trainings that differ in one thing each, on the same data, steps and seeds.

    python benchmarks/ablation.py --out out/ablation [--steps 2000] [--seeds 1 2] [--variant "one view" ...]

Each training is ``edge-dp train RECIPE --set ...`` in a folder of its own below ``--out``; what is finished there is picked up,
what was broken off goes on. The table is of the float students on rendered scenes of another seed, and on the Pixel 4 where its
captures are: means over scenes and seeds, and the ratio of AI(2) to that of ground truth, paired by scene.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from disparity import evaluate
from disparity_methods import Method, float_student
from intervals import interval_of_ratio
from rich.console import Console
from rich.table import Table
from scene_sets import SETS

from edge_dp.cli.progress import progress_bars
from edge_dp.data import data_root
from edge_dp.errors import EdgeDpError, TrainingError

METRICS = ("EPE px", "AI(1)", "AI(2)", "1-|rho|")
GROUND_TRUTH, HARD_SGM, HARD_NET = "ground truth", "sgm, hard", "stereo_net, hard"
PROBABILISTIC_SGM, PROBABILISTIC = "sgm, probabilistic", "stereo_net, probabilistic"
UNCHECKED, ONE_VIEW, ONE_VIEW_SGM = "without consistency check", "one view", "sgm, one view"
UNCHECKED_SGM = "sgm, without consistency check"

# As in the shipped recipes, whose captures then serve all of its variants.
_SGM = "teacher={name: sgm, options: {disparities: 64, block: 5, agreement: 1.0, sigma_floor: 0.4}}"
_NET = "teacher={name: stereo_net, options: {precision: bf16}}"
_GRADIENTS = "gradient_matching: 0.5"
_HARD = (
    "targets.sigma=none",
    f"float_stage.loss={{laplace_nll: 1.0, l1: 1.0, {_GRADIENTS}}}",
)
_SPREAD = (
    "targets.sigma=label",
    f"float_stage.loss={{laplace_cross_entropy: 1.0, expected_l1: 1.0, {_GRADIENTS}}}",
)
_LABELS = ("targets.supervision=labels", "targets.use_mask=true", "labels.check=third_view")
SHORT = (
    "quantised_stage=null",
    "float_stage.schedule_steps=null",
    "float_stage.linear_steps=0",
    "exposure.transfer=linear",
)
"""Of all: in float, down to a rate of 0, on light itself, as dp_disparity_s begins."""
VARIANTS: dict[str, tuple[str, ...]] = {
    GROUND_TRUTH: ("targets.supervision=ground_truth", "targets.use_mask=false", *_HARD),
    HARD_SGM: (*_LABELS, _SGM, *_HARD),
    HARD_NET: (*_LABELS, _NET, *_HARD),
    PROBABILISTIC_SGM: (*_LABELS, _SGM, *_SPREAD),
    PROBABILISTIC: (*_LABELS, _NET, *_SPREAD),
    UNCHECKED: (*_LABELS[:2], "labels.check=none", _NET, *_SPREAD),
    UNCHECKED_SGM: (*_LABELS[:2], "labels.check=none", _SGM, *_SPREAD),
    ONE_VIEW: (*_LABELS, _NET, *_SPREAD, "student=mono_disparity_s"),
    ONE_VIEW_SGM: (*_LABELS, _SGM, *_SPREAD, "student=mono_disparity_s"),
}
"""Changes of the recipe by variant; the last four are a probabilistic one with one thing changed."""
PROMISES = {
    PROBABILISTIC: {GROUND_TRUTH: ("AI(2)", 1.05), HARD_NET: ("AI(2)", 1.0), ONE_VIEW: ("1-|rho|", 0.5)},
    PROBABILISTIC_SGM: {GROUND_TRUTH: ("AI(2)", 1.05), HARD_SGM: ("AI(2)", 1.0), ONE_VIEW_SGM: ("1-|rho|", 0.5)},
}
"""Of the probabilistic labels of each teacher: their error over that of another variant, at most."""


@dataclass(frozen=True, slots=True)
class Training:
    """One run of one variant."""

    variant: str
    seed: int
    changes: tuple[str, ...]
    folder: Path

    @property
    def checkpoint(self) -> Path:
        """Where the run leaves its checkpoint."""
        return self.folder / "checkpoint"

    def command(self, recipe: str, options: Sequence[str] = ()) -> list[str]:
        """The call of edge-dp, with options of the machine; a run that was begun goes on."""
        call = [sys.executable, "-m", "edge_dp.cli", "train", recipe, "--out", str(self.folder), *options]
        call += ["--captures", str(self.folder.parent / "captures")]
        for change in self.changes:
            call += ["--set", change]
        return call + ["--resume"] * self.folder.is_dir()


def trainings(variants: Sequence[str], seeds: Sequence[int], common: Sequence[str], out: Path) -> list[Training]:
    """Every variant with every seed; ``common`` are changes of all of them, such as fewer steps."""
    return [
        Training(
            variant,
            seed,
            (*common, *VARIANTS[variant], f"seed={seed}"),
            out / f"{''.join(c if c.isalnum() else '_' for c in variant)}-{seed}",
        )
        for seed in seeds
        for variant in variants
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Short trainings that differ in one thing each.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the trainings; finished ones are picked up")
    parser.add_argument("--recipe", default="dp_disparity_s", help="that all start from (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=2000, help="of the float stage (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--variant", dest="variants", action="append", choices=list(VARIANTS), help="default: all")
    parser.add_argument(
        "--set", dest="changes", action="append", default=[], help="change of all recipes, key.path=value"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="to train on; edge-dp train's default unless given")
    parser.add_argument("--limit", type=int, help="only so many scenes of each data set")
    parser.add_argument("--json", action="store_true", help="print JSON in place of tables")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    common = (f"float_stage.steps={options.steps}", *SHORT, *options.changes)
    runs = trainings(options.variants or list(VARIANTS), options.seeds, common, options.out)
    for run in runs:
        train(run, options.recipe, ["--device", options.device] if options.device else [])
    methods = [float_student(f"{run.variant}-{run.seed}", run.checkpoint) for run in runs]
    titles: dict[str, str] = {}
    scores: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    with progress_bars() as bar:
        for name in ("rendered", *(["pixel4"] if data_root() else [])):
            captures = SETS[name]()
            report = evaluate(methods, captures, options.limit, lambda *done, n=name: bar(n, *done))
            titles[name], scores[name] = captures.title, over_seeds(report["scores"], runs, methods)
    if options.json:
        print(json.dumps({name: {"title": titles[name], "scores": scores[name]} for name in scores}, indent=1))
        return 0
    console = Console(highlight=False, width=150)
    for name, title in titles.items():
        console.print(table(title, scores[name]))
    for text in verdicts(scores["rendered"]):
        console.print(text)
    return 0


def train(run: Training, recipe: str, options: Sequence[str] = ()) -> None:
    """Train unless that is done.

    Raises:
        TrainingError: ``edge-dp train`` failed; what it said is on standard error.
    """
    if (run.checkpoint / "config.yaml").is_file():
        return
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    print(f"{run.variant}, seed {run.seed}", file=sys.stderr)
    if code := subprocess.run(run.command(recipe, options), check=False, stdout=subprocess.DEVNULL).returncode:
        raise TrainingError(
            f"{run.variant}, seed {run.seed}: edge-dp train ended with {code}, see above; mend it and call again to go on"
        )


def over_seeds(
    scores: dict[str, dict[str, dict[str, float]]], runs: Sequence[Training], methods: Sequence[Method]
) -> dict[str, dict[str, dict[str, float]]]:
    """By variant and scene, each metric's mean over the seeds."""
    grouped: dict[str, list[dict[str, dict[str, float]]]] = {}
    for run, method in zip(runs, methods, strict=True):
        grouped.setdefault(run.variant, []).append(scores[method.name])
    return {
        variant: {
            scene: {metric: float(np.mean([seed[scene][metric] for seed in seeds])) for metric in seeds[0][scene]}
            for scene in seeds[0]
        }
        for variant, seeds in grouped.items()
    }


def mean(rows: dict[str, dict[str, float]], metric: str) -> float:
    """Over scenes."""
    return float(np.mean([row[metric] for row in rows.values()]))


def table(title: str, scores: dict[str, dict[str, dict[str, float]]]) -> Table:
    """Variants by metrics."""
    metrics = [metric for metric in METRICS if metric in next(iter(next(iter(scores.values())).values()))]
    found = Table(title=f"{title}: mean over scenes and seeds")
    found.add_column("labels")
    for column in (*metrics, "AI(2), x ground truth [95 % interval]"):
        found.add_column(column, justify="right")
    truth = scores.get(GROUND_TRUTH)
    for variant, rows in scores.items():
        cells = [f"{mean(rows, metric):.3f}" for metric in metrics]
        if truth is not None and variant != GROUND_TRUTH:
            mine, its = ([row["AI(2)"] for row in each.values()] for each in (rows, truth))
            low, high = interval_of_ratio(mine, its)
            cells.append(f"{np.mean(mine) / np.mean(its):.2f} [{low:.2f}, {high:.2f}]")
        else:
            cells.append("")
        found.add_row(variant, *cells)
    return found


def verdicts(scores: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    """What the distillation promises on rendered scenes, of the variants that were trained."""
    texts = []
    for variant, promises in PROMISES.items():
        for other, (metric, most) in promises.items():
            if variant in scores and other in scores:
                ratio = mean(scores[variant], metric) / mean(scores[other], metric)
                verdict = "pass" if ratio <= most else "MISSED"
                texts.append(f"{variant}: {metric} {ratio:.2f} x that of {other}, at most {most:g}: {verdict}")
    return texts


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EdgeDpError as error:
        print(f"ablation: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
