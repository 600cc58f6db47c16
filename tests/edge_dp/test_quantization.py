import dataclasses
import math

import numpy as np
import pytest
import torch

from edge_dp.errors import InputError
from edge_dp.models.dp_disparity import DpDisparity
from edge_dp.quantization.qat import (
    convert,
    freeze_ranges,
    observe_weights,
    prepare,
    read_ranges,
    restore_ranges,
    set_output_ranges,
    snap_biases,
)

SHAPE = (1, 2, 32, 32)
QUANTISED_OPS = {
    "aten.conv2d.default",
    "aten.relu.default",
    "aten.add.Tensor",
    "aten.upsample_bilinear2d.vec",
    "quantized_decomposed.quantize_per_tensor.default",
    "quantized_decomposed.dequantize_per_tensor.default",
    "quantized_decomposed.quantize_per_channel.default",
    "quantized_decomposed.dequantize_per_channel.default",
}


@pytest.fixture(autouse=True)
def same_numbers_in_every_run():
    torch.manual_seed(3)


def small_network(seed=0):
    torch.manual_seed(seed)
    network = DpDisparity((8, 12, 16), (1, 1, 1))
    network.confidence.reset_parameters()  # of the size of the others, as after training
    for _ in range(3):
        network(torch.rand(2, 2, 32, 32))
    network.eval()
    network.fold_batch_norm()
    return network


def with_weights_of(prepared):
    network = DpDisparity((8, 12, 16), (1, 1, 1))
    network.fold_batch_norm()
    network.eval()
    network.load_state_dict({name: prepared.get_parameter(name) for name in network.state_dict()})
    return network


def run(module, views):
    with torch.no_grad():
        return module(views)


@pytest.fixture(scope="module")
def trained():
    """A prepared graph after a few steps of quantisation-aware training, ranges frozen half way."""
    prepared = prepare(small_network(), (torch.zeros(SHAPE),))
    optimiser = torch.optim.SGD(prepared.parameters(), 1e-2)
    for step in range(8):
        if step == 4:
            freeze_ranges(prepared)
        disparity, confidence = prepared(torch.rand(4, 2, 32, 32))
        loss = (disparity - 0.3).abs().mean() + (confidence - 1).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    observe_weights(prepared)
    return prepared


@pytest.fixture(scope="module")
def ranges(trained):
    return {entry.tensor: entry for entry in read_ranges(trained)}


@pytest.fixture(scope="module")
def folded(trained):
    return convert(trained)


def output_steps(graph, ranges):
    """Scale of each output: of the last quantisation before it."""
    output = next(node for node in graph.graph.nodes if node.op == "output")
    return [ranges[node.all_input_nodes[0].name].scale for node in output.args[0]]


@pytest.mark.parametrize("shape", [SHAPE, (2, 2, 64, 48)])
def test_graph_that_was_trained_is_the_graph_that_is_converted_within_one_output_step(trained, folded, ranges, shape):
    views = torch.rand(shape)
    for a, b, step in zip(run(trained, views), run(folded, views), output_steps(trained, ranges), strict=True):
        assert (a - b).abs().max() <= 1.001 * step
        assert ((a - b).abs() < 1e-3 * step).float().mean() > 0.99


def test_stored_weights_and_quantise_nodes_compute_exactly_the_same(trained, folded):
    unfolded = convert(trained, fold=False)
    views = torch.rand(2, 2, 64, 48)
    for a, b in zip(run(folded, views), run(unfolded, views), strict=True):
        assert torch.equal(a, b)
    assert any(
        node.target == torch.ops.quantized_decomposed.quantize_per_channel.default for node in unfolded.graph.nodes
    )
    assert not any(
        node.target == torch.ops.quantized_decomposed.quantize_per_channel.default for node in folded.graph.nodes
    )


def test_converting_leaves_the_prepared_graph_as_it_was(trained):
    views, before = torch.rand(SHAPE), read_ranges(trained)
    outputs = run(trained, views)
    convert(trained)
    assert read_ranges(trained) == before
    for a, b in zip(run(trained, views), outputs, strict=True):
        assert torch.equal(a, b)


def test_converted_graph_holds_integer_operations_only(folded):
    assert {str(node.target) for node in folded.graph.nodes if node.op == "call_function"} <= QUANTISED_OPS
    for node in folded.graph.nodes:
        if str(node.target) in ("aten.conv2d.default", "aten.add.Tensor", "aten.upsample_bilinear2d.vec"):
            for source in node.all_input_nodes:
                assert source.op == "get_attr" or "dequantize" in str(
                    source.target
                )  # biases are float until an engine has them


