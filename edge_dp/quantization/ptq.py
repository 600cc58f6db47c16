"""Calibrated quantisation without training: ranges from data, weights rounded as they are."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from edge_dp.errors import InputError
from edge_dp.quantization._torchao import FakeQuantizeBase, FixedQParamsFakeQuantize
from edge_dp.quantization.qat import activations, freeze_ranges, observe_weights, snap_biases, whole_biases

_WIDEST = 255 * float(torch.finfo(torch.half).max)  # scales are half floats


def calibrate(
    prepared: GraphModule,
    batches: Iterable[Sequence[Tensor]],
    progress: Callable[[int], None] = lambda _: None,
    *,
    constant_ok: bool = False,
) -> None:
    """Give ``prepared`` the smallest and largest value of each activation over all batches, in place, and freeze it.

    While it observes, nothing is quantised: a range is that of the float network. Afterwards weights have been observed and
    biases snapped, the graph is ready to convert.

    Args:
        batches: for each, a tensor for each input, in the shapes that the graph was prepared at. A hundred images like those
            of the deployment are plenty; a range covers what it was shown.
        progress: called with the number of batches done.
        constant_ok: take an activation that has the same value everywhere as it is, for networks with dead parts. Its range is
            then that value's, and cuts whatever another input would put there.

    Raises:
        InputError: there are no batches, one has another shape or holds NaN or infinity, an input or an activation has the same
            value everywhere, or an activation overflows. The graph is then as it was.
    """
    extents: dict[int, _Extent] = {}
    for name, fake_quantize in activations(prepared):
        extents.setdefault(id(fake_quantize), _Extent(name))
    inputs = _inputs(prepared)
    seen = [_Extent(name) for name, _ in inputs]
    done = 0
    with whole_biases(prepared), _observing(prepared, extents), torch.no_grad():
        for done, batch in enumerate(batches, 1):
            for extent, (name, shape), value in zip(seen, inputs, _checked(batch, inputs, done), strict=True):
                _check(value, shape, f"calibration batch {done}: {name}")
                extent.widen(value)
            prepared(*(value.float() for value in batch))
            progress(done)
    if not done:
        raise InputError(
            "calibration: expected at least one batch, found none. Pass inputs like those of the deployment."
        )
    for extent in seen:
        if extent.low == extent.high:
            raise InputError(
                f"calibration: {extent.name}: expected varying data, found {extent.low:g} everywhere. Pass real inputs."
            )
    for extent in extents.values():
        extent.check(constant_ok)
    for _, fake_quantize in activations(prepared):
        if not isinstance(fake_quantize, FixedQParamsFakeQuantize):
            observer, extent = fake_quantize.activation_post_process, extents[id(fake_quantize)]
            observer.min_val, observer.max_val = torch.tensor(extent.low), torch.tensor(extent.high)
    freeze_ranges(prepared)
    observe_weights(prepared)
    snap_biases(prepared)


class _Extent:
    """Smallest and largest value of a tensor so far."""

    def __init__(self, name: str) -> None:
        self.name, self.low, self.high, self.overflows = name, math.inf, -math.inf, False

    def widen(self, value: Tensor) -> None:
        low, high = (float(limit) for limit in value.aminmax())
        if math.isfinite(low) and math.isfinite(high):
            self.low, self.high = min(self.low, low), max(self.high, high)
        else:
            self.overflows = True

    def check(self, constant_ok: bool) -> None:
        """Raises InputError where no range follows."""
        if self.overflows or self.high - self.low > _WIDEST:
            found = "NaN or infinity" if self.overflows else f"{self.low:g} to {self.high:g}"
            raise InputError(
                f"calibration: {self.name}: expected finite activations, at most {_WIDEST:g} from end to end, found {found}. "
                "The weights are too large for these inputs, or the inputs are not scaled as in training."
            )
        if self.low == self.high and not constant_ok:
            raise InputError(
                f"calibration: {self.name}: expected an activation that varies, found {self.low:g} everywhere. "
                "Pass inputs like those of the deployment; if these are, that part of the network is dead: remove it, or "
                "keep it in float with keep_float."
            )


def _inputs(prepared: GraphModule) -> list[tuple[str, tuple[int, ...]]]:
    nodes = [node for node in prepared.graph.nodes if node.op == "placeholder"]
    return [(node.name, tuple(node.meta["val"].shape)) for node in nodes]


def _checked(batch: Any, inputs: list[Any], number: int) -> Sequence[Tensor]:
    if isinstance(batch, Tensor) or not all(isinstance(value, Tensor) for value in batch) or len(batch) != len(inputs):
        names = ", ".join(name for name, _ in inputs)
        found = "one tensor" if isinstance(batch, Tensor) else f"{len(batch)} values"
        raise InputError(
            f"calibration batch {number}: expected a tensor for each of {names}, found {found}. Pass (tensor, ...)."
        )
    return tuple(batch)


def _check(value: Tensor, shape: tuple[int, ...], where: str) -> None:
    if tuple(value.shape) != shape:
        raise InputError(
            f"{where}: expected shape {shape}, found {tuple(value.shape)}. Crop or resize as in the deployment."
        )
    if not torch.isfinite(value).all():
        raise InputError(
            f"{where}: expected finite values, found NaN or infinity. Leave the batch out or mend its source."
        )


@contextlib.contextmanager
def _observing(prepared: GraphModule, extents: dict[int, _Extent]) -> Iterator[None]:
    """Float arithmetic with each activation's extent recorded, within the block."""

    def record(fake_quantize: Any, arguments: tuple[Tensor, ...]) -> None:
        extents[id(fake_quantize)].widen(arguments[0])

    modules = [module for module in prepared.modules() if isinstance(module, FakeQuantizeBase)]
    state = [(module.fake_quant_enabled.clone(), module.observer_enabled.clone()) for module in modules]
    handles = [module.register_forward_pre_hook(record) for module in modules if id(module) in extents]
    for module in modules:
        module.disable_fake_quant()
        module.disable_observer()
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, (quantised, observed) in zip(modules, state, strict=True):
            module.fake_quant_enabled.copy_(quantised)
            module.observer_enabled.copy_(observed)
