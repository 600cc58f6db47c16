"""What is refused before the slow work: each with the module it is in and what to do, nothing written."""

import copy
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import edge_dp
from edge_dp.converters.configs import plan
from edge_dp.converters.operations import OPERATIONS, Operation
from edge_dp.converters.preflight import check_network
from edge_dp.converters.source import input_shapes, network_of_module
from edge_dp.errors import ExportError, InputError

SHAPE = (1, 2, 8, 12)
INTEGER, FLOAT = plan("onnx", "int8"), plan("onnx", "fp32")


class Net(nn.Module):
    """A convolution, then a function of its input and its output, with modules of its own."""

    def __init__(self, function=lambda self, x, y: y, **modules):
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.function(self, x, self.first(x))


class Of(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Pair(NamedTuple):
    disparity: Tensor
    confidence: Tensor


def check(module, configs=FLOAT, keep_float=(), shape=SHAPE):
    check_network(network_of_module(module, {"x": shape}, None, "net"), configs, keep_float)


def refused(module, configs=FLOAT, keep_float=()):
    """The lines of the error, one for each operation."""
    with pytest.raises(ExportError) as caught:
        check(module, configs, keep_float)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


# ---- weights ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["first.weight", "first.bias", "table"])
def test_weights_and_buffers_that_are_not_finite(place, value, tmp_path):
    network = Net()
    network.register_buffer("table", torch.zeros(3))
    network.state_dict()[place].view(-1)[1] = value
    with pytest.raises(
        ExportError, match=rf"^{place}: expected finite weights, found NaN or infinity\. .* train again"
    ):
        edge_dp.export(network, {"x": SHAPE}, tmp_path / "bundle", formats="onnx", precision="fp32")
    assert not list(tmp_path.iterdir())


# ---- operations ---------------------------------------------------------------------------------------------------------


def test_every_operation_without_integers_is_listed_with_module_and_suggestion():
    network = Net(
        lambda self, _, y: self.head(self.norm(self.body(y)).tanh()),
        body=nn.Sequential(nn.SiLU(), nn.Sequential(nn.Conv2d(4, 4, 1), nn.LeakyReLU())),
        norm=nn.GroupNorm(2, 4),
        head=nn.Softmax(1),
    )
    curve, leaky, norm, tanh, softmax = refused(network, INTEGER)
    assert curve.startswith("body.0: aten.silu.default: ") and curve.endswith("Use hardswish.")
    assert leaky.startswith("body.1.1: aten.leaky_relu.default: ") and leaky.endswith("Use relu.")
    assert norm.startswith("norm: aten.group_norm.default: ") and "BatchNorm2d" in norm
    assert tanh.startswith("net: aten.tanh.default: ")  # of no module but the network itself
    assert softmax.startswith("head: aten.softmax.int: ") and "keep its module in float" in softmax


def test_what_stays_in_float_is_not_refused():
    network = Net(lambda self, _, y: self.head(self.body(y)), body=nn.Sequential(nn.SiLU()), head=nn.Softmax(1))
    assert len(refused(network, INTEGER)) == 2
    assert [line.partition(":")[0] for line in refused(network, INTEGER, ["body"])] == ["head"]
    check(network, INTEGER, ["body", "head"])
    check(network, FLOAT)


def test_the_table_of_operations_refuses_by_artifact(monkeypatch):
    """One format's gap must not stop the others; the way out is the table's own."""
    entry = Operation(
        "relu",
        nn.ReLU,
        refused={"onnx-int8": "no kernel; use clamp"},
        matches=lambda node: node.target == torch.ops.aten.relu.default,
    )
    monkeypatch.setitem(OPERATIONS, "relu", entry)
    network = Net(lambda self, _, y: self.act(y), act=nn.ReLU())
    (line,) = refused(network, plan(["onnx", "tflite"], "int8"))
    assert line == "act: aten.relu.default: onnx-int8: no kernel. Use clamp."
    check(network, plan("tflite", "int8"))
    check(network, FLOAT)
    check(network, INTEGER, ["act"])


@pytest.mark.parametrize(
    ("function", "operation", "reason"),
    [
        (lambda x: x[x > 0], "aten.index.Tensor", "size or value is known only when it runs"),
        (lambda x: x + torch.nonzero(x).sum(), "aten.nonzero.default", "size or value is known only when it runs"),
        (lambda x: x * float(x.max()), "aten.item.default", "size or value is known only when it runs"),
        (lambda x: x + torch.rand_like(x), "aten.rand_like.default", "its result is random"),
        (nn.functional.dropout, "aten.dropout.default", "its result is random"),
        (
            lambda x: torch.cond(x.mean() > 0, lambda v: v + 1, lambda v: v - 1, (x,)),
            "cond",
            "what it computes is known only when it runs",
        ),
    ],
    ids=["mask", "nonzero", "number", "random", "dropout left on", "branch"],
)
@pytest.mark.parametrize("configs", [FLOAT, INTEGER], ids=["float", "integer"])
def test_what_depends_on_values_is_refused_in_every_precision(function, operation, reason, configs):
    network = Net(lambda self, _, y: self.gate(y + 1), gate=Of(function))
    (line,) = refused(network, configs)
    assert line.startswith(f"gate: {operation}: ") and reason in line


def test_control_flow_on_values_names_its_module():
    network = Net(
        lambda self, _, y: self.gate(y), gate=nn.Sequential(nn.ReLU(), Of(lambda x: x if x.sum() > 0 else -x))
    )
    with pytest.raises(ExportError, match=r"^gate\.1: expected one static graph, .* Avoid control flow"):
        check(network)
    with pytest.raises(ExportError, match=r"^net: expected one static graph"):
        check(Net(lambda self, x, y: y if x.sum() > 0 else -y))


def test_dropout_and_batch_norm_that_training_switches_are_fine():
    check(Net(lambda self, _, y: self.tail(y), tail=nn.Sequential(nn.BatchNorm2d(4), nn.Dropout(0.5))).train(), INTEGER)


def test_another_type_inside_is_refused_in_integers():
    lines = refused(Net(lambda self, _, y: y.double().relu().float()), INTEGER)
    assert [line.split(": ")[1] for line in lines] == ["aten.to.dtype", "aten.to.dtype"]
    assert lines[0].endswith("Keep every tensor of the network in float32.")


@pytest.mark.parametrize("function", [lambda self, x, y: (x, y), lambda self, x, y: (y, y)], ids=["input", "twice"])
def test_outputs_that_nothing_computes_are_refused(function):
    (line,) = refused(Net(function))
    assert line.endswith("output: it is an input, or the same as another output. Leave it out.")


@pytest.mark.parametrize("configs", [FLOAT, INTEGER], ids=["float", "integer"])
def test_module_to_keep_in_float_must_be_there(configs):
    with pytest.raises(InputError, match=r"^frist: expected the path of a module of the network, .* Near: first\.$"):
        check(Net(), configs, ["frist"])


# ---- inputs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, "expected the shape of at least one input"),
        ({"x": (0, 2, 8, 12)}, "input x: expected positive sizes, found 0x2x8x12"),
        ({"x": (1, 2, -1, 12)}, "input x: expected positive sizes, found 1x2x-1x12"),
        ({"x": (1, 2, None, 12)}, "input x: expected a shape of whole numbers, found .*None"),
        ({"x": (1, 2, 8.5, 12)}, "input x: expected a shape of whole numbers"),
        ({"x": "1x2x8x12"}, "input x: expected a shape of whole numbers, found '1x2x8x12'"),
        ({"x": 4}, "input x: expected a shape of whole numbers, found 4"),
        ({"x": ()}, "input x: expected positive sizes"),
        ({"x": torch.zeros(SHAPE, dtype=torch.int64)}, r"input x: expected float32 values, found torch\.int64"),
        ([np.zeros(SHAPE, np.uint8)], "input x: expected float32 values, found uint8"),
        ({"x": (1, 3, 8, 12)}, "net: does not run on float32 inputs x=1x3x8x12: .*expected input"),
        ({"x": (1, 2, 10**9, 10**9)}, "net: does not run on float32 inputs x=1x2x1000000000x1000000000: .*memory"),
        ({"x": SHAPE, "y": SHAPE}, "expected the shapes of x, in this order, found x, y"),
        ({"left view": SHAPE}, "tensor 'left view': expected a name of letters"),
        ({"a/b": SHAPE}, "tensor 'a/b': expected a name"),
        ({"lambda": SHAPE}, "tensor 'lambda': expected a name"),
        ({1: SHAPE}, "tensor 1: expected a name"),
    ],
)
def test_wrong_inputs(inputs, words):
    network = Net()
    with pytest.raises(InputError, match=words):
        network_of_module(network, input_shapes(network, inputs), None, "net")


