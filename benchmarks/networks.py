"""Whole networks through every format: which artifacts are written, how they execute, and how far their outputs lie apart.

    python benchmarks/networks.py --format executorch --format tflite

The shipped student has its trained weights. The others have random ones, with batch-norm statistics taken from the samples that
calibrate them, so that every layer works in a range like that of a trained one. Numbers are over the golden cases of an export:
samples, noise, and the ends of the inputs' ranges; each is that of the worst output.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from agreement import CELLS, Agreement, Attempt, Outputs, Parting, Subject, attempt, calibrated, parting, shipped
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # torch's own abbreviation

from edge_dp.converters.configs import CONFIGS, FormatConfig, plan
from edge_dp.errors import EdgeDpError, ExportError
from edge_dp.models.checkpoint import shipped_checkpoints

SEED = 4
SAMPLES = 6
SNR_DB = 40.0
"""What the artifacts of XNNPACK must reach against each other."""
SHARE, MAX_STEPS = 0.999, 3.0
"""Of the shipped student: values within a step of each other, and the largest distance."""


def convolution(
    channels_in: int,
    channels_out: int,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    act: type[nn.Module] = nn.ReLU,
) -> nn.Sequential:
    """Convolution, batch-norm, activation; halves the size for a stride of 2."""
    layer = nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    if groups > 1:
        nn.init.uniform_(
            layer.weight
        )  # of both signs it would nearly cancel, and batch-norm would amplify what is left
    return nn.Sequential(layer, nn.BatchNorm2d(channels_out), act())


def branch_end(channels_in: int, channels_out: int, kernel: int) -> nn.Sequential:
    """Last convolution of a residual branch; quieter than what it is added to, as after training."""
    block = convolution(channels_in, channels_out, kernel, act=nn.Identity)
    nn.init.constant_(block.get_parameter("1.weight"), 0.3)
    return block


class InvertedResidual(nn.Module):
    """Block of MobileNetV2: widen, depthwise, narrow; added to its input where shapes allow.

    Source: Sandler et al., MobileNetV2, CVPR 2018, table 1 and figure 3.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = channels_in * expand
        widen = [convolution(channels_in, wide, 1, act=nn.ReLU6)] if expand > 1 else []
        depthwise = convolution(wide, wide, 3, stride, groups=wide, act=nn.ReLU6)
        self.residual = stride == 1 and channels_in == channels_out
        narrow = (
            branch_end(wide, channels_out, 1) if self.residual else convolution(wide, channels_out, 1, act=nn.Identity)
        )
        self.block = nn.Sequential(*widen, depthwise, narrow)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C_out, H/stride, W/stride)."""
        return x + self.block(x) if self.residual else self.block(x)


class Up(nn.Module):
    """Decoder block: x2, nearest unless told otherwise, the encoder's features beside it, two convolutions."""

    def __init__(self, channels_in: int, channels_skip: int, channels_out: int, upsampling: str = "nearest") -> None:
        super().__init__()
        self.upsampling = upsampling
        self.align_corners = False if upsampling == "bilinear" else None
        self.first = convolution(channels_in + channels_skip, channels_out)
        self.second = convolution(channels_out, channels_out)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """(N, C_in, H, W) and (N, C_skip, 2H, 2W) to (N, C_out, 2H, 2W)."""
        x = F.interpolate(x, scale_factor=2.0, mode=self.upsampling, align_corners=self.align_corners)
        return self.second(self.first(x if skip is None else torch.cat([x, skip], 1)))


