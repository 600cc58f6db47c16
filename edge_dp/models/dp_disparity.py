"""dp_disparity: a convolutional student that reads dual-pixel disparity off the two half-aperture views.

A U-Net of dense 3x3 convolutions whose decoder ends at a quarter of the size; its two maps are doubled. Dense rather than
depthwise-separable: on phone CPUs in int8 a depthwise layer at high resolution reaches a small part of the speed its
multiply-adds promise. Nothing but convolution, ReLU, bilinear x2 and addition, all of which every engine executes in integers.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edge_dp.errors import InputError

OUTPUT_STRIDE = 2
"""The maps have half the height and width of the views: ground truth through a far coarser grid still scores near zero."""
_HEADS = 1
"""Level at which the heads stand, of 1 / 2^(level + 1) of the input size. A convolution at half the size costs as much as
four at a quarter, and there they win more."""
_SHY = 0.1
"""Of PyTorch's usual weights, for the confidence to start from."""


class ConvReLU(nn.Module):
    """Convolution, batch-norm, ReLU; (N, C_in, H, W) to (N, C_out, H/stride, W/stride). ``fold`` merges the first two."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes as in the class."""
        return torch.relu(self.norm(self.conv(x)))

    def fold(self) -> None:
        """Fold the batch-norm's running statistics into the convolution; the block computes the same in evaluation."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv = nn.utils.fuse_conv_bn_eval(self.conv.eval(), self.norm.eval())
            self.norm = nn.Identity()


class Up(nn.Module):
    """One decoder level: reduce the channels, double the size, add the encoder's features, refine.

    coarse (N, C_coarse, H, W), skip (N, C, 2H, 2W) to (N, C, 2H, 2W).
    """

    def __init__(self, channels_coarse: int, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels_coarse, channels, 1)
        self.refine = ConvReLU(channels, channels)

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """Shapes as in the class."""
        return self.refine(_doubled(self.reduce(coarse)) + skip)


def _doubled(x: Tensor) -> Tensor:
    """(N, C, H, W) to (N, C, 2H, 2W), bilinear."""
    return nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class DpDisparity(nn.Module):
    """Dual-pixel disparity with confidence.

    Args:
        widths: channels per encoder level, finest first; level i works at 1 / 2^(i+1) of the input size. Multiples of 16 fill
            the registers of integer kernels.
        depths: further 3x3 convolutions of each encoder level after the one that halves the size.
        monocular: look at the left view alone. Both are fed all the same, so that a control runs wherever a student does.

    Attributes:
        companion: a smaller network beside this one, or None. The maps of both are added up, see ``join``.

    Input ``views`` (N, 2, H, W): left and right green plane, [0, 1], as ``edge_dp.preprocessing`` makes it of linear light;
    H and W multiples of 2^len(widths).

    Outputs, both (N, 1, H/2, W/2):
        disparity: px of the input, left(x) = right(x + d); positive is farther than the focus plane.
        confidence: affine in the log of the expected absolute error, see ``edge_dp.models.confidence``; 1 is 0.05 px or
            better, 0 is 5 px; not clamped, so that it needs no operation that engines treat differently.

    Raises:
        InputError: not as many depths as widths, or fewer than two.
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 32, 32, 48, 32),
        depths: Sequence[int] = (0, 2, 1, 1, 1),
        monocular: bool = False,
    ) -> None:
        super().__init__()
        if len(widths) != len(depths) or len(widths) <= _HEADS:
            raise InputError(f"student: expected two widths or more and a depth for each, found {widths} and {depths}")
        self.widths, self.monocular = tuple(widths), monocular
        levels = []
        channels = 1 if monocular else 2
        for width, depth in zip(widths, depths, strict=True):
            # 3x3 from the first: with two channels in, 5x5 costs a tenth of the network's instructions more.
            further = (ConvReLU(width, width) for _ in range(depth))
            levels.append(nn.Sequential(ConvReLU(channels, width, stride=2), *further))
            channels = width
        self.encoder = nn.ModuleList(levels)
        pairs = reversed(list(itertools.pairwise(self.widths[_HEADS:])))
        self.decoder = nn.ModuleList(Up(coarse, finer) for finer, coarse in pairs)
        # 1x1: a kernel of one output channel costs as much as one of sixteen, so a 3x3 head would cost a level.
        self.disparity = nn.Conv2d(self.widths[_HEADS], 1, 1)
        self.confidence = nn.Conv2d(self.widths[_HEADS], 1, 1)
        # It starts near 0, 5 px, everywhere: likelihoods divide by what it promises, and chance promises too much.
        weight, bias = self.confidence.parameters()
        with torch.no_grad():
            weight.mul_(_SHY)
            bias.zero_()
        self.companion: DpDisparity | None = None

    @property
    def input_multiple(self) -> int:
        """Height and width of the input must be multiples of this."""
        return 2 ** len(self.widths)

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Disparity and confidence; shapes as in the class."""
        # The order of operations numbers the activations that a checkpoint has ranges of: it must stay.
        x = self._features(views)
        if self.companion is None:
            return _doubled(self.disparity(x)), _doubled(self.confidence(x))
        disparity, confidence = self.disparity(x), self.confidence(x)
        x = self.companion._features(views)
        further = self.companion.disparity(x), self.companion.confidence(x)
        disparity, confidence = disparity + further[0], confidence + further[1]
        return _doubled(disparity), _doubled(confidence)

    def _features(self, views: Tensor) -> Tensor:
        """(N, C, H/4, W/4): what the two maps are made of."""
        features = []
        x = views[:, :1] if self.monocular else views
        for level in self.encoder:
            x = level(x)
            features.append(x)
        x = features.pop()
        for up in self.decoder:
            x = up(x, features.pop())
        return x

    def join(self, companion: DpDisparity) -> None:
        """Take a student that was trained apart beside this one, so that the outputs are the mean of both, in place.

        They err differently, and their mean errs less than either. Both students' last convolutions are halved, so that the sum
        is the mean and no engine has to divide; the companion is of no use alone any more.

        Raises:
            InputError: there is a companion already, here or there.
        """
        if self.companion is not None or companion.companion is not None:
            raise InputError("student: expected two without a companion to join, found one that has one")
        with torch.no_grad():
            for student in (self, companion):
                for parameter in (*student.disparity.parameters(), *student.confidence.parameters()):
                    parameter.mul_(0.5)
        self.companion = companion

    def fold_batch_norm(self) -> None:
        """Replace every convolution and its batch-norm by one convolution, in place; for evaluation and quantisation."""
        for module in self.modules():
            if isinstance(module, ConvReLU):
                module.fold()

    def check_input_shape(self, shape: Sequence[int]) -> None:
        """Raise InputError where ``shape`` is not (N, 2, H, W) with H and W multiples of ``input_multiple``."""
        m = self.input_multiple
        if len(shape) != 4 or shape[1] != 2 or shape[2] % m or shape[3] % m or min(shape) < 1:
            raise InputError(f"views: expected shape (N, 2, H, W) with H and W multiples of {m}, found {tuple(shape)}")
