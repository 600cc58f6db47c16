"""The networks that the cost is compared with, and what is promised of it."""

import pytest
import torch
from cost import CEILING, JUDGED, JUDGED_CORE, PAPER, Ceiling, Cost, missed_bounds, table
from networks import MobileUNet
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode


def multiply_adds(module, shape):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.eval()(torch.zeros(shape))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("upsampling", ["nearest", "bilinear"])
def test_the_papers_student_has_the_published_size(upsampling):
    network = MobileUNet(2, upsampling)
    assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(6.63e6, rel=0.002)
    assert multiply_adds(network, (1, 2, 96, 128)) * 16 == pytest.approx(10.0e9, rel=0.02)


def test_upsamplings_differ():
    torch.manual_seed(0)
    one, two = MobileUNet(2), MobileUNet(2, "bilinear")
    two.load_state_dict(one.state_dict())
    views = torch.rand(1, 2, 64, 64)
    with torch.no_grad():
        assert not torch.allclose(one.eval()(views), two.eval()(views))


def test_the_ceiling_is_three_dense_convolutions():
    assert multiply_adds(Ceiling(), (1, 256, 48, 64)) == 3 * 9 * 256 * 256 * 48 * 64


def costs(**mine):
    """A student that is 13 times as fast as the paper's, at 40 % of the ceiling of 500 GMAC/s."""
    values = {"p50_ms": 2.0, "least_ms": 1.9, "instructions": {JUDGED_CORE: 79_000_000}} | mine
    return {
        JUDGED: Cost(JUDGED, 128_000, 400_000_000, peak_memory_bytes=None, **values),
        PAPER: Cost(PAPER, 6_630_000, 10_000_000_000, 26.0, 25.0, 120_000_000, {JUDGED_CORE: 1_171_000_000}),
        CEILING: Cost(CEILING, 1_770_000, 5_000_000_000, 10.0, 9.5, None, {JUDGED_CORE: 434_000_000}),
    }


def test_promises_that_are_kept():
    assert missed_bounds(costs()) == []
    assert missed_bounds({PAPER: costs()[PAPER]}) == []


@pytest.mark.parametrize(
    ("mine", "texts"),
    [
        ({"p50_ms": 2.2}, ["11.8 times as fast as the paper's student, expected at least 12"]),
        ({"p50_ms": 2.4}, ["10.8 times as fast", "33% of the int8 convolution ceiling, expected at least 35%"]),
        ({"instructions": {JUDGED_CORE: 81_000_000}}, ["81.0 M instructions on cortex-a76, expected at most 80 M"]),
    ],
)
def test_promises_that_are_not(mine, texts):
    missed = missed_bounds(costs(**mine))
    assert len(missed) == len(texts)
    assert all(text in found for text, found in zip(texts, missed, strict=True))


def test_the_table_has_ratios_shares_and_instructions(capsys):
    Console(width=200).print(table(costs(), [JUDGED_CORE]))
    row = next(line for line in capsys.readouterr().out.splitlines() if JUDGED in line)
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells[3:7] == ["2.00", "13.0", "200", "40"] and cells[-1] == "79.0"
