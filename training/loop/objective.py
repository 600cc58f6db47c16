"""What a stage minimises: a weighted sum of the losses, named in the recipe.

The registry holds no tensors and imports no torch, so that a recipe is checked without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from edge_dp.errors import SchemaError
from edge_dp.models.confidence import B_MAX, LOG_RATIO

if TYPE_CHECKING:
    from torch import Tensor

    from edge_dp.training.loop.batches import Batch
    from edge_dp.training.losses import Mean


@dataclass(frozen=True, slots=True)
class LossEntry:
    """One loss.

    inputs: the maps that it takes before the mask, in order: ``disparity``, ``confidence`` and ``log_sigma`` of the student,
        ``label`` and ``label_sigma`` of the teacher, ``image``.
    """

    name: str
    inputs: tuple[str, ...]
    target: str


LOSSES: dict[str, LossEntry] = {
    name: LossEntry(name, inputs, f"edge_dp.training.losses:{name}")
    for name, inputs in (
        ("l1", ("disparity", "label")),
        ("huber", ("disparity", "label")),
        ("laplace_nll", ("disparity", "confidence", "label")),
        ("expected_l1", ("disparity", "label", "label_sigma")),
        ("laplace_cross_entropy", ("disparity", "confidence", "label", "label_sigma")),
        ("gaussian_nll", ("disparity", "log_sigma", "label")),
        ("gaussian_kl", ("disparity", "log_sigma", "label", "label_sigma")),
        ("affine_invariant_l1", ("disparity", "label")),
        ("gradient_matching", ("disparity", "label")),
        ("edge_aware_smoothness", ("disparity", "image")),
    )
}


def check_losses(weights: Mapping[str, float]) -> None:
    """Raise SchemaError unless ``weights`` name known losses, one at least that sees the label, with weights above 0."""
    for name, weight in weights.items():
        if name not in LOSSES:
            raise SchemaError(f"loss: no loss is called {name!r}; known are {', '.join(LOSSES)}")
        if not weight > 0:
            raise SchemaError(f"loss: {name}: expected a weight above 0, found {weight}; leave it out instead")
    if not any("label" in LOSSES[name].inputs for name in weights):
        raise SchemaError(
            f"loss: expected at least one that compares with the label, found {', '.join(weights) or 'none'}"
        )


def log_expected_error(confidence: Tensor) -> Tensor:
    """Ln b, ln px, of the confidence's code: the mean absolute error of a Laplace distribution."""
    return math.log(B_MAX) + confidence * LOG_RATIO


def log_sigma(confidence: Tensor) -> Tensor:
    """Ln sigma, ln px, of the Gaussian with the variance of the Laplace distribution that the code means: 2 b^2."""
    return log_expected_error(confidence) + 0.5 * math.log(2.0)


def objective(
    weights: Mapping[str, float], disparity: Tensor, confidence: Tensor, batch: Batch, mean: Mean
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum, to differentiate, and each loss by name.

    Args:
        weights: of the losses, by name.
        disparity, confidence: (N, 1, H/2, W/2), the student's outputs.
        mean: see ``edge_dp.training.losses.Mean``.
    """
    maps: dict[str, Callable[[], Tensor]] = {
        "disparity": lambda: disparity,
        "confidence": lambda: confidence,
        "log_sigma": lambda: log_sigma(confidence),
        "label": lambda: batch.label,
        "label_sigma": lambda: batch.sigma,
        "image": batch.image,
    }
    parts = {name: _function(name)(*(maps[key]() for key in LOSSES[name].inputs), batch.mask, mean) for name in weights}
    total = sum((weights[name] * value for name, value in parts.items()), disparity.new_zeros(()))
    return total, {name: value.detach() for name, value in parts.items()}


def _function(name: str) -> Callable[..., Tensor]:
    module, function = LOSSES[name].target.split(":")
    return getattr(import_module(module), function)
