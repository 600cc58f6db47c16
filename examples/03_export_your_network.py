"""Export a network of your own. Runs as it stands: a small two-view network with random weights and random samples.

    python examples/03_export_your_network.py --out out/two_views
    edge-dp validate out/two_views

The same on the command line: edge-dp export 03_export_your_network:TwoViews --input left=1x1x96x128 --input right=1x1x96x128
--calibration samples/ --out out/two_views, with a folder of .npz files that hold an array `left` and an array `right` each.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import edge_dp
from edge_dp.errors import EdgeDpError

SHAPE = (1, 1, 96, 128)


class TwoViews(nn.Module):
    """Left and right view, (N, 1, H, W) each, to a map of half the size and its confidence."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 16, 5, 2, 2, bias=False), nn.BatchNorm2d(16), nn.Hardswish())
        self.body = nn.Sequential(nn.Conv2d(32, 32, 3, 1, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, 1, 1), nn.ReLU())
        self.disparity = nn.Conv2d(32, 1, 3, 1, 1)
        self.confidence = nn.Sequential(nn.Conv2d(32, 1, 3, 1, 1), nn.Sigmoid())

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        """Maps by name, which artifacts and manifest keep."""
        x = self.body(torch.cat([self.features(left), self.features(right)], dim=1))
        return {"disparity": self.disparity(x), "confidence": self.confidence(x)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Export a network of your own.")
    parser.add_argument("--out", type=Path, default=Path("out/two_views"))
    parser.add_argument("--format", dest="formats", action="append", help="all four unless given")
    options = parser.parse_args()
    torch.manual_seed(0)
    # Yours: a few dozen real inputs. The ranges of all activations are read off them.
    samples = [{"left": torch.rand(SHAPE), "right": torch.rand(SHAPE)} for _ in range(16)]
    try:
        bundle = edge_dp.export(
            TwoViews(),
            {"left": SHAPE, "right": SHAPE},
            options.out,
            formats=options.formats,
            calibration=samples,
            progress=lambda text, done, total: print(f"{done}/{total} {text}"),
        )
    except EdgeDpError as error:
        sys.exit(f"error: {error}")
    for artifact in bundle.manifest.artifacts:
        print(
            f"{artifact.path}: {artifact.size_bytes / 1000:.0f} KB, {artifact.kernels.integer or artifact.kernels.floating}"
        )


if __name__ == "__main__":
    main()
