import dataclasses
import math
import random

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from edge_dp.errors import InputError, TrainingError
from edge_dp.quantization.qat import freeze_ranges, prepare, read_ranges
from edge_dp.training.loop.average import MovingAverage
from edge_dp.training.loop.evaluate import end_point_error
from edge_dp.training.loop.objective import objective
from edge_dp.training.loop.processes import Processes
from edge_dp.training.loop.record import Clock, Record
from edge_dp.training.loop.stage import Loop
from edge_dp.training.loop.state import load_state, save_state
from edge_dp.training.losses import masked_mean
from edge_dp.training.recipe import LogRecipe, read_recipe

from .samples import CPU, EXPOSURE, Linear, draw, maker, some_samples, stage


def run_stage(folder, module, steps=20, save_every=5, make=None, **settings):
    settings = dataclasses.replace(stage(4), steps=steps, **settings)
    recipe = dataclasses.replace(
        read_recipe("dp_disparity_s"), seed=3, float_stage=settings, save_every=save_every, log=LogRecipe(every=1)
    )
    record, clock = Record(folder, -1, 1), Clock(folder / "seconds.json")
    make = make or maker(some_samples())
    loop = Loop(recipe, folder, Processes(0, 1, CPU), make, 1, some_samples(4), record, clock, lambda *_: None)
    loop.run("float", module)


def steps_done(folder):
    return load_file(folder / "float.safetensors")["optimiser/disparity.weight/step"]


def test_loss_that_is_not_a_number_ends_the_stage_and_keeps_the_last_save(tmp_path):
    good = maker(some_samples())

    def broken_from_step_12(number, step, recipe, share):
        batch = good(number, step, recipe, share)
        return dataclasses.replace(batch, label=batch.label * math.nan) if step >= 12 else batch

    with pytest.raises(
        TrainingError, match=r"float stage, step 12: the loss or its gradient is not finite; lower learn"
    ):
        run_stage(tmp_path, Linear(), make=broken_from_step_12)
    assert all(np.isfinite(array).all() for array in load_file(tmp_path / "float.safetensors").values())
    assert steps_done(tmp_path) == 10

    run_stage(tmp_path, Linear())  # and it can be gone on with
    assert steps_done(tmp_path) == 20


def test_saved_state_of_a_quantised_stage_keeps_the_smallest_scale(tmp_path):
    """Otherwise a resumed run writes ranges that a freshly prepared graph finds contradictory."""

    def prepared_with_a_dead_output():
        module = Linear()
        for parameter in module.disparity.parameters():
            torch.nn.init.zeros_(parameter)
        graph = prepare(module.eval(), (torch.zeros(1, 2, 16, 16),))
        return graph, MovingAverage(graph, 0.5), torch.optim.AdamW(graph.parameters())

    first, second = prepared_with_a_dead_output(), prepared_with_a_dead_output()
    with torch.no_grad():
        first[0](torch.rand(1, 2, 16, 16))
    save_state(tmp_path / "state.safetensors", 7, *first)
    with pytest.raises(TrainingError, match="damaged state"):  # no step was taken: no moments to load
        load_state(tmp_path / "state.safetensors", Linear(), *second[1:])
    assert load_state(tmp_path / "state.safetensors", *second) == 7
    freeze_ranges(first[0])
    freeze_ranges(second[0])
    assert min(entry.scale for entry in read_ranges(first[0])) == 2.0**-12
    assert read_ranges(second[0]) == read_ranges(first[0])


def test_random_states_are_saved_and_restored(tmp_path):
    module = Linear()
    parts = module, MovingAverage(module, 0.0), torch.optim.AdamW(module.parameters())
    random.gauss(0, 1), np.random.standard_normal()  # the global generators, with a value kept back
    save_state(tmp_path / "state.safetensors", 3, *parts)
    drawn = [(random.gauss(0, 1), np.random.standard_normal(), torch.rand(3).tolist()) for _ in range(2)]
    load_state(tmp_path / "state.safetensors", *parts)
    assert drawn == [(random.gauss(0, 1), np.random.standard_normal(), torch.rand(3).tolist()) for _ in range(2)]