def test_weights_are_symmetric_int8_per_output_channel_of_the_trained_ones(trained, folded):
    """Q = round(w / s), s = max |w| of the channel / 127, in numpy."""
    state, found = folded.state_dict(), 0
    for node in folded.graph.nodes:
        if str(node.target) != "aten.conv2d.default":
            continue
        weight_node, bias_node = node.args[1], node.args[2]
        integers, scales, zeros = (state[source.target].numpy() for source in weight_node.all_input_nodes)
        weights = (
            trained.get_parameter(bias_node.target.replace(".bias", ".weight")).detach().numpy().astype(np.float64)
        )
        largest = np.abs(weights).reshape(len(weights), -1).max(axis=1)
        np.testing.assert_array_equal(scales, (largest / 127).astype(np.float32).astype(np.float16))
        assert integers.dtype == np.int8 and (zeros == 0).all()
        expected = np.clip(np.round(weights / scales[:, None, None, None]), -127, 127)
        assert np.abs(integers - expected).max() <= 1  # a tie in float32 may round the other way
        assert (integers == expected).mean() > 0.999
        assert (np.abs(integers).reshape(len(weights), -1).max(axis=1) == 127).all()
        found += 1
    assert found == 10


def test_every_scale_is_exact_in_a_half_float_and_every_zero_point_an_int8(ranges):
    for entry in ranges.values():
        assert float(np.float16(entry.scale)) == entry.scale >= 2.0**-12
        assert -128 <= entry.zero_point <= 127 and entry.executable


def test_input_is_quantised_as_the_formula_says(trained, ranges):
    """Real = s * (q - z), q = clip(round(x / s) + z, -128, 127), ties to even, in numpy."""
    entry = ranges["views"]
    views = (torch.rand(SHAPE) * 1.6 - 0.3).float()  # beyond the range on both sides
    node = next(node for node in trained.graph.nodes if node.op == "call_module" and node.args[0].name == "views")
    seen = run(trained.get_submodule(node.target), views).numpy()
    q = np.clip(np.round(views.numpy() / np.float32(entry.scale)) + entry.zero_point, -128, 127)
    expected = entry.scale * (q - entry.zero_point)
    error = np.abs(seen - expected)
    assert error.max() <= 1.001 * entry.scale
    assert (error < 1e-6).mean() > 0.999
    assert q.min() == -128 and q.max() == 127


def test_activations_after_a_relu_use_all_codes_for_what_is_positive(ranges):
    relus = [entry for name, entry in ranges.items() if name.startswith("relu")]
    assert len(relus) == 7
    assert all(entry.zero_point == -128 for entry in relus)


def test_convolution_before_a_relu_has_no_range_of_its_own(trained, ranges):
    for node in trained.graph.nodes:
        if str(node.target) == "aten.conv2d.default":
            fused = [user for user in node.users if str(user.target) == "aten.relu.default"]
            assert (node.name in ranges) == (not fused)


def test_upsampling_shares_the_quantisation_of_its_input(trained, folded, ranges):
    upsamplings = [node for node in trained.graph.nodes if "upsample" in node.name]
    assert len(upsamplings) == 3  # of the decoder, and of each output
    for node in upsamplings:
        source = node.args[0].args[0].name
        assert dataclasses.replace(ranges[node.name], tensor=source) == ranges[source]
    for node in (node for node in folded.graph.nodes if "upsample" in node.name):
        (after,) = node.users
        assert after.args[1:] == node.args[0].args[1:]  # scale, zero point and limits


@pytest.mark.parametrize("shape", [SHAPE, (2, 2, 48, 64)])
def test_weights_and_table_give_the_trained_graph_back_bit_for_bit(trained, ranges, shape):
    prepared = prepare(with_weights_of(trained), (torch.zeros(shape),))
    restore_ranges(prepared, list(ranges.values()))
    observe_weights(prepared)
    assert read_ranges(prepared) == list(ranges.values())
    for views in (torch.rand(shape), 5 * torch.rand(3, 2, 32, 96)):
        for pair in ((prepared, trained), (convert(prepared), convert(trained))):
            for a, b in zip(*(run(module, views) for module in pair), strict=True):
                assert torch.equal(a, b)
    assert read_ranges(prepared) == list(ranges.values())  # frozen: bright views did not widen them


