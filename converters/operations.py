"""Every operation that converts to integers, as data: what it is, a smallest network with it, and which format cannot take it.

Tests and ``benchmarks/operations.py`` run each through each format; the pre-flight refuses by the same table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn import functional as F  # noqa: N812  # torch's own abbreviation


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the portable set.

    build: a smallest network with it, random weights, evaluation mode; a convolution before it where it needs an activation.
    shapes: of the network's inputs, each with a batch of 1.
    refused: "reason; what to do instead" by artifact name ("onnx-int8"), where that toolchain or engine has no integer kernel.
    """

    name: str
    build: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...] = ((1, 8, 16, 24),)
    refused: dict[str, str] = field(default_factory=dict)
    matches: Callable[[Node], bool] = lambda node: False
    """Whether a node of a portable graph is this operation; needed where something is refused."""


class _Then(nn.Module):
    """A convolution, then the operation: so that what it works on is an activation like any other."""

    def __init__(self, operation: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv2d(8, 8, 3, padding=1)
        self.operation = operation
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.operation(self, self.first(x))


class _Two(nn.Module):
    """Two convolutions of two inputs, then an operation of both."""

    def __init__(self, operation: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.operation = operation

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.operation(self.left(left), self.right(right))


class _WithMap(nn.Module):
    """A convolution, then an operation of its result and a constant that varies over the image."""

    def __init__(self, operation: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.operation = nn.Conv2d(8, 8, 3, padding=1), operation
        self.map: Tensor
        self.register_buffer("map", torch.rand(16, 24) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.operation(self.layer(x), self.map)


class _Normed(nn.Module):
    """Convolution, batch-norm with statistics of its own, ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        assert self.norm.running_mean is not None and self.norm.running_var is not None
        nn.init.normal_(self.norm.running_mean, std=0.2)
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)
        nn.init.uniform_(self.norm.weight, 0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.convolution(x)))


def _then(operation: Callable[..., Tensor], **layers: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: _Then(operation, **{name: layer() for name, layer in layers.items()})


def _layer(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return _then(lambda self, x: self.layer(x), layer=make)


def _two(operation: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], nn.Module]:
    return lambda: _Two(operation)


def _unary(function: Callable[..., Tensor], *arguments: Any, **named: Any) -> Callable[[], nn.Module]:
    return _then(lambda _, x: function(x, *arguments, **named))


def _is_uneven_bilinear(node: Node) -> bool:
    """Bilinear to a size that is no whole multiple: of the pixels, or of the steps between them with ``align_corners``."""
    if node.target is not torch.ops.aten.upsample_bilinear2d.vec:
        return False
    source, corners = node.args[0], bool(node.args[2])
    assert isinstance(source, Node)
    pairs = zip(source.meta["val"].shape[-2:], node.meta["val"].shape[-2:], strict=True)
    return any((after - corners) % max(1, before - corners) or after < before for before, after in pairs)


def _with_map(operation: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], nn.Module]:
    return lambda: _WithMap(operation)


_PAIR = ((1, 8, 16, 24), (1, 8, 16, 24))

OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for operation in (
        Operation("convolution", _layer(lambda: nn.Conv2d(8, 12, 3, stride=2, padding=1))),
        Operation("convolution dilated", _layer(lambda: nn.Conv2d(8, 12, 3, padding=2, dilation=2))),
        Operation("convolution depthwise", _layer(lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8))),
        Operation("convolution grouped", _layer(lambda: nn.Conv2d(8, 16, 3, padding=1, groups=2))),
        Operation("convolution transposed", _layer(lambda: nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1))),
        Operation("batch-norm folded", _Normed),
        Operation("linear", _then(lambda self, x: self.layer(x.flatten(1)), layer=lambda: nn.Linear(8 * 16 * 24, 10))),
        Operation("add", _two(torch.add), _PAIR),
        Operation("sub", _two(torch.sub), _PAIR),
        Operation("mul", _two(torch.mul), _PAIR),
        Operation("mul broadcast", _then(lambda _, x: x * x.mean((2, 3), keepdim=True))),
        Operation("add map", _with_map(torch.add)),
        Operation("sub map", _with_map(torch.sub)),
        Operation("sub from map", _with_map(lambda x, constant: constant - torch.relu(x))),
        Operation("mul map", _with_map(torch.mul)),
        Operation("div by map", _with_map(torch.div)),
        Operation(
            "mul and add positions",
            _then(lambda _, x: x * torch.linspace(0.5, 1, x.shape[2])[:, None] + torch.linspace(-1, 1, x.shape[3])),
        ),
        Operation("cat", _two(lambda a, b: torch.cat([a, b], 1)), _PAIR),
        Operation("relu", _unary(torch.relu)),
        Operation("relu6", _unary(F.relu6)),
        Operation("clamp", _unary(torch.clamp, -0.25, 0.5)),
        Operation("hardswish", _unary(F.hardswish)),
        Operation("hardsigmoid", _unary(F.hardsigmoid)),
        Operation("sigmoid", _unary(torch.sigmoid)),
        Operation("max pooling", _unary(F.max_pool2d, 2)),
        Operation("average pooling", _unary(F.avg_pool2d, 2)),
        Operation("adaptive pooling to 1", _unary(F.adaptive_avg_pool2d, 1)),
        Operation("adaptive pooling", _unary(F.adaptive_avg_pool2d, (4, 6))),
        Operation("mean", _unary(torch.mean, (2, 3), keepdim=True)),
        Operation("bilinear x2", _unary(F.interpolate, scale_factor=2.0, mode="bilinear", align_corners=False)),
        Operation("bilinear to corners", _unary(F.interpolate, size=(31, 47), mode="bilinear", align_corners=True)),
        Operation(
            "bilinear to any size",
            _unary(F.interpolate, size=(23, 40), mode="bilinear", align_corners=False),
            refused=dict.fromkeys(
                ("onnx-int8", "onnx-int8-unsigned"),
                "ONNX Runtime interpolates in float, and only whole factors can be written as convolutions; use a "
                "whole factor, or n * (size - 1) + 1 with align_corners, or average pooling to shrink",
            ),
            matches=_is_uneven_bilinear,
        ),
        Operation("nearest x2", _unary(F.interpolate, scale_factor=2.0, mode="nearest")),
        Operation("pad", _unary(F.pad, (1, 2, 3, 4))),
        Operation("slice", _then(lambda _, x: x[:, 2:6, 1:, ::2])),
        Operation("reshape", _then(lambda _, x: x.reshape(1, 16, 8, 24))),
        Operation("permute", _then(lambda _, x: x.permute(0, 2, 3, 1))),
    )
}
