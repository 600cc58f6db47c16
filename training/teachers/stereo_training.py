"""How the teacher ``stereo_net`` is trained: by a recipe, on rendered rigs, with or without the truth.

Captures are functions of their index, batches and learning rates of the step: weights, optimiser moments and a step number are
the whole state of a run, and one that was killed ends with the same bytes as one that was not.
"""

from __future__ import annotations

import dataclasses
import math
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from edge_dp._version import VERSION
from edge_dp.config import from_mapping
from edge_dp.errors import SchemaError, TrainingError
from edge_dp.files import atomic_write, json_dump, yaml_load
from edge_dp.simulation.shards import claim_folder
from edge_dp.training.loop.average import MovingAverage
from edge_dp.training.loop.state import load_state, save_state
from edge_dp.training.losses_photometric import self_supervised_loss
from edge_dp.training.recipe import find_recipe
from edge_dp.training.teachers.stereo_data import StereoBatch, StereoData, draw_batch, render_capture
from edge_dp.training.teachers.stereo_network import COARSE, FINE, OFFSETS, Belief, StereoNetwork, normalised

Progress = Callable[[str, int, int, str], None]
RECIPES = Path(__file__).parents[1] / "recipes" / "teachers"
_STEPS_APART = 1.0  # px between a cell's least and largest disparity, from which on it straddles an edge


@dataclass(frozen=True, slots=True)
class StereoRecipe:
    """A whole run: AdamW; the learning rate rises, stays, and falls to 0 over the last ``decay_steps``.

    finish: what those last steps see instead of ``data``: rigs as they will be used, after a wide variety of them.
    """

    name: str
    seed: int
    data: StereoData
    steps: int
    batch: int
    learning_rate: float
    supervision: str = "truth"
    """``truth``: of the rendered scenes; ``photometric``: what the other cameras saw, and nothing else."""
    warmup_steps: int = 50
    decay_steps: int = 0
    weight_decay: float = 1e-4
    width: int = 8
    disparities: int = 64
    save_every: int = 50
    finish: StereoData | None = None

    def __post_init__(self) -> None:
        if self.supervision not in ("truth", "photometric"):
            raise SchemaError(f"supervision: expected 'truth' or 'photometric', found {self.supervision!r}")
        if min(self.steps, self.batch, self.width, self.disparities, self.save_every) < 1 or self.learning_rate <= 0:
            raise SchemaError(
                "steps, batch, learning_rate, width, disparities and save_every must be positive, "
                f"found {self.steps}, {self.batch}, {self.learning_rate}, {self.width}, {self.disparities} and {self.save_every}"
            )
        if self.seed < 0 or self.warmup_steps < 0 or self.decay_steps < 0:
            raise SchemaError("seed, warmup_steps and decay_steps must not be negative")
        if self.finish is not None and not self.decay_steps:
            raise SchemaError("finish: expected decay_steps above 0, the steps that see it, found 0")
        if self.warmup_steps + self.decay_steps > self.steps:
            raise SchemaError(
                f"warmup_steps {self.warmup_steps} and decay_steps {self.decay_steps} are more than steps {self.steps}"
            )


def read_stereo_recipe(name_or_path: str | Path) -> StereoRecipe:
    """Read a shipped recipe by name or any by path.

    Raises:
        InputError: there is no such recipe.
        SchemaError: it does not fit; the message names file and field.
    """
    path = find_recipe(RECIPES, name_or_path)
    return from_mapping(StereoRecipe, yaml_load(path), str(path))