class MobileUNet(nn.Module):
    """U-Net with MobileNetV2 encoder, 6.6 M parameters.

    Source: the student of Garg et al., ICCP 2024; decoder of 256, 128, 64, 32, 16 channels. 5 inputs are colour and both views,
    2 the views alone. Upsampling is nearest, as in segmentation_models_pytorch, or bilinear.
    """

    STAGES = (
        ((1, 16, 1, 1),),
        ((6, 24, 2, 2),),
        ((6, 32, 3, 2),),
        ((6, 64, 4, 2), (6, 96, 3, 1)),
        ((6, 160, 3, 2), (6, 320, 1, 1)),
    )
    """By size of the features: expansion, channels, blocks, stride of the first."""
    DECODER = (256, 128, 64, 32, 16)

    def __init__(self, channels: int, upsampling: str = "nearest") -> None:
        super().__init__()
        width = 32
        skips: list[int] = []
        encoder: list[nn.Sequential] = []
        for stage in self.STAGES:
            layers: list[nn.Module] = [] if encoder else [convolution(channels, width, 3, 2, act=nn.ReLU6)]
            for expand, channels_out, blocks, stride in stage:
                for index in range(blocks):
                    layers.append(InvertedResidual(width, channels_out, stride if index == 0 else 1, expand))
                    width = channels_out
            encoder.append(nn.Sequential(*layers))
            skips.append(width)
        encoder[-1].append(convolution(width, 1280, 1, act=nn.ReLU6))
        self.encoder = nn.ModuleList(encoder)
        into = (1280, *self.DECODER)
        self.decoder = nn.ModuleList(
            Up(a, b, c, upsampling) for a, b, c in zip(into, (*reversed(skips[:-1]), 0), self.DECODER, strict=False)
        )
        self.head = nn.Conv2d(self.DECODER[-1], 1, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """(N, C, H, W) with sizes that are multiples of 32 to (N, 1, H, W)."""
        features: list[Tensor] = []
        for stage in self.encoder:
            features.append(stage(features[-1] if features else image))
        x = features.pop()
        for up in self.decoder:
            x = up(x, features.pop() if features else None)
        return self.head(x)


class Residual(nn.Module):
    """Two convolutions around a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = convolution(channels, channels), branch_end(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        return torch.relu(x + self.second(self.first(x)))


class ResidualTransposed(nn.Module):
    """Down twice, residual blocks, up twice by transposed convolutions; such as networks that remove defocus blur."""

    def __init__(self, channels: int = 2, width: int = 24, blocks: int = 4) -> None:
        super().__init__()
        self.down = nn.Sequential(
            convolution(channels, width, 5, 2),
            convolution(width, 2 * width, 3, 2),
            *(Residual(2 * width) for _ in range(blocks)),
        )
        self.up = nn.Sequential(
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.ConvTranspose2d(width, width // 2, 2, 2),
            nn.ReLU(),
        )
        self.head = nn.Conv2d(width // 2, channels, 3, padding=1)

    def forward(self, views: Tensor) -> Tensor:
        """(N, C, H, W) with sizes that are multiples of 4 to the same."""
        return views + self.head(self.up(self.down(views)))


class TwoViews(nn.Module):
    """One encoder for both views, their difference and product, two named outputs."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.encoder = nn.Sequential(convolution(1, width, 5, 2), convolution(width, width), nn.MaxPool2d(2))
        self.match = nn.Sequential(convolution(3 * width, 2 * width), convolution(2 * width, width))
        self.disparity, self.confidence = nn.Conv2d(width, 1, 3, padding=1), nn.Conv2d(width, 1, 1)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        """Both (N, 1, H, W), sizes multiples of 4; disparity and confidence (0 to 1), both (N, 1, H/2, W/2)."""
        one, two = self.encoder(left), self.encoder(right)
        x = self.match(torch.cat([one, one - two, one * two], 1))
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        return {"disparity": self.disparity(x), "confidence": torch.sigmoid(self.confidence(x))}


class SqueezeExcite(nn.Module):
    """Each channel by a factor that follows from all channels' means. Source: Howard et al., MobileNetV3, ICCV 2019."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        return x * F.hardsigmoid(self.expand(torch.relu(self.reduce(F.adaptive_avg_pool2d(x, 1)))))


class SqueezeExciteNet(nn.Module):
    """Inverted residuals with hardswish and squeeze-excite, bilinear up."""

    def __init__(self, channels: int = 2, widths: Sequence[int] = (16, 24, 40)) -> None:
        super().__init__()
        self.stem = convolution(channels, widths[0], 3, 2, act=nn.Hardswish)
        stages: list[nn.Module] = []
        for width, wider in itertools.pairwise(widths):
            wide = 4 * width
            stages += [
                convolution(width, wide, 1, act=nn.Hardswish),
                convolution(wide, wide, 5, 2, groups=wide, act=nn.Hardswish),
                SqueezeExcite(wide),
                convolution(wide, wider, 1, act=nn.Identity),
            ]
        self.stages = nn.Sequential(*stages)
        self.reduce = nn.Conv2d(widths[-1], widths[0], 1)
        self.head = nn.Conv2d(widths[0], 1, 3, padding=1)
        self.scale = 2.0 ** (len(widths) - 1)

    def forward(self, views: Tensor) -> Tensor:
        """(N, C, H, W) with sizes that are multiples of 8 to (N, 1, H/2, W/2)."""
        fine = self.stem(views)
        coarse = self.reduce(self.stages(fine))
        up = F.interpolate(coarse, scale_factor=self.scale, mode="bilinear", align_corners=False)
        return self.head(F.hardswish(up + fine))


@dataclass(frozen=True, slots=True)
class NetworkEntry:
    """One network.

    build: random weights.
    channels: of each input by name.
    """

    name: str
    build: Callable[[], nn.Module]
    channels: dict[str, int]

    def subject(self, height: int, width: int, samples: int = SAMPLES) -> Subject:
        """Calibrated on pictures of ``height`` and ``width``, which are multiples of 32."""
        torch.manual_seed(SEED)
        rng = np.random.default_rng(SEED)
        data = [{key: picture(rng, n, height, width) for key, n in self.channels.items()} for _ in range(samples)]
        shapes = {key: (1, n, height, width) for key, n in self.channels.items()}
        return calibrated(settled(self.build(), data), shapes, data, self.name)


NETWORKS: dict[str, NetworkEntry] = {
    entry.name: entry
    for entry in (
        NetworkEntry("unet_mobilenet_v2_5", lambda: MobileUNet(5), {"image": 5}),
        NetworkEntry("unet_mobilenet_v2_2", lambda: MobileUNet(2), {"views": 2}),
        NetworkEntry("residual_transposed", ResidualTransposed, {"views": 2}),
        NetworkEntry("two_views", TwoViews, {"left": 1, "right": 1}),
        NetworkEntry("squeeze_excite", SqueezeExciteNet, {"views": 2}),
    )
}


def picture(rng: np.random.Generator, channels: int, height: int, width: int) -> NDArray[np.float32]:
    """(1, C, H, W) in [0, 1] with detail at every scale, as photographs have."""
    total = torch.zeros(1, channels, height, width)
    for octave in range(6):
        size = (max(1, height >> octave), max(1, width >> octave))
        noise = torch.from_numpy(rng.standard_normal((1, channels, *size)).astype(np.float32))
        total += 2.0 ** (octave / 2) * F.interpolate(noise, size=(height, width), mode="bilinear", align_corners=False)
    low, high = total.aminmax()
    return ((total - low) / (high - low)).numpy()


def settled(module: nn.Module, data: Sequence[dict[str, NDArray[np.float32]]]) -> nn.Module:
    """Evaluation mode, batch-norm statistics those of ``data``: no ReLU is dead and no range runs away."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # a plain mean over the samples
    module.train()
    with torch.no_grad():
        for sample in data:
            module(*map(torch.from_numpy, sample.values()))
    return module.eval()


def subject_of(name: str, height: int, width: int) -> Subject:
    """One of ``NETWORKS`` at the size given, or a shipped student at the size given."""
    return shipped(name, height, width) if name in shipped_checkpoints() else NETWORKS[name].subject(height, width)


@dataclass(frozen=True, slots=True)
class Study:
    """Everything found about one network.

    against_form: each artifact against the form of the network that it must reproduce.
    between: integer artifacts against the bit-true reference, and those of XNNPACK against each other.
    parting: between the converted graph and the reference; none where the reference lacks a rule.
    """

    name: str
    parameters: int
    attempts: list[Attempt]
    against_form: dict[str, Agreement]
    between: dict[str, Agreement]
    parting: Parting | None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "network": self.name,
            "parameters": self.parameters,
            "artifacts": {
                one.config.name: {
                    "refused": one.refused or None,
                    "outside": one.kernels.outside if one.kernels else None,
                    "seconds": round(one.seconds, 1),
                    "agreement": against.to_json() if (against := self.against_form.get(one.config.name)) else None,
                }
                for one in self.attempts
            },
            "between": {pair: agreement.to_json() for pair, agreement in self.between.items()},
            "parting": dataclasses.asdict(self.parting) if self.parting else None,
            "note": self.note,
        }


