"""A recipe: everything a training run depends on, as YAML, checked before anything starts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from edge_dp.config import from_mapping
from edge_dp.errors import InputError, SchemaError
from edge_dp.files import yaml_load
from edge_dp.models.registry import student_entry
from edge_dp.preprocessing import ExposureNormalisation
from edge_dp.simulation.capture import SimulationConfig
from edge_dp.training.labels.config import LabelConfig
from edge_dp.training.labels.teachers import TeacherChoice
from edge_dp.training.loop.objective import LOSSES, check_losses
from edge_dp.training.loop.schedule import SCHEDULES
from edge_dp.training.teachers.registry import teacher_entry

RECIPES = Path(__file__).parent / "recipes"
SIMULATED = ("workers", "loop")
SUPERVISION = ("labels", "ground_truth")
SIGMAS = ("none", "label")
PRECISIONS = ("fp32", "bf16", "fp64")


@dataclass(frozen=True, slots=True)
class DataRecipe:
    """The simulated captures."""

    captures: int
    """For training; none where there are labelled ones."""
    held_out: int
    """For evaluation, beside them."""
    simulated: str = "workers"
    """``workers``: all captures before training, by processes, kept in shards. ``loop``: each when its batch is wanted, by
    threads and the device, and never again beyond ``captures`` different ones."""
    simulation: SimulationConfig = field(default_factory=SimulationConfig)
    labelled: tuple[str, ...] = ()
    """Folders that ``edge-dp label`` wrote, of captures of the simulation's size, to train on besides."""

    def __post_init__(self) -> None:
        if self.captures < (0 if self.labelled else 1) or self.held_out < 1:
            raise SchemaError(f"expected at least one capture to train and one held out, found {self}")
        _one_of("simulated", self.simulated, SIMULATED)
        if self.labelled and self.simulated == "loop":
            raise SchemaError("labelled contradicts simulated: loop, which keeps no captures; set simulated: workers")


