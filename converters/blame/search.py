"""Finds the tensor of an artifact that holds each activation, and the first layer whose output its inputs do not explain.

Layer by layer, in the order of the graph: the layer of the converted graph is run on what the artifact itself holds of its
inputs, and the artifact's tensors are searched for the result. So an error counts where it arises and is explained ever after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edge_dp.converters.blame.reference import OUTPUT, Activation, LayerGraph
from edge_dp.converters.blame.taps import Array, Tap, views
from edge_dp.runtime.blame import Blame, Layer

_MOST = 1e9  # steps of an error that is NaN or infinite
_MOST_VALUES = 0.9  # the others may saturate


@dataclass(frozen=True, slots=True)
class Tolerance:
    """By how much a layer may leave the graph when both compute it from the same inputs: rounding, not a fault.

    steps: of the activation's quantisation. relative: besides, of the value itself, in float artifacts.
    """

    steps: float
    relative: float = 0.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What an artifact gave for one of its tensors; codes as of ``Tap.codes``."""

    tap: Tap
    codes: Array


@dataclass(frozen=True, slots=True)
class _Match:
    """A tensor taken for an activation: its values as ``Search`` expects them.

    error: of each given its inputs, in steps. explained: whether that is within tolerance.
    """

    seen: Seen
    values: Array
    error: Array
    explained: bool


