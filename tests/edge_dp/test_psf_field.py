import json
import math
from dataclasses import asdict

import numpy as np
import pytest

from edge_dp.errors import SchemaError
from edge_dp.sensors.psf_field import PsfField, degree_of, polynomial_terms, term_count

FIELD = PsfField(
    field_px=(640, 480),
    blur_px=0.25,
    disparity_px=(5.0, 0.1, -0.2),
    softness=(0.12, 0.0, 0.01),
    stretch=((0.02, 0.1, 0.0), (0.0, 0.0, 0.05)),
    shared=((0.1, -0.6, 0.0), (0.0, 0.0, -0.5)),
    split=((0.9, -0.1, 0.0), (0.02,)),
)


def plain(**changes):
    """FIELD as it is read from JSON, with some fields replaced; a field set to ... is left out."""
    data = {**json.loads(json.dumps(asdict(FIELD))), **changes}
    return {field: value for field, value in data.items() if value is not ...}


def test_json_round_trip():
    assert PsfField.from_dict(plain(later_field=1), "own.json: psf") == FIELD
    assert hash(PsfField.from_dict(plain(), "own.json: psf")) == hash(FIELD)


def test_terms_by_hand():
    x, y = np.array([2.0, 0.5]), np.array([3.0, -1.0])
    np.testing.assert_array_equal(polynomial_terms(x, y, 2), [x**0, x, y, x**2, x * y, y**2])
    assert [term_count(degree) for degree in range(5)] == [1, 3, 6, 10, 15]
    assert [degree_of(terms) for terms in (1, 3, 6, 10, 15)] == [0, 1, 2, 3, 4]


def test_numbers_at_a_place():
    local = FIELD.at(0.5, -0.5)
    assert local.softness == pytest.approx(0.12 - 0.005)
    assert local.stretch == pytest.approx((0.07, -0.025))
    assert local.shared == pytest.approx((-0.2, 0.25))
    assert local.split == pytest.approx((0.85, 0.02))
    assert FIELD.plane_disparity(0.5, -0.5) == pytest.approx(5.15)


def test_beyond_the_field_as_at_its_edge():
    assert FIELD.at(1.2, -7.0) == FIELD.at(1.0, -1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"softness": ...}, r"own\.json: psf\.softness: expected 1, 3, 6, 10, \.\.\. finite numbers, found nothing"),
        ({"softness": []}, r"psf\.softness: expected 1, 3, 6"),
        ({"softness": [0.1, 0.2]}, r"psf\.softness: expected 1, 3, 6, .*, found \[0\.1, 0\.2\]"),
        ({"softness": [math.nan]}, r"psf\.softness: expected 1, 3, 6"),
        ({"softness": [True]}, r"psf\.softness: expected 1, 3, 6"),
        ({"disparity_px": 5.0}, r"psf\.disparity_px: expected 1, 3, 6"),
        ({"stretch": [[0.1]]}, r"psf\.stretch: expected two lists"),
        ({"blur_px": -0.1}, r"psf\.blur_px: expected a number, 0 or above"),
        ({"field_px": [640, 0]}, r"psf\.field_px: expected \[width, height\]"),
        ({"shared": [[0.1]]}, r"psf\.shared: expected 2, 5, 9"),
        ({"shared": [[0.1]] * 5}, r"psf\.split: expected 5 terms as in shared, found 2"),
        ({"split": "ramp"}, r"psf\.split: expected 2, 5, 9"),
    ],
)
def test_malformed_field_is_named(changes, message):
    with pytest.raises(SchemaError, match=message):
        PsfField.from_dict(plain(**changes), "own.json: psf")


def test_anything_but_an_object():
    with pytest.raises(SchemaError, match=r"own\.json: psf: expected an object, found list"):
        PsfField.from_dict([1], "own.json: psf")