@pytest.mark.parametrize("keep", [0, 100, -50])
def test_damaged_state_is_named_with_what_to_do(tmp_path, keep):
    run_stage(tmp_path, Linear(), steps=5)
    path = tmp_path / "float.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(TrainingError, match=r"float\.safetensors: damaged state .*delete it"):
        run_stage(tmp_path, Linear())


def test_state_that_cannot_be_written_leaves_the_one_before(tmp_path):
    module = Linear()
    parts = module, MovingAverage(module, 0.0), torch.optim.AdamW(module.parameters())
    (tmp_path / "folder").mkdir()
    save_state(tmp_path / "folder" / "state.safetensors", 3, *parts)
    before = (tmp_path / "folder" / "state.safetensors").read_bytes()
    with pytest.raises(InputError, match="found a folder"):
        save_state(tmp_path / "folder", 4, *parts)
    assert (tmp_path / "folder" / "state.safetensors").read_bytes() == before


def test_optimiser_is_adamw_with_the_scheduled_rate(tmp_path):
    """One step by hand: from zero moments AdamW moves each weight by the rate against the gradient's sign, after decay."""
    torch.manual_seed(0)
    module = Linear()
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    batch = draw(some_samples(), 4)
    total, _ = objective({"laplace_nll": 1.0, "l1": 1.0}, *module(batch.views), batch, masked_mean)
    gradients = dict(zip(before, torch.autograd.grad(total, list(module.parameters())), strict=True))
    run_stage(tmp_path, module, steps=1)
    for name, value in module.named_parameters():
        expected = before[name] * (1 - 0.01 * 1e-4) - 0.01 * torch.sign(gradients[name])
        torch.testing.assert_close(value.detach(), expected, atol=1e-5, rtol=0)


def test_gradients_are_clipped_to_the_norm_of_the_recipe(tmp_path):
    torch.manual_seed(0)
    run_stage(tmp_path, Linear(), steps=1, clip_norm=1e-3)
    moments = [v for name, v in load_file(tmp_path / "float.safetensors").items() if name.endswith("exp_avg")]
    norm = math.sqrt(sum(float((moment.astype(float) ** 2).sum()) for moment in moments)) / (1 - 0.9)
    assert norm == pytest.approx(1e-3, rel=1e-3)


def test_bf16_computes_the_network_in_bfloat16_and_the_rest_in_float32(tmp_path):
    seen = []

    class Watched(Linear):
        def forward(self, views):
            outputs = super().forward(views)
            seen.extend(output.dtype for output in outputs)
            return outputs

    run_stage(tmp_path, Watched(), steps=1, precision="bf16")
    assert set(seen) == {torch.bfloat16}
    state = load_file(tmp_path / "float.safetensors")
    assert {state[f"optimiser/disparity.weight/{name}"].dtype for name in ("exp_avg", "exp_avg_sq")} == {np.dtype("f4")}


def test_compiled_stage_trains_the_same_weights(tmp_path):
    modules = []
    for compiled in (False, True):
        torch.manual_seed(0)
        modules.append(Linear())
        folder = tmp_path / str(compiled)
        folder.mkdir()
        run_stage(folder, modules[-1], steps=3, compile=compiled)
    for mine, its in zip(*(module.parameters() for module in modules), strict=True):
        torch.testing.assert_close(mine, its, atol=1e-4, rtol=0)


def test_evaluation_is_the_mean_absolute_error_against_the_truth_over_all_pixels():
    class Constant(Linear):
        def forward(self, views):
            assert not self.training
            assert views.mean(dim=(1, 2, 3)).sub(0.2).abs().max() < 1e-3  # exposed as the deployed model sees it
            maps = torch.full((len(views), 1, *(side // 2 for side in views.shape[2:])), 0.25)
            return maps, maps

    samples = dataclasses.replace(
        some_samples(21), mask=np.zeros((21, 8, 8), bool), label=np.zeros((21, 8, 8), np.float16)
    )
    expected = np.abs(0.25 - samples.truth.astype(float)).mean()
    module = Constant()
    assert end_point_error(module, samples, EXPOSURE, CPU) == pytest.approx(expected, rel=1e-4)
    assert module.training  # as it was