def train_stereo(recipe: StereoRecipe, folder: Path, *, resume: bool = False, progress: Progress) -> Path:
    """Run a recipe.

    Args:
        folder: of the run; in the end it holds ``weights.safetensors`` and its card ``weights.json``.
        resume: go on with what ``folder`` holds; otherwise it must not hold a run.
        progress: called with the stage, steps done, steps in all and a short text.

    Returns:
        The weights' path.

    Raises:
        InputError: the folder holds another run or something else, or nothing to resume.
        TrainingError: the loss is not finite, or the saved state is damaged.
    """
    claim_folder(folder, "recipe.json", dataclasses.asdict(recipe), holds="run", resume=resume)
    torch.manual_seed(recipe.seed)
    network = StereoNetwork(recipe.width).train()
    parameters = dict(network.named_parameters())
    optimiser = torch.optim.AdamW(parameters.values(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    state = folder / "state.safetensors"
    nothing = MovingAverage(network, 0.0)
    first = load_state(state, network, nothing, optimiser) if state.is_file() else 0
    smooth = math.nan
    for step in range(first, recipe.steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(recipe, step)
        batch = draw_batch(recipe.seed, step, recipe.batch, _data_of(recipe, step))
        loss, error = batch_loss(network, batch, recipe)
        if not math.isfinite(loss.item()):
            raise TrainingError(f"step {step}: the loss is not finite; lower learning_rate in the recipe")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters.values(), 5.0)
        optimiser.step()
        smooth = error if math.isnan(smooth) else 0.98 * smooth + 0.02 * error
        progress("stereo", step + 1, recipe.steps, f"error {smooth:.3f} px")
        if (step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps:
            save_state(state, step + 1, network, nothing, optimiser)
    weights = folder / "weights.safetensors"
    _write(weights, network.state_dict(), {"width": str(recipe.width)})
    json_dump(_card(recipe, network.eval()), weights.with_suffix(".json"))
    return weights


def learning_rate(recipe: StereoRecipe, step: int) -> float:
    """Of one step: a linear rise, a plateau, a linear fall. A run cut short at the plateau is the longer one's beginning."""
    rise = min(1.0, (step + 1) / (recipe.warmup_steps + 1))
    fall = min(1.0, (recipe.steps - step) / (recipe.decay_steps + 1))
    return recipe.learning_rate * min(rise, fall)


def _data_of(recipe: StereoRecipe, step: int) -> StereoData:
    last = step >= recipe.steps - recipe.decay_steps
    return recipe.finish if recipe.finish is not None and last else recipe.data


def batch_loss(network: StereoNetwork, batch: StereoBatch, recipe: StereoRecipe) -> tuple[Tensor, float]:
    """The loss of a batch and its mean absolute error against the truth, px, for the log."""
    views, truth = torch.from_numpy(batch.views), torch.from_numpy(batch.disparity)
    left, right, opposite = views[:, :1], views[:, 1:2], views[:, 2:]
    belief = network(left, right, recipe.disparities)
    error = float((belief.disparity - truth).detach().abs().mean())
    if recipe.supervision == "truth":
        return supervised_loss(belief, truth), error
    with torch.no_grad():  # the better view is chosen by features of what each camera saw, as they are now
        other_features = [network.encoder(normalised(view))[0] for view in (right, opposite)]
    loss = self_supervised_loss(
        belief.disparity, 2.0 * belief.log_sigma, (left, right, opposite), (belief.features, *other_features)
    )
    return loss, error


def supervised_loss(belief: Belief, truth: Tensor) -> Tensor:
    """Cross-entropy of both distributions, robust errors of both means, Laplace likelihood of the last with its spread.

    L = CE(coarse) + CE(fine) / 2 + (ln(1 + |d1 - t|) + ln(1 + |d - t|)) / 2 + NLL, means over all pixels, t (N, 1, H, W) px.
    """
    coarse = -(coarse_target(truth, belief.coarse.shape[1]) * belief.coarse.clamp(min=1e-6).log()).sum(1).mean()
    residual = (belief.disparity - truth).abs()
    scale = belief.log_sigma.exp() / math.sqrt(2.0)  # of the Laplace distribution with that standard deviation
    likelihood = (residual / scale + torch.log(2.0 * scale)).mean()
    first = functional.interpolate(belief.coarse_disparity, truth.shape[2:], mode="nearest")
    robust = torch.log1p((first - truth).abs()).mean() + torch.log1p(residual).mean()
    return coarse + 0.5 * _fine_cross_entropy(belief, truth) + 0.5 * robust + likelihood


def coarse_target(truth: Tensor, hypotheses: int) -> Tensor:
    """Share of each hypothesis in a cell's pixels, (N, K, H/4, W/4); each pixel's is split between its two neighbours."""
    count, _, height, width = truth.shape
    cells = truth.view(count, height // COARSE, COARSE, width // COARSE, COARSE).transpose(2, 3).flatten(3)
    position = cells.clamp(0, hypotheses - 1.001)  # (N, h, w, 16)
    below = position.floor()
    share = (position - below) / COARSE**2
    target = truth.new_zeros(*cells.shape[:3], hypotheses)
    target.scatter_add_(3, below.long(), 1 / COARSE**2 - share)
    target.scatter_add_(3, below.long() + 1, share)
    return target.permute(0, 3, 1, 2)


def _fine_cross_entropy(belief: Belief, truth: Tensor) -> Tensor:
    """Where a cell lies on one surface and the truth is within reach of the first estimate."""
    cell = functional.avg_pool2d(truth, FINE)
    flat = functional.max_pool2d(truth, FINE) + functional.max_pool2d(-truth, FINE) < _STEPS_APART
    position = cell - belief.coarse_disparity.detach()
    known = flat & (position > OFFSETS[0]) & (position < OFFSETS[-1])
    offsets = truth.new_tensor(OFFSETS).view(1, -1, 1, 1)
    target = (1.0 - (position - offsets).abs() / (OFFSETS[1] - OFFSETS[0])).clamp(min=0.0)
    entropy = -(target * belief.fine.clamp(min=1e-6).log()).sum(1, keepdim=True)
    return (entropy * known).sum() / known.sum().clamp(min=1)


def held_out_metrics(network: StereoNetwork, recipe: StereoRecipe) -> dict[str, float]:
    """Over every pixel of the held-out scenes' pairs, px: mean and median error, and the mean of the 90 % with least sigma."""
    errors, sigmas = [], []
    data = recipe.finish or recipe.data
    with torch.no_grad():
        for index in range(data.held_out):
            capture = render_capture(recipe.seed, index, data)
            views = torch.from_numpy(capture.views[:, None].astype(np.float32) / 255)
            belief = network(views[:1], views[1:2], recipe.disparities)
            errors.append(np.abs(belief.disparity[0, 0].numpy() - capture.disparity.astype(np.float32)).ravel())
            sigmas.append(belief.log_sigma.numpy().ravel())
    error, sigma = np.concatenate(errors), np.concatenate(sigmas)
    surest = error[np.argsort(sigma)[: round(0.9 * len(error))]]
    values = {"epe": error.mean(), "median": np.median(error), "epe_of_surest_90_percent": surest.mean()}
    return {f"held_out_{name}_px": round(float(value), 4) for name, value in values.items()}


def _card(recipe: StereoRecipe, network: StereoNetwork) -> dict[str, object]:
    supervised = recipe.supervision == "truth"
    sigma = (
        "sigma was learnt on rendered rigs only"
        if supervised
        else "sigma says how unlike the views are, and is not in px"
    )
    return {
        "name": "stereo_net",
        "recipe": dataclasses.asdict(recipe),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "data": "procedural scenes rendered by edge_dp, three pinhole cameras in a row; no photographs",
        "ground_truth_used": supervised,
        "licences": {"code": "Apache-2.0", "weights": "Apache-2.0", "data": "none: rendered by edge_dp"},
        "metrics": held_out_metrics(network, recipe),
        "limits": [
            "rectified grey pairs, D from 0 to 64 px unless told otherwise; smaller at a lower resolution",
            "trained on planar layers with synthetic texture: real surfaces that curve, mirror or shine are outside of that",
            sigma,
        ],
        "machine": {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
        "versions": {"edge_dp": VERSION, "torch": torch.__version__},
    }


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Whole or not at all; a full disk is an OSError here, where safetensors' own writer has an error of its own."""
    packed = save({name: value.detach().contiguous() for name, value in tensors.items()}, metadata)
    with atomic_write(path) as temporary:
        temporary.write_bytes(packed)
