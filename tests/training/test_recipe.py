import math

import pytest
import yaml

from edge_dp.config import from_mapping
from edge_dp.errors import InputError, SchemaError
from edge_dp.models.checkpoint import read_checkpoint, shipped_checkpoints
from edge_dp.models.registry import STUDENTS, build_student
from edge_dp.simulation.capture import SimulationConfig
from edge_dp.training.recipe import RECIPES, Recipe, read_recipe


def recipe_file(tmp_path, text=None, **changes):
    data = yaml.safe_load((RECIPES / "dp_disparity_s.yaml").read_text())
    data["targets"] = {"supervision": "labels", "sigma": "none"}
    for stage in ("float_stage", "quantised_stage"):
        data[stage]["loss"] = {"laplace_nll": 1.0, "l1": 1.0}
    for path, value in changes.items():
        *parents, key = path.split("__")
        place = data
        for parent in parents:
            place = place.setdefault(parent, {})
        place[key] = value
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(data) if text is None else text)
    return path


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipe_is_read_by_name_and_trains_a_known_student(path):
    recipe = read_recipe(path.stem)
    assert recipe == read_recipe(path)
    assert recipe.name == path.stem and recipe.student in STUDENTS
    multiple = build_student(recipe.student).input_multiple
    scene = recipe.data.simulation.scene
    assert scene.height % multiple == scene.width % multiple == 0
    # The nearest surface of the deepest scene must lie within the teacher's search.
    low, high = scene.disparity
    if recipe.teacher.name == "sgm":
        assert 2 + recipe.data.simulation.rig_gain * (high - low) < recipe.teacher.options["disparities"]
    if recipe.quantised_stage is not None:
        assert 0 < recipe.quantised_stage.observe_steps < recipe.quantised_stage.steps


@pytest.mark.parametrize("name", shipped_checkpoints())
def test_shipped_weights_were_trained_by_the_shipped_recipe(name):
    """As it would be read today: settings that came later have the default, which changes nothing."""
    used = read_checkpoint(name).training["recipe"]
    assert from_mapping(Recipe, used, name) == read_recipe(name)


def test_recipe_is_read_with_its_nested_settings(tmp_path):
    path = recipe_file(tmp_path, seed=9, data__simulation__scene__layers=[3, 4], teacher__options__agreement=2)
    recipe = read_recipe(path)
    assert recipe.seed == 9
    assert recipe.data.simulation.scene.layers == (3, 4)
    assert recipe.teacher.options["agreement"] == 2.0
    assert recipe.data.simulation.lens.alpha == SimulationConfig().lens.alpha  # what is not said is the default


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"float_stage__observe_steps": 3}, r"mine\.yaml: float_stage: unknown field 'observe_steps'"),
        ({"quantised_stage__precision": "bf16"}, r"mine\.yaml: quantised_stage: unknown field 'precision'"),
        ({"quantised_stage": {"steps": 9, "batch": 2, "learning_rate": 0.1}}, r"field 'observe_steps' is missing"),
        ({"float_stage__loss__l2": 1.0}, r"mine\.yaml: float_stage: loss: no loss is called 'l2'; known are l1, "),
        ({"companion": "dp_disparity_xs"}, r"companion: dp_disparity_s joins no other student, found dp_disparity_xs"),
        ({"student": "dp_disparity_m"}, r"companion: dp_disparity_m joins dp_disparity_s, found none"),
        ({"float_stage__crop": [64]}, r"float_stage: crop: expected 2 values, found 1"),
        ({"teacher__options__blocks": 3}, r"mine\.yaml: teacher: options: unknown field 'blocks'"),
        ({"epochs": 3}, r"mine\.yaml: unknown field 'epochs'"),
        ({"data__simulation__scene__hight": 3}, r"mine\.yaml: data: simulation: scene: unknown field 'hight'"),
        ({"float_stage__steps": 10.5}, r"mine\.yaml: float_stage: steps: expected int, found float 10\.5"),
        ({"float_stage__learning_rate": "1e-3"}, r"mine\.yaml: float_stage: learning_rate: expected float, found str"),
        ({"float_stage__learning_rate": math.nan}, r"float_stage: learning_rate: expected a finite number"),
        ({"data__simulation__scene__disparity": [1.0]}, r"scene: disparity: expected 2 values, found 1"),
        ({"text": "name: x"}, r"mine\.yaml: field 'student' is missing"),
        ({"text": "a: [1"}, r"mine\.yaml: not YAML"),
        ({"text": "- 1"}, r"mine\.yaml: expected a mapping with the fields of Recipe"),
    ],
)
def test_recipe_that_does_not_fit_is_refused_with_its_place(tmp_path, changes, message):
    with pytest.raises(SchemaError, match=message):
        read_recipe(recipe_file(tmp_path, **changes))