def study(subject: Subject, configs: Sequence[FormatConfig], folder: Path) -> Study:
    """Export ``subject`` artifact by artifact and compare."""
    attempts = [attempt(subject, config, folder) for config in configs]
    steps = subject.steps
    forms = {form: subject.outputs_of(form) for form in {one.config.reference for one in attempts if one.outputs}}
    found: dict[str, Outputs] = {one.config.name: one.outputs for one in attempts if one.outputs}
    against = {
        one.config.name: Agreement.of(one.outputs, forms[one.config.reference], steps)
        for one in attempts
        if one.outputs
    }
    between, where, note = {}, None, ""
    pte, tflite = "executorch-int8", "tflite-int8"
    if pte in found and tflite in found:
        between[f"{pte} | {tflite}"] = Agreement.of(found[pte], found[tflite], steps)
    try:
        reference = subject.outputs_of("reference")
        where = parting(subject)
        for one in attempts:
            if one.outputs and one.config.integer:
                between[f"{one.config.name} | reference"] = Agreement.of(one.outputs, reference, steps)
    except ExportError as error:
        note = f"no integer reference: {error}"
    parameters = sum(parameter.numel() for parameter in subject.network.module.parameters())
    return Study(subject.network.name, parameters, attempts, against, between, where, note)


def tables(found: Study) -> list[Table | str]:
    """For the console."""
    whole = Table(title=f"{found.name}, {found.parameters / 1e6:.2f} M parameters")
    for column in ("artifact", "delegated", "int / float kernels", "against", *CELLS, "s"):
        whole.add_column(column, justify="left" if column in ("artifact", "delegated", "against") else "right")
    refusals = []
    for one in found.attempts:
        name, seconds = one.config.name, f"{one.seconds:.0f}"
        if one.kernels is None:
            refusals.append(f"{name}: {one.refused}")
            whole.add_row(name, "refused", *[""] * (2 + len(CELLS)), seconds)
            continue
        kernels = f"{sum(one.kernels.integer.values())} / {sum(one.kernels.floating.values())}"
        cells = found.against_form[name].cells() if name in found.against_form else ["-"] * len(CELLS)
        whole.add_row(name, one.delegated, kernels, one.config.reference, *cells, seconds)
    pairs = Table(title=f"{found.name}: integer artifacts against each other and the bit-true reference")
    for column in ("pair", *CELLS):
        pairs.add_column(column, justify="left" if column == "pair" else "right")
    for pair, agreement in found.between.items():
        pairs.add_row(pair, *agreement.cells())
    where = f"converted graph and reference part: {found.parting}" if found.parting else found.note
    return [whole, *refusals, pairs, where, ""]


