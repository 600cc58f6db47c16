import pytest
import torch

from edge_dp.training.loop.average import MovingAverage


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3))


def test_average_follows_weights_and_statistics_by_its_formula():
    module = network()
    average = MovingAverage(module, 0.5)
    expected = {name: value.clone() for name, value in module.state_dict().items()}
    for step in range(12):
        with torch.no_grad():
            for value in [*module.parameters(), module[1].running_mean, module[1].running_var]:
                value.add_(torch.rand_like(value))
            module[1].num_batches_tracked.add_(1)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value
    own = {name: value.clone() for name, value in module.state_dict().items()}
    with average.instead():
        inside = {name: value.clone() for name, value in module.state_dict().items()}
    for name, value in own.items():
        assert torch.equal(module.state_dict()[name], value)  # given back
        if value.is_floating_point():
            torch.testing.assert_close(inside[name], expected[name])
            assert not torch.equal(inside[name], value)
    assert inside["1.num_batches_tracked"] == 12
    average.put_in()
    assert all(torch.equal(module.state_dict()[name], value) for name, value in inside.items())


def test_decay_of_zero_leaves_the_module_alone():
    module = network()
    average = MovingAverage(module, 0.0)
    before = module[0].weight.detach().clone() + 1
    with torch.no_grad():
        module[0].weight.add_(1)
    average.update(0)
    average.put_in()
    with average.instead():
        assert torch.equal(module[0].weight, before)
    assert not average.values


def test_module_gets_its_weights_back_after_an_error():
    module = network()
    average = MovingAverage(module, 0.9)
    with torch.no_grad():
        module[0].weight.add_(1)
    own = module[0].weight.detach().clone()
    with pytest.raises(ZeroDivisionError), average.instead():
        raise ZeroDivisionError
    assert torch.equal(module[0].weight, own)
