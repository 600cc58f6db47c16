"""The teacher ``stereo_net``: our stereo network with the weights that were trained on rendered rigs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edge_dp.errors import InputError, MissingExtraError, SchemaError
from edge_dp.training.teachers.base import Array, Estimate, Licence, View
from edge_dp.training.teachers.pairs import Pair, check_disparity, grey, partner_difference

if TYPE_CHECKING:
    from edge_dp.training.teachers.stereo_network import StereoNetwork

WEIGHTS = Path(__file__).parent / "weights" / "stereo_net.safetensors"
_MULTIPLE = 4  # px that the network's cells divide a view into


@dataclass(frozen=True, slots=True)
class StereoNetTeacher:
    """A probability over disparities, its mean where it peaks, and the spread that the network expects of its own error.

    Unlike a matcher it has an opinion where there is nothing to match, and says so by its sigma.

    Args:
        disparities: the largest disparity that is looked for, px.
        agreement: largest difference between the two directions, px; or two sigma where that is more. Beyond, a pixel is hidden
            from the second camera, or mistaken.
        weights: a file that ``edge_dp.training.teachers.stereo_training`` wrote; the shipped ones unless given.
        device: of torch, such as ``cpu`` or ``cuda``.
        precision: ``bf16``: the volume is aggregated in bfloat16, as ``StereoNetwork`` says; disparity moves by less than a
            hundredth of a px in the mean.

    Raises:
        SchemaError: no such precision.
    """

    disparities: int = 64
    agreement: float = 1.0
    weights: str | None = None
    device: str = "cpu"
    precision: str = "fp32"

    name: ClassVar[str] = "stereo_net"
    licence: ClassVar[Licence] = Licence("Apache-2.0", "Apache-2.0", commercial=True)
    views: ClassVar[int | None] = 2

    def __post_init__(self) -> None:
        if self.precision not in ("fp32", "bf16"):
            raise SchemaError(f"precision: expected fp32 or bf16, found {self.precision!r}")

    @property
    def weights_file(self) -> Path:
        """As ``Teacher``."""
        return Path(self.weights) if self.weights else WEIGHTS

    def estimate(self, views: Sequence[View]) -> Estimate:
        """As ``Teacher``.

        Raises:
            MissingExtraError: torch is not installed.
        """
        pair = Pair.of(views, self.name)
        left = self.believe(pair.left, pair.right)
        right = self.believe(*pair.swapped())
        disparity, sigma = left
        check_disparity(self.name, disparity, pair.left, pair.right)
        difference, inside = partner_difference(disparity, right[0][:, ::-1])
        valid = inside & (difference <= np.maximum(self.agreement, 2 * sigma))
        return Estimate(pair.back(np.maximum(disparity, 0)), pair.back(sigma), pair.back(valid))

    def believe(self, left: Array, right: Array) -> tuple[Array, Array]:
        """Disparity and sigma (H, W), px, of the left view of a pair (C, H, W), without any check; not to be written to."""
        return _believed(self, *((view.tobytes(), view.shape, view.dtype.str) for view in (left, right)))


@lru_cache(maxsize=4)  # who asks both cameras of a pair about each other asks each question twice
def _believed(teacher: StereoNetTeacher, *pair: tuple[bytes, tuple[int, ...], str]) -> tuple[Array, Array]:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"stereo_net needs {error.name}: pip install 'edge-dp[train]'") from error
    network = _network(str(teacher.weights_file), teacher.device)
    views = [np.frombuffer(data, dtype).reshape(shape) for data, shape, dtype in pair]
    height, width = views[0].shape[1:]
    padding = ((0, -height % _MULTIPLE), (0, -width % _MULTIPLE))
    tensors = [
        torch.from_numpy(np.pad(grey(view), padding, mode="edge"))[None, None].to(teacher.device) for view in views
    ]
    with torch.inference_mode():
        belief = network(*tensors, teacher.disparities, aggregate_in_bf16=teacher.precision == "bf16")
        maps = [
            value[0, 0, :height, :width].float().cpu().numpy() for value in (belief.disparity, belief.log_sigma.exp())
        ]
    for values in maps:
        values.flags.writeable = False  # they are kept
    return maps[0], maps[1]


@lru_cache(maxsize=4)
def _network(path: str, device: str) -> StereoNetwork:
    from safetensors import SafetensorError, safe_open

    from edge_dp.training.teachers.stereo_network import StereoNetwork

    try:
        with safe_open(path, framework="pt") as file:
            width = int((file.metadata() or {})["width"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        network = StereoNetwork(width)
        network.load_state_dict(tensors)
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: expected weights written by train-teacher, found: {reason}. Train or copy them."
        ) from error
    return network.to(device).eval()
