import math

import pytest
import yaml

from edge_dp.errors import InputError, SchemaError
from edge_dp.models.registry import STUDENTS, build_student
from edge_dp.simulation.capture import SimulationConfig
from edge_dp.training.recipe import RECIPES, read_recipe


def recipe_file(tmp_path, text=None, **changes):
    data = yaml.safe_load((RECIPES / "dp_disparity_s.yaml").read_text())
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
    scene, teacher = recipe.data.simulation.scene, recipe.teacher
    assert scene.height % multiple == scene.width % multiple == 0
    # The nearest surface of the deepest scene must lie within the teacher's search.
    low, high = scene.disparity
    assert 2 + recipe.data.simulation.rig_gain * (high - low) < teacher.disparities
    assert 0 < recipe.quantised_stage.observe_steps < recipe.quantised_stage.steps


def test_recipe_is_read_with_its_nested_settings(tmp_path):
    path = recipe_file(tmp_path, seed=9, data__simulation__scene__layers=[3, 4], teacher__agreement=2)
    recipe = read_recipe(path)
    assert recipe.seed == 9
    assert recipe.data.simulation.scene.layers == (3, 4)
    assert recipe.teacher.agreement == 2.0
    assert recipe.data.simulation.lens.alpha == SimulationConfig().lens.alpha  # what is not said is the default


@pytest.mark.parametrize(
    ("changes", "message"),
    [
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
