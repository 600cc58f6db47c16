import numpy as np
import pytest
import torch

from edge_dp.errors import InputError, SchemaError, TrainingError
from edge_dp.training.teachers.adapters import PRESETS, ExportedProgramTeacher, OnnxTeacher, TorchScriptTeacher
from edge_dp.training.teachers.base import Licence

from .analytic_networks import Matcher, NotANumber, Unsigned
from .stereo_scenes import steps, texture, views

FREE = {"code_licence": "MIT", "weights_licence": "CC-BY-4.0", "commercial": True}


def saved(folder, network):
    path = folder / "network.pt"
    torch.jit.save(torch.jit.script(network.eval()), path)
    return str(path)


@pytest.mark.parametrize("preset", list(PRESETS))
@pytest.mark.parametrize("shape", [(96, 160), (90, 150), (97, 131)])
def test_each_preset_feeds_and_reads_a_network_by_its_conventions(preset, shape, tmp_path):
    """The matcher is off by hundreds of px unless black and white are where the preset says, and by rows if cut wrongly."""
    left, right, truth = steps(*shape)
    teacher = TorchScriptTeacher(path=saved(tmp_path, Matcher(preset)), preset=preset, **FREE)
    estimate = teacher.estimate(views(left, right))
    assert estimate.valid.mean() > 0.8
    assert np.abs(estimate.disparity - truth)[estimate.valid].mean() < 0.1
    rows = np.median(np.where(estimate.valid, estimate.disparity, np.nan)[:, 30:-30], axis=1)
    assert abs(int(np.flatnonzero(rows > 6.5)[0]) - shape[0] // 2) <= 2  # its window is 5 px high


def test_presets_state_what_their_authors_do():
    """RAFT-Stereo answers flow along x from light up to 255; UniMatch takes ImageNet's mean, and answers disparity."""
    raft, unimatch, igev = (PRESETS[name] for name in ("raft_stereo", "unimatch", "igev"))
    assert (raft.white, raft.sign, raft.multiple) == (255, -1, 32)
    assert (igev.white, igev.sign, igev.multiple) == (255, 1, 32)
    assert (unimatch.white, unimatch.sign) == (1, 1) and unimatch.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize(("size", "scale"), [((96, 160), 2), ((192, 320), 1)])
def test_disparity_of_smaller_views_is_scaled_back(size, scale, tmp_path):
    small, small_right, truth = steps(96, 160, 4, 9)
    left, right = (np.kron(view, np.ones((2, 2), np.float32)) for view in (small, small_right))
    teacher = TorchScriptTeacher(path=saved(tmp_path, Matcher("igev")), preset="igev", size=size, agreement=2.0, **FREE)
    estimate = teacher.estimate(views(left, right))
    expected = 2 * np.kron(truth, np.ones((2, 2)))
    upper = estimate.valid & (expected < 9)  # at full size the matcher does not reach the other half's 18 px
    assert upper.mean() > 0.35
    assert np.abs(estimate.disparity - expected)[upper].mean() < 0.3 * scale


def test_sigma_is_larger_where_the_directions_differ(tmp_path):
    left, right, _ = steps()
    right = np.clip(right + np.random.default_rng(0).normal(0, 0.3, right.shape), 0, 1).astype(np.float32)
    right[0, 0], right[-1, 0] = 0.0, 1.0
    teacher = TorchScriptTeacher(path=saved(tmp_path, Matcher("igev")), preset="igev", agreement=3.0, **FREE)
    estimate = teacher.estimate(views(left, right))
    sure = estimate.sigma < 0.5
    assert 0 < (sure & estimate.valid).sum() and (~sure & estimate.valid).any()
    assert estimate.sigma.max() > 1


@pytest.mark.parametrize("kind", ["torchscript"])
def test_a_network_that_answers_nan_is_refused(kind, tmp_path):
    left, right, _ = steps()
    teacher = TorchScriptTeacher(path=saved(tmp_path, NotANumber()), **FREE)
    with pytest.raises(TrainingError, match=r"torchscript: 1 of 15360 disparities are not finite. Run it in float32"):
        teacher.estimate(views(left, right))


def test_the_other_sign_is_refused_and_can_be_set(tmp_path):
    left, right, truth = steps()
    path = saved(tmp_path, Matcher("raft_stereo"))
    with pytest.raises(TrainingError, match=r"expected disparities >= 0, found a median of -\d.* Set sign"):
        TorchScriptTeacher(path=path, sign=1, **FREE).estimate(views(left, right))
    estimate = TorchScriptTeacher(path=path, sign=-1, **FREE).estimate(views(left, right))
    assert np.abs(estimate.disparity - truth)[estimate.valid].mean() < 0.1


def test_positive_numbers_for_views_in_the_wrong_order_are_refused(tmp_path):
    """The network says how far, not which way; only a look at the views tells."""
    left, right, _ = steps()
    teacher = TorchScriptTeacher(path=saved(tmp_path, Unsigned()), preset="igev", **FREE)
    teacher.estimate(views(left, right))
    with pytest.raises(TrainingError, match="agree better with -D than with D"):
        teacher.estimate(views(right, left))


def test_views_without_texture_have_no_sign_to_be_wrong(tmp_path):
    flat = np.full((96, 160), 0.5, np.float32)
    teacher = TorchScriptTeacher(path=saved(tmp_path, Unsigned()), preset="igev", **FREE)
    assert teacher.estimate(views(flat, flat)).disparity.shape == flat.shape


def test_a_licence_against_commercial_use_needs_consent(tmp_path):
    path = saved(tmp_path, Matcher("igev"))
    terms = {"code_licence": "NVIDIA research", "weights_licence": "CC-BY-NC-4.0", "commercial": False}
    with pytest.raises(TrainingError, match=r"CC-BY-NC-4.0 \(weights\) forbid commercial use.*accept_non_commercial"):
        TorchScriptTeacher(path=path, **terms)
    teacher = TorchScriptTeacher(path=path, accept_non_commercial=True, **terms)
    assert teacher.licence == Licence("NVIDIA research", "CC-BY-NC-4.0", commercial=False)
    with pytest.raises(SchemaError, match="code_licence and weights_licence"):
        TorchScriptTeacher(path=path, code_licence="MIT", weights_licence=" ", commercial=True)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"preset": "raft"}, SchemaError, "preset: expected one of raft_stereo, unimatch"),
        ({"sign": 2}, SchemaError, "sign: expected 1 or -1, found 2"),
        ({"size": (100, 160)}, SchemaError, "size: expected multiples of 32 for raft_stereo"),
        ({"path": "network.pth"}, InputError, "is a pickle and never read here. Export it"),
        ({"path": "network.onnx"}, InputError, r"expected a file ending in .pt or .ts"),
        ({"path": "network.pt"}, InputError, "no such file"),
    ],
)
def test_options_that_cannot_be_are_refused(options, error, message, tmp_path):
    with pytest.raises(error, match=message):
        TorchScriptTeacher(**({"path": saved(tmp_path, NotANumber()), **FREE} | options))


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was read",))


@pytest.mark.parametrize(
    ("kind", "suffix"), [(TorchScriptTeacher, "pt"), (ExportedProgramTeacher, "pt2"), (OnnxTeacher, "onnx")]
)
def test_a_pickle_under_another_name_is_not_read(kind, suffix, tmp_path):
    path = tmp_path / f"network.{suffix}"
    torch.save({"weight": Bomb()}, path)
    left, right, _ = steps()
    with pytest.raises(InputError, match=r"network\.\w+: expected .*, found: "):
        kind(path=str(path), **FREE).estimate(views(left, right))


def test_an_answer_of_another_size_is_refused(tmp_path):
    class Small(torch.nn.Module):
        def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
            return left[:, :1, ::2, ::2] + right[:, :1, ::2, ::2]

    view = texture(0, 64, 96)
    with pytest.raises(TrainingError, match=r"expected disparity of 64 x 96 .* found shape \(1, 1, 32, 48\)"):
        TorchScriptTeacher(path=saved(tmp_path, Small()), **FREE).estimate(views(view, view))
