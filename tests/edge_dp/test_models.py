import copy

import numpy as np
import pytest
import torch

from edge_dp.errors import InputError
from edge_dp.models.confidence import expected_error
from edge_dp.models.dp_disparity import DpDisparity
from edge_dp.models.registry import STUDENTS, build_student, student_entry

INTEGER_OPS = {
    "aten.conv2d.default",
    "aten.relu.default",
    "aten.add.Tensor",
    "aten.upsample_bilinear2d.vec",
    "aten.slice.Tensor",
}


@pytest.fixture(autouse=True)
def same_views_in_every_run():
    torch.manual_seed(1)


@pytest.fixture(params=STUDENTS, scope="module")
def entry(request):
    return STUDENTS[request.param]


@pytest.fixture(scope="module")
def trained(entry):
    """A student whose batch-norm statistics and affine parameters are those of no freshly made one."""
    torch.manual_seed(0)
    student = build_student(entry.name)
    size = 2 * student.input_multiple
    with torch.no_grad():
        for _ in range(4):
            student(torch.rand(2, 2, size, size) ** 2)
        for module in student.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.3, 0.3)
    return student.eval()


def run(student, views):
    with torch.no_grad():
        return student(views)


def test_student_keeps_its_parameter_budget_folded_or_not(entry, trained):
    folded = copy.deepcopy(trained)
    folded.fold_batch_norm()
    for student in (trained, folded):
        assert 0 < sum(parameter.numel() for parameter in student.parameters()) <= entry.parameters


@pytest.mark.parametrize(("batch", "rows", "columns"), [(1, 2, 2), (3, 1, 3), (2, 4, 1)])
def test_outputs_are_two_maps_of_half_the_size(trained, batch, rows, columns):
    m = trained.input_multiple
    outputs = run(trained, torch.rand(batch, 2, rows * m, columns * m))
    assert len(outputs) == 2
    for output in outputs:
        assert output.shape == (batch, 1, rows * m // 2, columns * m // 2)
        assert output.dtype == torch.float32
        assert output.isfinite().all()


def test_outputs_depend_on_both_views_and_on_their_order_where_both_are_seen(entry, trained):
    views = torch.rand(1, 2, 64, 64)
    disparity, confidence = run(trained, views)
    exchanged, darker = run(trained, views.flip(1)), run(trained, views * torch.tensor([1.0, 0.5]).view(1, 2, 1, 1))
    for changed, is_seen in ((exchanged, True), (darker, not entry.monocular)):
        assert ((changed[0] - disparity).abs().max() > 1e-4) == is_seen
        assert ((changed[1] - confidence).abs().max() > 1e-4) == is_seen


def test_captures_of_a_batch_do_not_see_each_other(trained):
    views = torch.rand(3, 2, 64, 64)
    together = run(trained, views)
    alone = run(trained, views[1:2])
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[1:2], b, atol=1e-5, rtol=1e-5)


def test_export_size_and_its_multiples_are_accepted(entry, trained):
    m = trained.input_multiple
    trained.check_input_shape((1, 2, *entry.size))
    trained.check_input_shape((4, 2, m, 3 * m))


@pytest.mark.parametrize("change", ["height", "width", "channels", "rank", "empty"])
def test_input_shapes_that_do_not_fit_are_refused_with_what_was_expected(trained, change):
    m = trained.input_multiple
    shape = {
        "height": (1, 2, m + m // 2, m),
        "width": (1, 2, m, m + 1),
        "channels": (1, 3, m, m),
        "rank": (2, m, m),
        "empty": (1, 2, 0, m),
    }[change]
    with pytest.raises(InputError, match=rf"\(N, 2, H, W\) with H and W multiples of {m}, found"):
        trained.check_input_shape(shape)


def test_folding_batch_norm_keeps_the_output(trained):
    folded = copy.deepcopy(trained)
    folded.fold_batch_norm()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    views = torch.rand(2, 2, 64, 96)
    for before, after in zip(run(trained, views), run(folded, views), strict=True):
        assert (before - after).abs().max() < 1e-5
    again = copy.deepcopy(folded)
    again.fold_batch_norm()
    for once, twice in zip(run(folded, views), run(again, views), strict=True):
        assert torch.equal(once, twice)


def test_exported_graph_holds_only_operations_that_every_engine_executes_in_integers(trained):
    folded = copy.deepcopy(trained)
    folded.fold_batch_norm()
    m = folded.input_multiple
    program = torch.export.export(folded, (torch.zeros(1, 2, m, m),), strict=True)
    found = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert found <= INTEGER_OPS
    assert "aten.conv2d.default" in found


def test_joined_students_say_the_mean_of_what_each_said_alone():
    large, small = DpDisparity((8, 12, 16), (1, 0, 1)).eval(), DpDisparity((8, 8), (0, 1)).eval()
    views = torch.rand(2, 2, 64, 96)
    alone = [run(student, views) for student in (large, small)]
    large.join(small)
    for joined, one, other in zip(run(large, views), *alone, strict=True):
        torch.testing.assert_close(joined, (one + other) / 2)
    large.fold_batch_norm()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in large.modules())
    with pytest.raises(InputError, match="expected two without a companion to join"):
        large.join(DpDisparity((8, 8), (0, 1)))


def test_student_and_its_companion_are_those_of_the_registry(entry):
    """The larger student's own part draws the same random weights with and without a companion."""
    torch.manual_seed(5)
    student = build_student(entry.name)
    assert (student.companion is None) == (entry.companion is None)
    if entry.companion is not None:
        assert student.companion.widths == STUDENTS[entry.companion].widths
        torch.manual_seed(5)
        alone = DpDisparity(entry.widths, entry.depths)
        for name, value in alone.state_dict().items():
            assert torch.equal(value, student.state_dict()[name])


def test_unknown_student_lists_the_known_ones():
    with pytest.raises(InputError, match=f"no_such: no such student; known are .*{next(iter(STUDENTS))}"):
        build_student("no_such")
    with pytest.raises(InputError):
        student_entry("")


def test_registry_names_its_entries(entry):
    assert student_entry(entry.name) is entry
    assert STUDENTS[entry.name] is entry


def test_confidence_code_promises_0_05_px_at_one_and_5_px_at_zero():
    assert expected_error(1.0) == pytest.approx(0.05)
    assert expected_error(0.0) == pytest.approx(5.0)
    assert expected_error(0.5) == pytest.approx(0.5)  # the geometric mean of the two
    assert expected_error(0.4 + np.log(2) / np.log(100)) == pytest.approx(expected_error(0.4) / 2)
    codes = np.linspace(-0.5, 1.5, 9, dtype=np.float32)
    np.testing.assert_allclose(expected_error(codes), 5 * 0.01**codes, rtol=1e-5)