CONTRADICTIONS = [
    ({"quantised_stage__steps": 10, "quantised_stage__observe_steps": 11}, "observe_steps 11 is more than steps 10"),
    ({"float_stage__steps": 0}, "steps, batch and learning_rate must be positive"),
    ({"quantised_stage__batch": -1}, "steps, batch and learning_rate must be positive"),
    ({"float_stage__learning_rate": 0.0}, "steps, batch and learning_rate must be positive"),
    ({"data__captures": 0}, "at least one capture"),
    ({"data__held_out": 0}, "at least one capture"),
    ({"data__simulated": "later"}, "simulated: expected workers or loop, found 'later'"),
    ({"float_stage__ema": 1.0}, "ema must be at least 0, which is off, and less than 1, found 1.0"),
    ({"float_stage__ema": -0.1}, "ema must be at least 0"),
    ({"float_stage__warmup": 1.0}, "warmup must be a share"),
    ({"float_stage__schedule_steps": 1}, "schedule_steps must be at least steps, "),
    ({"float_stage__linear_steps": -1}, "linear_steps must not be negative, found -1"),
    ({"float_stage__clip_norm": 0.0}, "clip_norm must be positive"),
    ({"float_stage__weight_decay": -1.0}, "weight_decay must not be negative"),
    ({"float_stage__schedule": "linear"}, "schedule: expected cosine or one_cycle, found 'linear'"),
    ({"float_stage__precision": "fp16"}, "precision: expected fp32 or bf16 or fp64, found 'fp16'"),
    ({"float_stage__loss": {"l1": 0.0}}, "l1: expected a weight above 0"),
    ({"float_stage__loss": {}}, "expected at least one that compares with the label, found none"),
    ({"float_stage__loss": {"edge_aware_smoothness": 1.0}}, "compares with the label, found edge_aware_smoothness"),
    ({"quantised_stage__range_quantile": 0.5}, "range_quantile must be more than 0.5 and at most 1, found 0.5"),
    ({"quantised_stage__rounding_noise": -0.5}, "rounding_noise must not be negative"),
    ({"targets__supervision": "truth"}, "supervision: expected labels or ground_truth"),
    ({"targets__sigma": "teacher"}, "sigma: expected none or label"),
    ({"targets__supervision": "ground_truth", "targets__sigma": "label"}, "sigma: label contradicts supervision"),
    ({"targets__use_mask": False}, "use_mask: false contradicts supervision: labels, .*set labels: check: none"),
    ({"data__labelled": ["x"], "data__simulated": "loop"}, "labelled contradicts simulated: loop"),
    ({"labels__check": "twice"}, "check: expected one of none, left_right, third_view, found 'twice'"),
    ({"log__every": 0}, "every and pictures_every must be positive"),
]

ACROSS = [
    ({"float_stage__loss": {"gaussian_kl": 1.0}}, "float_stage: loss: gaussian_kl needs targets: sigma: label"),
    ({"targets__sigma": "label"}, "no stage has a loss that uses it"),
    ({"float_stage__linear_steps": 1, "exposure": {}}, "float_stage: linear_steps: 1 contradicts exposure: transfer"),
    ({"float_stage__crop": [48, 64]}, "float_stage: crop must be multiples of 32 for dp_disparity_s, found 48 and 64"),
    ({"quantised_stage__crop": [224, 256]}, "quantised_stage: crop: 224x256 is larger than the captures, 192x256"),
]