def test_a_module_of_integers_says_that_inputs_are_float():
    with pytest.raises(InputError, match=r"net: does not run on float32 inputs i=1x4: .*Long, Int"):
        network_of_module(nn.Embedding(10, 4), {"i": (1, 4)}, None, "net")


def test_inputs_in_another_order_than_forward():
    """Bound by place, they would swap without a word."""

    class Two(nn.Module):
        def forward(self, left, right):
            return left - right

    with pytest.raises(InputError, match="input right: expected the order of forward: left, right; found right, left"):
        network_of_module(Two(), {"right": SHAPE, "left": SHAPE}, None, "net")
    network = network_of_module(Two(), {"one": SHAPE, "two": SHAPE}, None, "net")  # names of one's own
    assert [name for name, _ in network.signature.inputs] == ["one", "two"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"views": (1, 2, 8, 12)}, {"views": SHAPE}),
        ({"views": np.array(SHAPE).tolist()}, {"views": SHAPE}),
        ({"views": tuple(np.array(SHAPE))}, {"views": SHAPE}),
        ({"views": torch.zeros(SHAPE)}, {"views": SHAPE}),
        ([torch.zeros(SHAPE)], {"x": SHAPE}),
        ([np.zeros(SHAPE)], {"x": SHAPE}),
        (torch.zeros(SHAPE), {"x": SHAPE}),
    ],
)
def test_shapes_and_examples_by_name_or_in_order(given, expected):
    assert input_shapes(Net(), given) == expected