def main() -> int:
    parser = argparse.ArgumentParser(description="Export whole networks and compare the artifacts.")
    names = [*shipped_checkpoints(), *NETWORKS]
    parser.add_argument("--network", dest="networks", action="append", choices=names, help="default: all")
    parser.add_argument("--format", dest="formats", action="append", choices=list(CONFIGS), help="default: all")
    parser.add_argument("--precision", dest="precisions", action="append", help="default: each format's own two")
    parser.add_argument("--size", default="128x192", help="height x width, multiples of 32 (default: %(default)s)")
    kinds = ("typical", "random", "extreme")
    parser.add_argument(
        "--case", dest="kinds", action="append", choices=kinds, help="golden cases to use; default: all"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args()
    height, width = map(int, options.size.split("x"))
    configs = plan(options.formats, options.precisions)
    console = Console(highlight=False, width=150)
    studies = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.networks or names:
            subject = subject_of(name, height, width)
            cases = [case for case in subject.cases if case.kind in (options.kinds or kinds)]
            studies.append(study(dataclasses.replace(subject, cases=cases), configs, Path(folder)))
            for part in [] if options.json else tables(studies[-1]):
                console.print(part)
    if options.json:
        print(json.dumps([one.to_json() for one in studies], indent=1))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EdgeDpError as error:
        sys.exit(f"networks: {error}")