@dataclass(frozen=True, slots=True)
class TargetRecipe:
    """What the student is to say."""

    supervision: str = "labels"
    """``labels`` of the teacher, or the renderer's ``ground_truth``, to compare with."""
    sigma: str = "none"
    """``label``: losses see how sure the teacher is of each pixel; ``none``: all labels are equally hard."""
    use_mask: bool = True
    """Only pixels where the labels hold, also of the ground truth, so that both see the same pixels."""

    def __post_init__(self) -> None:
        _one_of("supervision", self.supervision, SUPERVISION)
        _one_of("sigma", self.sigma, SIGMAS)
        if self.supervision == "ground_truth" and self.sigma == "label":
            raise SchemaError(
                "sigma: label contradicts supervision: ground_truth, which has no spread; set sigma: none"
            )
        if self.supervision == "labels" and not self.use_mask:
            raise SchemaError(
                "use_mask: false contradicts supervision: labels, which are 0 outside the mask; to do without the teacher's "
                "consistency checks, set labels: check: none"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRecipe:
    """One stage of optimisation, by AdamW unless ``kernel_rate`` is given."""

    steps: int
    batch: int
    """Captures per step, over all processes."""
    learning_rate: float
    """The highest of the schedule."""
    kernel_rate: float | None = None
    """As ``learning_rate``, of Muon for convolutions' kernels (``edge_dp.training.loop.optimiser``); none: AdamW for all."""
    weight_decay: float = 1e-4
    schedule: str = "cosine"
    """``cosine`` or ``one_cycle``, see ``edge_dp.training.loop.schedule``."""
    schedule_steps: int | None = None
    """Steps that the schedule is made for, where the stage ends before it does; none: as many as ``steps``. On captures of real
    cameras the average of weights whose rate is still high can be better than what a rate of 0 makes of it."""
    warmup: float = 0.1
    """Share of the schedule's steps over which the learning rate rises."""
    clip_norm: float = 5.0
    """Largest norm of the gradient."""
    ema: float = 0.0
    """Decay of the moving average of the weights, which then is what is evaluated and shipped; 0: the weights themselves."""
    crop: tuple[int, int] | None = None
    """Height and width of a random part of each capture; the whole one unless given."""
    linear_steps: int = 0
    """Steps at the beginning in which views show light itself, whatever the exposure's transfer: all, where there are no more."""
    blank_share: float = 0.0
    """Of captures whose views give way to noise or constants, so that the network is calm where nothing can be matched."""
    loss: dict[str, float] = field(default_factory=lambda: {"laplace_nll": 1.0, "l1": 1.0})
    """Weights of the losses by name, see ``edge_dp.training.loop.objective``."""

    def blank_share_at(self, step: int) -> float:
        """The share in the batch of ``step``."""
        return self.blank_share

    def __post_init__(self) -> None:
        if not 0.0 <= self.blank_share <= 1.0:
            raise SchemaError(f"blank_share must be from 0 to 1, found {self.blank_share}")
        if self.steps < 1 or self.batch < 1 or self.learning_rate <= 0:
            raise SchemaError(f"steps, batch and learning_rate must be positive, found {self}")
        if self.kernel_rate is not None and self.kernel_rate <= 0:
            raise SchemaError(f"kernel_rate must be positive, or left out for AdamW alone, found {self.kernel_rate}")
        if self.weight_decay < 0:
            raise SchemaError(f"weight_decay must not be negative, found {self.weight_decay}")
        _one_of("schedule", self.schedule, SCHEDULES)
        if self.schedule_steps is not None and self.schedule_steps < self.steps:
            raise SchemaError(f"schedule_steps must be at least steps, {self.steps}, found {self.schedule_steps}")
        if self.linear_steps < 0:
            raise SchemaError(f"linear_steps must not be negative, found {self.linear_steps}")
        if not 0.0 <= self.warmup < 1.0:
            raise SchemaError(f"warmup must be a share of the steps, at least 0 and less than 1, found {self.warmup}")
        if self.clip_norm <= 0:
            raise SchemaError(f"clip_norm must be positive, found {self.clip_norm}")
        if not 0.0 <= self.ema < 1.0:
            raise SchemaError(f"ema must be at least 0, which is off, and less than 1, found {self.ema}")
        check_losses(self.loss)


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatStageRecipe(StageRecipe):
    """The stage in float."""

    precision: str = "fp32"
    """``bf16``: convolutions by autocast; losses, weights and their moments stay float32. ``fp64``: everything in double, slowly,
    so that two runs can be compared: in float32 another order of additions grows to another run within a few steps of Adam."""
    compile: bool = False
    """By ``torch.compile``; needs a C++ compiler, and on a GPU Triton."""

    def __post_init__(self) -> None:
        StageRecipe.__post_init__(self)
        _one_of("precision", self.precision, PRECISIONS)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantisedStageRecipe(StageRecipe):
    """The quantisation-aware stage, batch-norm folded: always float32 under its fake quantisation."""

    observe_steps: int
    """Steps until the activations' ranges are frozen."""
    range_quantile: float = 1.0
    """Of an activation's values in a batch, where its range ends; 1: at the extremes, so that nothing is cut."""
    rounding_noise: float = 0.0
    """Once ranges are frozen: half-width of uniform noise on activations, quantisation steps."""

    def blank_share_at(self, step: int) -> float:
        """None while ranges are observed: what blank views make of the first layers is wild, and no scene needs it resolved."""
        return self.blank_share if step >= self.observe_steps else 0.0

    def __post_init__(self) -> None:
        StageRecipe.__post_init__(self)
        if self.observe_steps > self.steps:
            raise SchemaError(f"observe_steps {self.observe_steps} is more than steps {self.steps}")
        if self.observe_steps < 1:
            raise SchemaError(
                f"observe_steps must be at least 1: ranges are frozen after it; found {self.observe_steps}"
            )
        if not 0.5 < self.range_quantile <= 1.0:
            raise SchemaError(f"range_quantile must be more than 0.5 and at most 1, found {self.range_quantile}")
        if self.rounding_noise < 0:
            raise SchemaError(f"rounding_noise must not be negative, found {self.rounding_noise}")


@dataclass(frozen=True, slots=True)
class LogRecipe:
    """What is written down on the way."""

    every: int = 50
    """Steps between two lines of log.jsonl."""
    pictures_every: int = 1000
    """Steps between two pictures of predictions."""

    def __post_init__(self) -> None:
        if self.every < 1 or self.pictures_every < 1:
            raise SchemaError(f"every and pictures_every must be positive, found {self.every}, {self.pictures_every}")


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole run."""

    name: str
    student: str
    seed: int
    data: DataRecipe
    float_stage: FloatStageRecipe
    companion: str | None = None
    """Checkpoint, by name or folder, of the smaller student that the float student is joined with before it is quantised, see
    ``DpDisparity.join``; for students that have one."""
    quantised_stage: QuantisedStageRecipe | None = None
    """Without it the student stays in float, and its checkpoint has no ranges to export in int8."""
    targets: TargetRecipe = field(default_factory=TargetRecipe)
    exposure: ExposureNormalisation = field(default_factory=ExposureNormalisation)
    """How the student is shown the views, in training and wherever it is deployed."""
    teacher: TeacherChoice = field(default_factory=TeacherChoice)
    labels: LabelConfig = field(default_factory=LabelConfig)
    """How what the teacher says becomes labels."""
    log: LogRecipe = field(default_factory=LogRecipe)
    save_every: int = 250
    """Steps between two saves of the complete state."""

    def __post_init__(self) -> None:
        if self.seed < 0 or self.save_every < 1:
            raise SchemaError(
                f"seed must not be negative and save_every positive, found {self.seed} and {self.save_every}"
            )
        self._check_companion()
        self._check_sizes()
        self._check_sigma()
        self._check_disparities()
        self._check_light()

    @property
    def stages(self) -> dict[str, StageRecipe]:
        """The stages by name, in order."""
        stages: dict[str, StageRecipe] = {"float": self.float_stage}
        return stages if self.quantised_stage is None else stages | {"quantised": self.quantised_stage}

    def _check_companion(self) -> None:
        wanted = student_entry(self.student).companion
        if (wanted is None) != (self.companion is None):
            found = self.companion or "none"
            raise SchemaError(f"companion: {self.student} joins {wanted or 'no other student'}, found {found}")

    def _check_sizes(self) -> None:
        multiple = 2 ** len(student_entry(self.student).widths)
        scene = self.data.simulation.scene
        sizes = {"data: simulation: scene: height and width": (scene.height, scene.width)}
        sizes |= {f"{name}_stage: crop": stage.crop for name, stage in self.stages.items() if stage.crop}
        for where, (height, width) in sizes.items():
            if height < 1 or width < 1 or height % multiple or width % multiple:
                raise SchemaError(
                    f"{where} must be multiples of {multiple} for {self.student}, found {height} and {width}"
                )
            if height > scene.height or width > scene.width:
                raise SchemaError(
                    f"{where}: {height}x{width} is larger than the captures, {scene.height}x{scene.width}"
                )

    def _check_disparities(self) -> None:
        low, high = self.data.simulation.scene.disparity
        if not low < high:
            raise SchemaError(
                f"data: simulation: scene: disparity must rise from nearest to farthest, found {low} to {high}"
            )
        options = from_mapping(teacher_entry(self.teacher.name).options, self.teacher.options, "teacher: options")
        searched = getattr(options, "disparities", math.inf)
        if (widest := 2.0 + self.data.simulation.rig_gain * (high - low)) > searched:
            raise SchemaError(f"teacher: options: disparities {searched} is less than the rig's largest, {widest}")

    def _check_light(self) -> None:
        for name, stage in self.stages.items():
            if stage.linear_steps and self.exposure.transfer == "linear":
                raise SchemaError(
                    f"{name}_stage: linear_steps: {stage.linear_steps} contradicts exposure: transfer: linear; leave it out"
                )

    def _check_sigma(self) -> None:
        for name, stage in self.stages.items():
            for loss in stage.loss:
                if "label_sigma" in LOSSES[loss].inputs and self.targets.sigma == "none":
                    raise SchemaError(f"{name}_stage: loss: {loss} needs targets: sigma: label, found none")
        used = {key for stage in self.stages.values() for loss in stage.loss for key in LOSSES[loss].inputs}
        if self.targets.sigma == "label" and "label_sigma" not in used:
            raise SchemaError(
                "targets: sigma: label, but no stage has a loss that uses it; set none, or use gaussian_kl"
            )


def find_recipe(folder: Path, name_or_path: str | Path) -> Path:
    """The recipe of that name among those shipped in ``folder``, or at that path.

    Raises:
        InputError: there is neither.
    """
    shipped = folder / f"{name_or_path}.yaml"
    path = shipped if shipped.is_file() else Path(name_or_path)
    if not path.is_file():
        known = ", ".join(sorted(shipped.stem for shipped in folder.glob("*.yaml")))
        raise InputError(
            f"{name_or_path}: no such recipe file, and no shipped recipe of that name; shipped are {known}"
        )
    return path


def read_recipe(name_or_path: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """Read a shipped recipe by name or any recipe by path.

    Args:
        changes: ``key.path=value`` each, value as YAML, put in before anything is checked.

    Raises:
        InputError: there is no such recipe, or a change is not written like that.
        SchemaError: it does not fit; the message names file and field.
    """
    path = find_recipe(RECIPES, name_or_path)
    data = yaml_load(path)
    for change in changes:
        data = _changed(data, change)
    return from_mapping(Recipe, data, str(path))


def _changed(data: Any, change: str) -> dict[str, Any]:
    key, equals, text = change.partition("=")
    names = key.split(".")
    if not equals or not all(names):
        raise InputError(f"{change}: expected key.path=value such as float_stage.steps=100")
    try:
        value = _plain(text)
    except yaml.YAMLError as error:
        raise InputError(f"{change}: expected a value in YAML, found {' '.join(str(error).split())}") from error
    return _replaced(data, names, value, change)


def _replaced(data: Any, names: list[str], value: Any, change: str) -> dict[str, Any]:
    if data is not None and not isinstance(data, Mapping):
        raise SchemaError(f"{change}: {names[0]} is no field of {data!r}"[:120])
    name, *rest = names
    old = dict(data or {})
    return old | {name: _replaced(old.get(name), rest, value, change) if rest else value}


def _plain(text: str) -> Any:
    """YAML's value, but 1e-3 is a number, as everywhere else but in YAML 1.1."""
    value = yaml.safe_load(text)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise SchemaError(f"{name}: expected {' or '.join(known)}, found {value!r}")