def test_restored_weights_follow_the_weights_and_not_a_former_range(trained, ranges):
    network = with_weights_of(trained)
    prepared = prepare(network, (torch.zeros(SHAPE),))
    restore_ranges(prepared, list(ranges.values()))
    observe_weights(prepared)
    with torch.no_grad():
        prepared.get_parameter("disparity.weight").mul_(0.5)
    observe_weights(prepared)
    with torch.no_grad():
        network.disparity.weight.mul_(0.5)
    fresh = prepare(network, (torch.zeros(SHAPE),))
    restore_ranges(fresh, list(ranges.values()))
    observe_weights(fresh)
    views = torch.rand(SHAPE)
    for a, b in zip(run(convert(prepared), views), run(convert(fresh), views), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


@pytest.fixture(scope="module")
def freshly_prepared():
    return prepare(small_network(), (torch.zeros(SHAPE),))


def test_table_without_an_entry_names_it(freshly_prepared, ranges):
    table = [entry for entry in ranges.values() if entry.tensor != "add"]
    with pytest.raises(InputError, match="does not fit the network: no match for add"):
        restore_ranges(freshly_prepared, table)


def test_table_with_a_renamed_entry_names_both(freshly_prepared, ranges):
    table = [dataclasses.replace(e, tensor="sum") if e.tensor == "add" else e for e in ranges.values()]
    with pytest.raises(InputError, match="no match for add, sum"):
        restore_ranges(freshly_prepared, table)


def changed(ranges, tensor, **changes):
    return [dataclasses.replace(e, **changes) if e.tensor == tensor else e for e in ranges.values()]


@pytest.mark.parametrize(
    "changes",
    [
        {"scale": 0.0},
        {"scale": -1.0},
        {"scale": math.inf},
        {"scale": math.nan},
        {"zero_point": 128},
        {"zero_point": -129},
    ],
)
def test_entry_that_no_engine_can_execute_is_refused(freshly_prepared, ranges, changes):
    with pytest.raises(
        InputError, match=r"quantisation state of relu_2: expected a positive scale and a zero point in"
    ):
        restore_ranges(freshly_prepared, changed(ranges, "relu_2", **changes))


@pytest.mark.parametrize("changes", [{"scale": 0.5}, {"zero_point": 3}])
@pytest.mark.parametrize("tensor", ["conv2d_6", "upsample_bilinear2d"])
def test_entries_of_tensors_that_share_a_quantisation_must_agree(freshly_prepared, ranges, tensor, changes):
    with pytest.raises(InputError, match=r"conv2d_6.* shares its quantisation with"):
        restore_ranges(freshly_prepared, changed(ranges, tensor, **changes))


def test_two_entries_of_one_tensor_are_refused(freshly_prepared, ranges):
    twice = [*ranges.values(), dataclasses.replace(ranges["relu_1"], tensor="add")]
    with pytest.raises(InputError, match="two entries of add"):
        restore_ranges(freshly_prepared, twice)


def test_biases_are_snapped_to_the_accumulators_grid_and_where_that_is_finer_stay_the_same_half_floats(ranges):
    network = small_network()
    prepared = prepare(network, (torch.zeros(SHAPE),))
    restore_ranges(prepared, list(ranges.values()))
    observe_weights(prepared)
    snap_biases(prepared)
    inputs = {"encoder.0.0.conv": "views", "decoder.0.reduce": "relu_5", "disparity": "relu_6"}
    for name, source in inputs.items():
        layer = network.get_submodule(name)
        weight_scale = layer.weight.detach().abs().flatten(1).amax(dim=1).div(127).half().double()
        before, after = layer.bias.detach(), prepared.get_parameter(f"{name}.bias").detach()
        steps = after.double() / (ranges[source].scale * weight_scale)
        assert (steps - steps.round()).abs().max() < 1e-2
        spacing = np.spacing(np.abs(before.half().numpy())).astype(np.float64)
        is_finer = torch.from_numpy(spacing) > ranges[source].scale * weight_scale
        assert is_finer.any()
        assert torch.equal(after.half()[is_finer], before.half()[is_finer])
        assert not torch.equal(after, before)
    once = {name: value.clone() for name, value in prepared.named_parameters()}
    snap_biases(prepared)
    assert all(torch.equal(value, once[name]) for name, value in prepared.named_parameters())


def test_output_ranges_are_those_asked_for():
    student = DpDisparity().eval()
    student.fold_batch_norm()
    prepared = prepare(student, (torch.rand(1, 2, 32, 32),))
    prepared(torch.rand(1, 2, 32, 32))
    freeze_ranges(prepared)
    set_output_ranges(prepared, [(-4.9, 5.9), (0.2, 1.1)])
    # conv, its upsampling, and the same of the confidence: each pair shares its range
    disparity, disparity_twice, confidence, confidence_twice = read_ranges(prepared)[-4:]
    assert disparity_twice == dataclasses.replace(disparity, tensor=disparity_twice.tensor)
    assert confidence_twice == dataclasses.replace(confidence, tensor=confidence_twice.tensor)
    for entry, (low, high) in ((disparity, (-4.9, 5.9)), (confidence, (0.0, 1.1))):
        step = (high - low) / 255
        assert abs((-128 - entry.zero_point) * entry.scale - low) < step
        assert abs((127 - entry.zero_point) * entry.scale - high) < step
    freeze_ranges(prepared)
    assert read_ranges(prepared)[-4::2] == [disparity, confidence]
