import dataclasses
import sys
from subprocess import run

import numpy as np
import pytest
import torch

from edge_dp.errors import InputError, MissingExtraError, SchemaError
from edge_dp.training.teachers import registry
from edge_dp.training.teachers.base import Camera, View
from edge_dp.training.teachers.registry import TEACHERS, build_teacher
from edge_dp.training.teachers.stereo_net import _believed

from .analytic_networks import Matcher
from .stereo_scenes import steps, views

LICENCE = {"code_licence": "Apache-2.0", "weights_licence": "none: no weights", "commercial": True}


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """What each teacher needs to be told; those that run a file get a matcher that is exported here."""
    folder = tmp_path_factory.mktemp("networks")
    network = Matcher("raft_stereo", size_is_fixed=True).eval()
    example = (torch.zeros(1, 3, 96, 160), torch.zeros(1, 3, 96, 160))
    torch.jit.save(torch.jit.script(network), folder / "matcher.pt")
    torch.export.save(torch.export.export(network, example), folder / "matcher.pt2")
    torch.onnx.export(network, example, folder / "matcher.onnx", input_names=["left", "right"], verbose=False)
    files = {"onnx": "matcher.onnx", "torchscript": "matcher.pt", "exported_program": "matcher.pt2"}
    return {name: {"path": str(folder / files[name]), **LICENCE} if name in files else {} for name in TEACHERS}


@pytest.fixture(params=list(TEACHERS))
def teacher(request, options):
    return build_teacher(request.param, options[request.param])


def check(estimate, truth):
    assert estimate.disparity.shape == estimate.sigma.shape == estimate.valid.shape == truth.shape
    assert estimate.disparity.dtype == estimate.sigma.dtype == np.float32 and estimate.valid.dtype == bool
    assert np.isfinite(estimate.disparity[estimate.valid]).all()
    sigma = estimate.sigma[estimate.valid]
    assert np.isfinite(sigma).all() and sigma.min() > 0
    assert estimate.valid.mean() > 0.75
    error = np.abs(estimate.disparity - truth)[estimate.valid]
    assert np.median(error) < 0.3 and np.mean(error > 1) < 0.06


def test_every_teacher_finds_a_camera_to_the_right(teacher):
    left, right, truth = steps()
    estimate = teacher.estimate(views(left, right))
    check(estimate, truth)
    assert not estimate.valid[60:, :7].any()  # seen by the left camera alone


def test_every_teacher_finds_a_camera_to_the_left(teacher):
    """The same pair in a mirror: disparity stays positive, and the other border is seen by one camera alone."""
    left, right, truth = steps()
    estimate = teacher.estimate(views(left[:, ::-1], right[:, ::-1], (-0.3, 0.0)))
    check(estimate, truth)
    assert not estimate.valid[60:, -7:].any()


def test_every_teacher_finds_a_camera_below(options):
    left, right, truth = steps()
    teacher = build_teacher("sgm")
    check(teacher.estimate(views(left.T, right.T, (0.0, 1.0))), truth.T)
    check(teacher.estimate(views(left[:, ::-1].T, right[:, ::-1].T, (0.0, -1.0))), truth.T)


def test_every_teacher_takes_colour(teacher):
    left, right, truth = steps()
    cameras = (Camera.rectified(left.shape), Camera.rectified(left.shape, (1.0, 0.0)))
    pair = [View(np.repeat(view[None], 3, 0), camera) for view, camera in zip((left, right), cameras, strict=True)]
    check(teacher.estimate(pair), truth)


def test_every_teacher_says_what_it_is(teacher):
    entry = TEACHERS[teacher.name]
    assert entry.licence is None or teacher.licence == entry.licence
    assert teacher.licence.code and teacher.licence.weights
    assert teacher.views == 2
    assert isinstance(teacher, entry.options) and dataclasses.is_dataclass(teacher)
    with pytest.raises(AttributeError):
        teacher.agreement = 3.0


def test_every_teacher_refuses_views_that_do_not_fit(teacher):
    left, right, _ = steps()
    first, second = views(left, right)
    turned = dataclasses.replace(second, camera=dataclasses.replace(second.camera, rotation=np.diag([-1.0, -1.0, 1.0])))
    for bad, message in (
        ([first], "takes 2 views, found 1"),
        ([first, second, second], "takes 2 views, found 3"),
        ([first, dataclasses.replace(second, image=second.image[:, :-1])], "two views of one size"),
        (views(left, right, (0.0, 0.0)), "rectified pair"),
        (views(left, right, (1.0, 0.4)), "rectified pair"),
        ([first, turned], "different intrinsics or rotations"),
    ):
        with pytest.raises(InputError, match=message):
            teacher.estimate(bad)


def test_unknown_teachers_and_options_are_refused():
    with pytest.raises(InputError, match=r"sgn: no such teacher; known are sgm, stereo_net"):
        build_teacher("sgn")
    with pytest.raises(SchemaError, match="teacher sgm: unknown field 'blocks'"):
        build_teacher("sgm", {"blocks": 5})
    with pytest.raises(SchemaError, match="teacher onnx: field 'code_licence' is missing"):
        build_teacher("onnx", {"path": "x.onnx", "weights_licence": "MIT", "commercial": True})


def test_a_missing_extra_is_named(monkeypatch):
    entry = dataclasses.replace(TEACHERS["onnx"], why_not=lambda: "onnxruntime not installed")
    monkeypatch.setitem(registry.TEACHERS, "onnx", entry)
    with pytest.raises(MissingExtraError, match=r"onnxruntime not installed: pip install 'edge-dp\[onnx\]'"):
        build_teacher("onnx", {})


def test_registry_and_option_classes_import_neither_torch_nor_an_engine():
    script = (
        "import sys; from edge_dp.training.teachers.registry import TEACHERS\n"
        "for entry in TEACHERS.values(): entry.options, entry.why_not()\n"
        "print([m for m in ('torch', 'onnxruntime') if m in sys.modules])"
    )
    assert run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_stereo_net_looks_once_at_a_pair_whose_cameras_are_asked_about_each_other():
    left, right, _ = steps()
    forth = views(left, right)
    _believed.cache_clear()
    teacher = build_teacher("stereo_net", {})
    first, back = teacher.estimate(forth), teacher.estimate(forth[::-1])
    assert (_believed.cache_info().misses, _believed.cache_info().hits) == (2, 2)
    _believed.cache_clear()
    for kept, fresh in (
        (first, teacher.estimate(forth)),
        (back, build_teacher("stereo_net", {}).estimate(forth[::-1])),
    ):
        for name in ("disparity", "sigma", "valid"):
            np.testing.assert_array_equal(getattr(kept, name), getattr(fresh, name))


def test_stereo_net_in_bfloat16_says_the_same_within_a_hundredth_of_a_pixel():
    left, right, _ = steps()
    exact, fast = (
        build_teacher("stereo_net", {"precision": name}).estimate(views(left, right)) for name in ("fp32", "bf16")
    )
    assert (exact.valid == fast.valid).mean() > 0.995
    both = exact.valid & fast.valid
    assert 0 < np.abs(exact.disparity - fast.disparity)[both].max() < 0.1
    assert np.abs(exact.disparity - fast.disparity)[both].mean() < 0.01
    with pytest.raises(SchemaError, match="precision: expected fp32 or bf16, found 'fp16'"):
        build_teacher("stereo_net", {"precision": "fp16"})
