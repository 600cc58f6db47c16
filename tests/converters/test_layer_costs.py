"""What each layer's quantisation costs: the right module is blamed, and numbers are those of networks built by hand."""

import pytest
import torch
from torch import nn

from edge_dp.converters.golden import checkpoint_cases
from edge_dp.converters.layer_costs import checkpoint_costs, network_costs
from edge_dp.converters.source import network_of_checkpoint, network_of_module, quantise_checkpoint, quantise_module
from edge_dp.errors import InputError
from edge_dp.models.checkpoint import read_checkpoint

SHAPE = (1, 4, 8, 8)


class Branches(nn.Module):
    """An input named as a layer is, and a branch that one huge channel robs of its resolution."""

    def __init__(self):
        super().__init__()
        self.first, self.coarse = nn.Conv2d(4, 4, 1), nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
        self.fine = nn.Conv2d(4, 3, 1)
        with torch.no_grad():
            self.coarse[0].weight[0] = 500.0
            self.coarse[1].weight[:, 0] = 0.0

    def forward(self, first):
        shared = torch.relu(self.first(first))
        return {"coarse": self.coarse(shared), "fine": 100.0 * self.fine(shared)}


@pytest.fixture(scope="module")
def job():
    torch.manual_seed(3)
    return Branches(), [torch.randn(SHAPE) for _ in range(6)]


def quantised_outputs(job, samples):
    """Of the float model and of the converted graph, by output."""
    module, calibration = job
    network = network_of_module(module, {"first": SHAPE}, None, "branches")
    folded = quantise_module(network, [{"first": sample} for sample in calibration]).folded
    with torch.no_grad():
        runs = [[graph(sample) for sample in calibration[:samples]] for graph in (network.module, folded)]
    return [[torch.stack([outputs[index] for outputs in run]) for index in range(2)] for run in runs]


def test_mean_absolute_error_of_one_output(job):
    costs = network_costs(job[0], {"first": SHAPE}, job[1], of="coarse", samples=3)
    wanted, found = quantised_outputs(job, 3)
    assert (costs.model, costs.samples, costs.unit) == ("Branches", 3, "")
    assert costs.report.quantised == pytest.approx(float((found[0] - wanted[0]).abs().mean()), rel=1e-3)
    assert costs.report.floating < 0.02 * costs.report.quantised
    worst = costs.report.layers[0]
    assert worst.module == "coarse.0"
    assert costs.remedies[0].keep_float == ("coarse.0", "coarse.1")
    assert costs.report.quantised - worst.spared > 0.5 * costs.report.quantised


def test_error_of_all_outputs_is_over_their_size(job):
    costs = network_costs(job[0], {"first": SHAPE}, job[1], samples=2)
    wanted, found = quantised_outputs(job, 2)
    shares = [
        float((f - w).square().mean().sqrt() / w.square().mean().sqrt()) for f, w in zip(found, wanted, strict=True)
    ]
    assert costs.report.quantised == pytest.approx(sum(shares) / 2, rel=1e-3)


def test_inputs_have_the_names_of_the_signature_and_no_module(job):
    costs = network_costs(job[0], {"first": SHAPE}, job[1], of="fine", samples=2)
    modules = {cost.tensor: cost.module for cost in costs.report.layers}
    assert modules["first"] == ""  # the module of this name computes another activation
    assert set(modules.values()) == {"", "first", "coarse.0", "coarse.1", "fine"}
    for remedy in costs.remedies:
        assert not {"coarse.0", "coarse.1"} & set(remedy.keep_float)  # no part of this output
        assert set(remedy.keep_float) < {name for name, _ in job[0].named_modules() if name}


def test_remedies_hold_when_they_are_applied(job):
    """The first one spares what its layer was foretold to spare, or more, as an export with the same modules would."""
    before = network_costs(job[0], {"first": SHAPE}, job[1], of="coarse", samples=2)
    remedy = before.remedies[0]
    after = network_costs(job[0], {"first": SHAPE}, job[1], of="coarse", samples=2, keep_float=remedy.keep_float)
    assert after.report.quantised == pytest.approx(remedy.error, rel=1e-6)
    assert remedy.error < 1.1 * before.report.layers[0].spared < 0.1 * before.report.quantised
    assert {"coarse.0", "coarse.1"}.isdisjoint(cost.module for cost in after.report.layers)


def test_everything_in_float_costs_nothing(job):
    every = ["first", "coarse.0", "coarse.1", "fine"]
    told = []
    costs = network_costs(
        job[0], {"first": SHAPE}, job[1], keep_float=every, progress=lambda *what: told.append(what), samples=1
    )
    assert costs.report.quantised < 0.02
    assert [what for what in told if what[0] == "calibrate"] == [("calibrate", i, 6) for i in range(1, 7)]
    measured = 2 * len(costs.report.layers) + 2
    assert [what for what in told if what[0] == "measure"] == [("measure", i, measured) for i in range(1, measured + 1)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"of": "depth"}, "Branches: expected one of its outputs, coarse, fine, found depth"),
        ({"samples": 0}, "samples: expected at least 1, found 0"),
        ({"calibration": []}, "expected at least one sample"),
        ({"keep_float": ["nobody"]}, "nobody: expected the path of a module"),
    ],
)
def test_wrong_requests(job, arguments, words):
    with pytest.raises(InputError, match=words):
        network_costs(job[0], {"first": SHAPE}, **{"calibration": job[1], **arguments})


def test_shipped_student_on_simulated_captures():
    checkpoint = read_checkpoint("dp_disparity_s")
    costs = checkpoint_costs("dp_disparity_s", size=(64, 96))
    network = network_of_checkpoint(checkpoint, 64, 96)
    folded = quantise_checkpoint(network, checkpoint).folded
    cases = [case for case in checkpoint_cases(network, checkpoint.exposure) if case.kind == "typical"]
    with torch.no_grad():
        errors = [
            (folded(views)[0] - network.module(views)[0]).abs().mean()
            for case in cases
            for views in [torch.from_numpy(case.inputs["views"])]
        ]
    assert (costs.model, costs.unit, costs.samples, costs.remedies) == ("dp_disparity_s", "px", 3, ())
    assert costs.report.quantised == pytest.approx(float(sum(errors)) / 3, rel=1e-3)
    modules = {cost.module for cost in costs.report.layers}
    assert {"", "encoder.0.0.conv", "decoder.2", "disparity", "confidence"} <= modules
    (confidence,) = [cost for cost in costs.report.layers if cost.module == "confidence"]
    assert confidence.alone == pytest.approx(costs.report.floating)  # that head has no part in the disparity
    with pytest.raises(InputError, match="expected one of its outputs, disparity, confidence, found depth"):
        checkpoint_costs(checkpoint, size=(64, 96), of="depth")