@pytest.mark.parametrize(("changes", "message"), CONTRADICTIONS)
def test_recipe_that_contradicts_itself_is_refused(tmp_path, changes, message):
    with pytest.raises(SchemaError, match=message):
        read_recipe(recipe_file(tmp_path, **changes))


@pytest.mark.parametrize(("changes", "message"), CONTRADICTIONS)
def test_contradiction_in_a_recipe_is_refused_with_file_and_stage(tmp_path, changes, message):
    place = next(iter(changes)).split("__")[0]
    with pytest.raises(SchemaError, match=rf"mine\.yaml: {place}: .*{message}"):
        read_recipe(recipe_file(tmp_path, **changes))


@pytest.mark.parametrize(("changes", "message"), ACROSS)
def test_contradiction_between_two_parts_names_both(tmp_path, changes, message):
    with pytest.raises(SchemaError, match=rf"mine\.yaml: .*{message}"):
        read_recipe(recipe_file(tmp_path, **changes))


def test_kl_with_the_sigma_of_labels_is_accepted(tmp_path):
    path = recipe_file(tmp_path, float_stage__loss={"gaussian_kl": 0.5, "l1": 1}, targets__sigma="label")
    assert read_recipe(path).float_stage.loss == {"gaussian_kl": 0.5, "l1": 1.0}


def test_changes_are_put_in_before_the_recipe_is_checked(tmp_path):
    path = recipe_file(tmp_path)
    changes = ["float_stage.steps=7", "float_stage.learning_rate=1e-3", "data.simulation.scene.layers=[3, 4]"]
    changed = read_recipe(path, [*changes, "quantised_stage=null", "float_stage.loss.l1=2", "labels.check=none"])
    assert changed.float_stage.steps == 7 and changed.float_stage.learning_rate == 0.001
    assert changed.data.simulation.scene.layers == (3, 4)
    assert changed.quantised_stage is None and list(changed.stages) == ["float"]
    assert changed.float_stage.loss == {"laplace_nll": 1.0, "l1": 2.0}
    assert changed.labels.check == "none"
    assert changed.seed == read_recipe(path).seed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("float_stage.stepps=7", r"mine\.yaml: float_stage: unknown field 'stepps'"),
        ("float_stage.steps=0", "steps, batch and learning_rate must be positive"),
        ("float_stage.steps=many", r"float_stage: steps: expected int, found str 'many'"),
        ("float_stage.steps", r"expected key\.path=value such as float_stage\.steps=100"),
        ("float_stage..steps=1", r"expected key\.path=value"),
        ("seed.a=1", r"seed\.a=1: a is no field of 1"),
        ("data=[1", r"data=\[1: expected a value in YAML"),
    ],
)
def test_change_that_does_not_fit_is_refused(tmp_path, change, message):
    with pytest.raises((SchemaError, InputError), match=message):
        read_recipe(recipe_file(tmp_path), [change])


@pytest.mark.parametrize(
    "changes",
    [
        {"student": "no_such"},
        {"save_every": 0},
        {"seed": -1},
        {"quantised_stage__observe_steps": -1},
        {"quantised_stage__blank_share": 1.5},
        {"data__simulation__scene__height": 100},
        {"data__simulation__scene__disparity": [5.0, -4.0]},
        {"data__simulation__rig_gain": 12.0},
    ],
    ids=lambda changes: next(iter(changes)).split("__")[-1],
)
def test_recipe_that_cannot_be_trained_is_refused_on_reading(tmp_path, changes):
    """No 64-px search holds the disparities of a rig with gain 12; no student takes a height of 100."""
    with pytest.raises((SchemaError, InputError)):
        read_recipe(recipe_file(tmp_path, **changes))


def test_unknown_recipe_lists_the_shipped_ones(tmp_path):
    for place in ("no_such", tmp_path / "no_such.yaml", tmp_path):
        with pytest.raises(InputError, match=r"no such recipe file, .*shipped are .*dp_disparity_s"):
            read_recipe(place)