class Search:
    """One artifact on one input.

    Args:
        graph: the converted graph. integers: whether the artifact holds its activations as integers.
        inputs: of the network by name. outputs: what the artifact gave, by name.
        seen: the artifact's tensors, in the order of execution.
        tolerance: what counts as explained.
    """

    def __init__(
        self,
        graph: LayerGraph,
        integers: bool,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array],
        seen: Sequence[Seen],
        tolerance: Tolerance,
    ) -> None:
        self._graph, self._integers, self._tolerance = graph, integers, tolerance
        self._outputs, self._free = outputs, list(seen)
        self._inner = [activation for activation in graph.activations if activation.operation != OUTPUT]
        self._given = dict(inputs)  # real values as the artifact has them; of what it does not show, as they should be
        self._right = dict(inputs)  # real values of the graph on the same inputs
        for activation in graph.activations:
            self._right[activation.name] = self._real(activation, self._run(activation, self._right))

    def blame(self) -> Blame:
        """Compare all layers. To be called once."""
        guilty: Layer | None = None
        before, layers, steps = 0.0, [], dict[str, float]()
        for activation in self._graph.activations:
            expected = self._run(activation, self._given)
            match = self._match(activation, expected)
            if match is None:
                self._given[activation.name] = self._real(activation, expected)
                continue
            self._free = [seen for seen in self._free if seen is not match.seen]
            layer = self._layer(activation, match)
            layers.append(layer)
            steps[activation.name] = layer.max_steps
            if guilty is None and not match.explained:
                guilty, before = layer, max((steps.get(name, 0.0) for name in activation.inputs), default=0.0)
        return Blame(guilty, before, tuple(layers))

    def _run(self, activation: Activation, given: Mapping[str, Array]) -> Array:
        """As the artifact should hold it: integers of the trained quantisation, or real numbers."""
        real = self._graph.run(activation, given)
        return activation.quantise(real) if self._is_integer(activation) else real

    def _real(self, activation: Activation, values: Array) -> Array:
        return activation.dequantise(values) if self._is_integer(activation) else values

    def _is_integer(self, activation: Activation) -> bool:
        return self._integers and activation.operation != OUTPUT

    def _error(self, activation: Activation, found: Array, expected: Array) -> Array:
        """Distance of every value, in steps."""
        step = 1.0 if self._is_integer(activation) else activation.step
        with np.errstate(invalid="ignore", over="ignore"):
            distance = np.abs(found.astype(np.float64) - expected) / step
        return np.nan_to_num(distance, nan=_MOST, posinf=_MOST).clip(max=_MOST)

    def _compare(self, activation: Activation, seen: Seen, values: Array, expected: Array) -> _Match:
        error, slack = self._error(activation, values, expected), self._tolerance.relative / activation.step
        excess = error - np.nan_to_num(np.abs(expected).astype(np.float64) * slack, posinf=0.0) if slack else error
        return _Match(seen, values, error, bool(excess.max(initial=0.0) <= self._tolerance.steps))

    def _match(self, activation: Activation, expected: Array) -> _Match | None:
        """The tensor that holds ``activation``; None where the artifact has none."""
        if activation.operation == OUTPUT:
            return self._output(activation, expected)
        matches = self._matches(activation, expected)
        for match in matches:
            if match.explained:
                return match
        if not matches or self._is_its_own(activation, matches[0].seen.tap):
            return matches[0] if matches else None
        return self._requantised(activation, matches, expected) or self._by_its_readers(activation, matches, expected)

    def _output(self, activation: Activation, expected: Array) -> _Match:
        found = self._outputs[activation.name]
        seen = Seen(Tap(activation.name, activation.name, found.shape), found)
        return self._compare(activation, seen, found, expected)

    def _by_its_readers(self, activation: Activation, matches: Sequence[_Match], expected: Array) -> _Match | None:
        """None where layers that read ``activation`` read what is expected; else the tensor that they did read."""
        if self._is_read(activation, self._real(activation, expected)):
            return None
        for match in matches:
            if self._is_read(activation, match.seen.tap.real(match.values) if self._integers else match.values):
                return match
        return matches[0]

    def _matches(self, activation: Activation, expected: Array) -> list[_Match]:
        """Every tensor that could hold ``activation``: of its quantisation first, then by the least error."""
        found = [
            self._compare(activation, seen, values, expected)
            for seen in self._free
            if seen.tap.scale is not None or not self._integers
            for values in views(seen.codes if self._integers else seen.tap.real(seen.codes), expected.shape)
        ]
        return sorted(found, key=lambda m: (not _is_quantised_as(activation, m.seen.tap), float(m.error.mean())))

    def _is_its_own(self, activation: Activation, tap: Tap) -> bool:
        """Whether a tensor is quantised as ``activation`` is, and as no other."""
        return self._integers and [a for a in self._inner if _is_quantised_as(a, tap)] == [activation]

    def _requantised(self, activation: Activation, matches: Sequence[_Match], expected: Array) -> _Match | None:
        """A tensor that means what ``activation`` should, most of its values at least, in a quantisation that none has."""
        real = self._real(activation, expected)
        for match in matches:
            tap = match.seen.tap
            if tap.scale is None or not self._integers or any(_is_quantised_as(a, tap) for a in self._inner):
                continue
            distance = np.abs(tap.real(match.values) - real) / activation.step
            if np.quantile(distance, _MOST_VALUES) <= self._tolerance.steps + tap.scale / activation.step:
                return match
        return None

    def _is_read(self, activation: Activation, real: Array) -> bool:
        """Whether a layer that reads ``activation`` gives in the artifact what follows from these values of it."""
        given = self._right | self._given | {activation.name: real}
        for reader in self._graph.activations:
            if activation.name not in reader.inputs:
                continue
            wanted = self._run(reader, given)
            matches = [self._output(reader, wanted)] if reader.operation == OUTPUT else self._matches(reader, wanted)
            if any(match.explained for match in matches):
                return True
        return False

    def _layer(self, activation: Activation, match: _Match) -> Layer:
        """What is to be told of a match; notes its real values for the layers that read it."""
        tap, right, given = match.seen.tap, self._right[activation.name], match.values
        if self._is_integer(activation):
            right = activation.quantise(right)
            # right integers mean what they were trained to mean, whatever their reader makes of them
            given = (activation.dequantise if match.explained else tap.real)(match.values)
        self._given[activation.name] = given
        error = self._error(activation, match.values, right)
        return Layer(
            module=activation.module,
            operation=activation.operation,
            max_steps=float(error.max(initial=0.0)),
            mean_steps=float(error.mean()),
            tensor=tap.tensor,
            own_max_steps=float(match.error.max(initial=0.0)),
            own_mean_steps=float(match.error.mean()),
        )


def _is_quantised_as(activation: Activation, tap: Tap) -> bool:
    trained = activation.quantisation
    if trained is None or tap.scale is None:
        return False
    return abs(tap.scale - trained.scale) <= 1e-6 * trained.scale and tap.zero_point == trained.zero_point
