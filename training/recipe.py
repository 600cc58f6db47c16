"""A recipe: everything a training run depends on, as YAML, checked before anything starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from edge_dp.config import from_mapping
from edge_dp.errors import InputError, SchemaError
from edge_dp.files import yaml_load
from edge_dp.models.registry import student_entry
from edge_dp.simulation.capture import SimulationConfig
from edge_dp.training.teachers.sgm import SgmTeacher

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True, slots=True)
class DataRecipe:
    """The simulated captures."""

    captures: int
    """For training."""
    held_out: int
    """For evaluation, beside them."""
    simulation: SimulationConfig = field(default_factory=SimulationConfig)

    def __post_init__(self) -> None:
        if self.captures < 1 or self.held_out < 1:
            raise SchemaError(f"expected at least one capture to train and one held out, found {self}")


@dataclass(frozen=True, slots=True)
class StageRecipe:
    """One stage of optimisation: AdamW, one-cycle learning rate."""

    steps: int
    batch: int
    learning_rate: float
    weight_decay: float = 1e-4
    observe_steps: int = 0
    """Quantisation-aware stage only: steps until the activations' ranges are frozen."""
    rounding_noise: float = 0.0
    """Quantisation-aware stage only, once ranges are frozen: half-width of uniform noise on activations, quantisation steps."""
    blank_share: float = 0.0
    """Of captures whose views give way to noise or constants, so that the network is calm where nothing can be matched."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.blank_share <= 1.0:
            raise SchemaError(f"blank_share must be from 0 to 1, found {self.blank_share}")
        if self.steps < 1 or self.batch < 1 or self.learning_rate <= 0:
            raise SchemaError(f"steps, batch and learning_rate must be positive, found {self}")
        if self.observe_steps > self.steps:
            raise SchemaError(f"observe_steps {self.observe_steps} is more than steps {self.steps}")
        if self.observe_steps < 0:
            raise SchemaError(f"observe_steps must not be negative, found {self.observe_steps}")


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole run."""

    name: str
    student: str
    seed: int
    data: DataRecipe
    float_stage: StageRecipe
    quantised_stage: StageRecipe
    teacher: SgmTeacher = field(default_factory=SgmTeacher)
    save_every: int = 250
    """Steps between two saves of the complete state."""

    def __post_init__(self) -> None:
        scene, rig_gain = self.data.simulation.scene, self.data.simulation.rig_gain
        multiple = 2 ** len(student_entry(self.student).widths)
        low, high = scene.disparity
        if self.quantised_stage.observe_steps < 1:
            raise SchemaError("quantised_stage: observe_steps must be at least 1: ranges are frozen after it")
        if self.seed < 0 or self.save_every < 1:
            raise SchemaError(
                f"seed must not be negative and save_every positive, found {self.seed} and {self.save_every}"
            )
        if scene.height % multiple or scene.width % multiple:
            raise SchemaError(
                f"data: simulation: scene: height and width must be multiples of {multiple} for {self.student}, "
                f"found {scene.height} and {scene.width}"
            )
        if not low < high:
            raise SchemaError(
                f"data: simulation: scene: disparity must rise from nearest to farthest, found {low} to {high}"
            )
        if (widest := 2.0 + rig_gain * (high - low)) > self.teacher.disparities:
            raise SchemaError(
                f"teacher: disparities {self.teacher.disparities} is less than the rig's largest, {widest}"
            )


def read_recipe(name_or_path: str | Path) -> Recipe:
    """Read a shipped recipe by name or any recipe by path.

    Raises:
        InputError: there is no such recipe.
        SchemaError: it does not fit; the message names file and field.
    """
    shipped = RECIPES / f"{name_or_path}.yaml"
    path = shipped if shipped.is_file() else Path(name_or_path)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise InputError(
            f"{name_or_path}: no such recipe file, and no shipped recipe of that name; shipped are {known}"
        )
    return from_mapping(Recipe, yaml_load(path), str(path))
