import math
from dataclasses import dataclass, field
from typing import Any, Optional

import pytest

from edge_dp.config import from_mapping
from edge_dp.errors import SchemaError


@dataclass(frozen=True)
class Lens:
    focal_mm: float
    aperture: float = 1.8


@dataclass(frozen=True)
class Camera:
    name: str
    lens: Lens
    size: tuple[int, int] = (4, 6)
    gains: tuple[float, ...] = ()
    lenses: tuple[Lens, ...] = ()
    flip: bool = False
    exposure: float | None = None
    note: Optional[str] = None  # noqa: UP045  # both spellings of the hint are read
    tags: dict[str, int] = field(default_factory=dict)
    extra: Any = None
    derived: int = field(init=False, default=3)


MINIMAL = {"name": "phone", "lens": {"focal_mm": 4.38}}


def read(changes, strict=True):
    return from_mapping(Camera, MINIMAL | changes, "camera.yaml", strict=strict)


def test_nested_mappings_become_nested_dataclasses_with_defaults():
    expected = Camera("phone", Lens(4.38, 1.8))
    assert read({}) == expected
    full = {
        "lens": {"focal_mm": 5, "aperture": 2.0},
        "size": [3, 2],
        "gains": [1, 2.5],
        "lenses": [{"focal_mm": 1.0}, {"focal_mm": 2.0}],
        "flip": True,
        "exposure": 1,
        "note": "x",
        "tags": {"a": 1},
        "extra": {"anything": [1]},
    }
    camera = read(full)
    assert camera == Camera(
        "phone",
        Lens(5.0, 2.0),
        (3, 2),
        (1.0, 2.5),
        (Lens(1.0), Lens(2.0)),
        True,
        1.0,
        "x",
        {"a": 1},
        {"anything": [1]},
    )
    assert isinstance(camera.lens.focal_mm, float)  # a whole number in YAML is a number too
    assert isinstance(camera.exposure, float)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nme": 1}, r"^camera.yaml: unknown field 'nme'; known are name, lens, size"),
        ({"derived": 1}, r"^camera.yaml: unknown field 'derived'"),
        ({3: 1}, r"^camera.yaml: unknown field '3'"),
        (
            {"lens": {"focal_mm": 1.0, "zoom": 2}},
            r"^camera.yaml: lens: unknown field 'zoom'; known are focal_mm, aperture",
        ),
        ({"lens": {}}, r"^camera.yaml: lens: field 'focal_mm' is missing"),
        ({"lens": 4.38}, r"^camera.yaml: lens: expected a mapping with the fields of Lens, found float 4.38"),
        ({"lens": None}, r"^camera.yaml: lens: expected a mapping"),
        ({"lens": {"focal_mm": "4"}}, r"^camera.yaml: lens: focal_mm: expected float, found str '4'"),
        ({"lens": {"focal_mm": True}}, r"focal_mm: expected float, found bool"),
        ({"lens": {"focal_mm": math.nan}}, r"^camera.yaml: lens: focal_mm: expected a finite number, found nan"),
        ({"exposure": math.inf}, r"exposure: expected a finite number, found inf"),
        ({"gains": [1.0, -math.inf]}, r"^camera.yaml: gains\[1\]: expected a finite number, found -inf"),
        ({"name": None}, r"^camera.yaml: name: expected str, found NoneType"),
        ({"name": 7}, r"^camera.yaml: name: expected str, found int 7"),
        ({"flip": 1}, r"^camera.yaml: flip: expected bool, found int 1"),
        ({"size": [1]}, r"^camera.yaml: size: expected 2 values, found 1"),
        ({"size": [1, 2.0]}, r"^camera.yaml: size\[1\]: expected int, found float 2.0"),
        ({"size": [True, 2]}, r"^camera.yaml: size\[0\]: expected int, found bool"),
        ({"size": "12"}, r"^camera.yaml: size: expected a list, found str '12'"),
        ({"lenses": [{"focal_mm": 1.0}, {}]}, r"^camera.yaml: lenses\[1\]: field 'focal_mm' is missing"),
        ({"exposure": "auto"}, r"^camera.yaml: exposure: expected float, found str 'auto'"),
        ({"note": 3}, r"^camera.yaml: note: expected str, found int 3"),
        ({"tags": [1]}, r"^camera.yaml: tags: expected a mapping, found list"),
        ({"tags": {"a": "b"}}, r"^camera.yaml: tags.a: expected int, found str 'b'"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(changes, message):
    with pytest.raises(SchemaError, match=message):
        read(changes)


def test_missing_field_is_named():
    with pytest.raises(SchemaError, match=r"^camera.yaml: field 'lens' is missing"):
        from_mapping(Camera, {"name": "phone"}, "camera.yaml")


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_anything_but_a_mapping_is_refused(data):
    with pytest.raises(SchemaError, match=r"^camera.yaml: expected a mapping with the fields of Camera, found"):
        from_mapping(Camera, data, "camera.yaml")


def test_null_is_allowed_only_where_the_field_says_so():
    assert read({"exposure": None, "note": None}).exposure is None


def test_unknown_fields_are_passed_over_at_every_depth_when_not_strict():
    changes = {"newer": 1, "lens": {"focal_mm": 4.38, "zoom": 2}, "lenses": [{"focal_mm": 1.0, "zoom": 2}]}
    assert read(changes, strict=False) == Camera("phone", Lens(4.38), lenses=(Lens(1.0),))
    with pytest.raises(SchemaError, match="expected str"):  # types are checked all the same
        read({"name": 3}, strict=False)
    with pytest.raises(SchemaError, match="'focal_mm' is missing"):
        read({"lens": {"newer": 1}}, strict=False)


def test_long_values_are_cut_in_messages():
    with pytest.raises(SchemaError) as error:
        read({"name": ["x" * 10_000]})
    assert len(str(error.value)) < 200


def test_whole_number_beyond_float_is_refused():
    with pytest.raises(SchemaError, match="exposure"):
        read({"exposure": 10**400})