def test_examples_of_a_module_that_takes_any_number_are_numbered():
    class Sum(nn.Module):
        def forward(self, *views):
            return torch.stack(views).sum(0)

    assert input_shapes(Sum(), [torch.zeros(SHAPE)] * 2) == {"input_0": SHAPE, "input_1": SHAPE}
    network = network_of_module(Sum(), {"input_0": SHAPE, "input_1": SHAPE}, None, "net")
    assert network.signature.outputs == (("output", SHAPE),)


@pytest.mark.parametrize(("module", "found"), [(Net, "Net"), (lambda x: x, "<lambda>"), (None, "NoneType")])
def test_no_module(module, found, tmp_path):
    with pytest.raises(InputError, match=rf"expected a torch\.nn\.Module, found {found}"):
        edge_dp.export(module, {"x": SHAPE}, tmp_path / "bundle")


# ---- outputs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (lambda self, x, y: y, ["output"]),
        (lambda self, x, y: (y, y[:, :1]), ["output_0", "output_1"]),
        (lambda self, x, y: [y], ["output_0"]),
        (lambda self, x, y: Pair(y, y[:, :1]), ["disparity", "confidence"]),
        (lambda self, x, y: {"confidence": y, "disparity": y[:, :1]}, ["confidence", "disparity"]),
    ],
    ids=["tensor", "tuple", "list", "named tuple", "dict"],
)
def test_names_of_outputs_are_those_that_the_module_gives(function, names):
    network = network_of_module(Net(function), {"x": SHAPE}, None, "net")
    assert [name for name, _ in network.signature.outputs] == names
    given = network_of_module(Net(function), {"x": SHAPE}, [f"{name}_px" for name in names], "net")
    assert [name for name, _ in given.signature.outputs] == [f"{name}_px" for name in names]
    for (_, shape), value in zip(network.signature.outputs, network.module(torch.zeros(SHAPE)), strict=True):
        assert shape == tuple(value.shape)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda self, x, y: None, "a tuple or dict of tensors, found NoneType"),
        (lambda self, x, y: (y, None), "a tuple or dict of tensors, found tuple"),
        (lambda self, x, y: (y, (y, y)), "a tuple or dict of tensors, found tuple"),
        (lambda self, x, y: {"a": {"b": y}}, "a tuple or dict of tensors, found dict"),
        (lambda self, x, y: (), "a tuple or dict of tensors, found tuple"),
        (lambda self, x, y: y.argmax(1), r"output output: expected float32 values, found int64 of shape \(1, 8, 12\)"),
        (lambda self, x, y: y > 0, "output output: expected float32 values, found bool"),
        (
            lambda self, x, y: y[:, :0],
            r"output output: expected float32 values, found float32 of shape \(1, 0, 8, 12\)",
        ),
        (lambda self, x, y: {"x": y}, "output x: expected a name that no other tensor has"),
        (lambda self, x, y: {"a/b": y}, "tensor 'a/b': expected a name of letters"),
        (lambda self, x, y: {0: y}, "tensor '0': expected a name"),
        (lambda self, x, y: y / 0 if self.nobody else y, "net: does not run .*nobody"),
    ],
)
def test_wrong_outputs(function, words):
    with pytest.raises(InputError, match=words):
        network_of_module(Net(function), {"x": SHAPE}, None, "net")


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        (["a"], "net: expected 2 names of outputs, found a"),
        (["a", "b", "c"], "net: expected 2 names of outputs, found a, b, c"),
        (["a", "a"], "output a: expected a name that no other tensor has"),
        (["a", "x"], "output x: expected a name that no other tensor has"),
        (["a", "../b"], r"tensor '\.\./b': expected a name"),
    ],
)
def test_wrong_names_of_outputs(outputs, words):
    network = Net(lambda self, x, y: (y, y[:, :1]))
    with pytest.raises(InputError, match=words):
        network_of_module(network, {"x": SHAPE}, outputs, "net")


@pytest.mark.parametrize("name", ["../evil", "a/b", "a b", ".hidden", "a\nb"])
def test_name_of_the_model_that_files_cannot_have(name):
    with pytest.raises(InputError, match=r"name .*: expected letters, digits"):
        network_of_module(Net(), {"x": SHAPE}, None, name)


def test_the_module_is_left_as_it_is():
    network = Net(lambda self, _, y: self.norm(y), norm=nn.BatchNorm2d(4)).train()
    network.first.weight.requires_grad_(False)
    before = copy.deepcopy(network.state_dict())
    check(network, INTEGER)
    assert network.training and network.norm.training
    assert [parameter.requires_grad for parameter in network.parameters()] == [False, True, True, True]
    assert not network._forward_hooks and not network._forward_pre_hooks
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key])
