"""The renderer of ``render`` on torch tensors, for many scenes at once: nothing goes back to the host in between.

The same blurs, weights and order of compositing, with Fourier transforms over whole canvases; views agree within 1e-4.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edge_dp.errors import InputError
from edge_dp.optics.psf import PsfModel
from edge_dp.simulation.kernels import FieldWindow, plane_kernels
from edge_dp.simulation.render import SIDES, WHOLE_FIELD, BlurPlane, disparity_limits, hat, layer_planes
from edge_dp.simulation.scenes import Scene

_TERMS_AT_ONCE = 64  # convolutions in flight: bounds the memory


@dataclass(frozen=True, slots=True, eq=False)
class SceneBatch:
    """Scenes of one canvas size as tensors on one device; layers back to front, missing ones transparent.

    light: (B, L, C, Hc, Wc) radiance times opacity.
    opacity: (B, L, Hc, Wc).
    planes: (B, L, 3) as ``Layer.plane``.
    relief: (B, L, Hc, Wc) as ``Layer.relief``; None where no layer has any.
    limits: for each scene and layer, on the host, least and greatest disparity within its box; None where it is missing.
    """

    light: Tensor
    opacity: Tensor
    planes: Tensor
    relief: Tensor | None
    limits: tuple[tuple[tuple[float, float] | None, ...], ...]

    @classmethod
    def of(cls, scenes: Sequence[Scene], device: torch.device | str) -> SceneBatch:
        """Upload scenes.

        Raises:
            InputError: no scene, or canvases that differ in size.
        """
        shapes = {layer.radiance.shape for scene in scenes for layer in scene.layers}
        if len(shapes) != 1:
            raise InputError(f"scenes: expected one canvas size and channel count, found {sorted(shapes) or 'none'}")
        channels, height, width = shapes.pop()
        most = max(len(scene.layers) for scene in scenes)
        light = np.zeros((len(scenes), most, channels, height, width), np.float32)
        opacity = np.zeros((len(scenes), most, height, width), np.float32)
        planes = np.zeros((len(scenes), most, 3), np.float32)
        has_relief = any(layer.relief is not None for scene in scenes for layer in scene.layers)
        relief = np.zeros_like(opacity) if has_relief else None
        limits: list[tuple[tuple[float, float] | None, ...]] = []
        for i, scene in enumerate(scenes):
            for k, layer in enumerate(scene.layers):
                light[i, k] = layer.radiance * layer.opacity
                opacity[i, k], planes[i, k] = layer.opacity, layer.plane
                if relief is not None and layer.relief is not None:
                    relief[i, k] = layer.relief
            known = [disparity_limits(layer) if layer.box[1] > layer.box[0] else None for layer in scene.layers]
            limits.append((*known, *[None] * (most - len(known))))
        return cls(
            torch.from_numpy(light).to(device),
            torch.from_numpy(opacity).to(device),
            torch.from_numpy(planes).to(device),
            None if relief is None else torch.from_numpy(relief).to(device),
            tuple(limits),
        )


@dataclass(frozen=True, slots=True)
class _Term:
    """One convolution: which layer of which scene, with what, and where its result counts."""

    scene: int
    layer: int
    plane: BlurPlane
    response: Tensor  # (Hf, Wf / 2 + 1) complex
    coefficients: Tensor  # (rows, columns) over the field


class TorchRenderer:
    """Renders batches of scenes; spectra of point-spread functions stay on the device from call to call.

    Args:
        margin: canvas beyond the frame on every side, px.
        spectra_kept: how many; one takes 1 MB at 384x512.
    """

    def __init__(self, margin: int, spectra_kept: int = 4096) -> None:
        self.margin, self.spectra_kept = margin, spectra_kept
        self._kept: OrderedDict[Any, tuple[list[Tensor], list[Tensor]]] = OrderedDict()

    def __call__(
        self, batch: SceneBatch, psfs: Sequence[PsfModel], windows: Sequence[FieldWindow] | None = None
    ) -> Tensor:
        """Both views, (B, 2, C, H, W) linear light, left first, on the batch's device.

        Args:
            batch: B scenes.
            psfs, windows: for each scene, as for ``render_views``; the whole field unless given.
        """
        count, layers, channels, height, width = batch.light.shape
        planes = [
            (scene, layer, plane)
            for scene, limits in enumerate(batch.limits)
            for layer, limit in enumerate(limits)
            if limit is not None
            for plane in layer_planes(*limit, psfs[scene].step)
        ]
        sizes = [
            plane_kernels(psfs[scene], plane.disparity, side).basis.shape[-1]
            for scene, _, plane in planes
            for side in SIDES
        ]
        reach = -(-max(sizes, default=1) // 32) * 16  # few different sizes, so that spectra kept from other batches fit
        sources = torch.cat([batch.light, batch.opacity[:, :, None]], dim=2).flatten(0, 2)
        padded = functional.pad(sources[:, None], (reach,) * 4, mode="replicate")[:, 0]
        size = (_smooth(height + 2 * reach), _smooth(width + 2 * reach))
        spectra = torch.fft.rfft2(padded, s=size).unflatten(0, (count, layers, channels + 1))
        frame = (height - 2 * self.margin, width - 2 * self.margin)
        fields = [window.interpolation(*frame) for window in windows or [WHOLE_FIELD] * count]
        along = tuple(
            torch.from_numpy(np.stack(matrices)).to(batch.light.device) for matrices in zip(*fields, strict=True)
        )
        views = torch.zeros((count, 2, channels, *frame), device=batch.light.device)
        for index, side in enumerate(SIDES):
            terms = [
                _Term(scene, layer, plane, response, coefficients)
                for scene, layer, plane in planes
                for response, coefficients in zip(
                    *self._responses(psfs[scene], plane.disparity, side, size, views.device), strict=True
                )
            ]
            blurred = torch.zeros((count * layers, channels + 1, *frame), device=views.device)
            for start in range(0, len(terms), _TERMS_AT_ONCE):
                chunk = terms[start : start + _TERMS_AT_ONCE]
                image = self._convolve(spectra, chunk, size, reach + self.margin, frame)
                image = image * self._shares(batch, chunk, frame)[:, None]
                if any(psf.varies for psf in psfs):
                    scenes = [term.scene for term in chunk]
                    grids = torch.stack([term.coefficients for term in chunk])
                    image = image * (along[0][scenes] @ grids @ along[1][scenes].mT)[:, None]
                target = torch.tensor([term.scene * layers + term.layer for term in chunk], device=views.device)
                blurred.index_add_(0, target, image)
            for layer in blurred.view(count, layers, channels + 1, *frame).unbind(1):
                views[:, index] = views[:, index] * (1.0 - layer[:, channels:]) + layer[:, :channels]
        return views

    def _convolve(
        self, spectra: Tensor, terms: list[_Term], size: tuple[int, int], first: int, frame: tuple[int, int]
    ) -> Tensor:
        """(N, C + 1, H, W) blurred light and opacity."""
        chosen = spectra[[term.scene for term in terms], [term.layer for term in terms]]
        image = torch.fft.irfft2(chosen * torch.stack([term.response for term in terms])[:, None], s=size)
        return image[..., first : first + frame[0], first : first + frame[1]]

    def _shares(self, batch: SceneBatch, terms: list[_Term], frame: tuple[int, int]) -> Tensor:
        """(N, H, W) share of each blur in what is interpolated."""
        device = batch.light.device
        chosen = [term.scene for term in terms], [term.layer for term in terms]
        d0, dx, dy = batch.planes[chosen].T[..., None, None]
        y = torch.arange(frame[0], device=device)[:, None] - (frame[0] - 1) / 2
        x = torch.arange(frame[1], device=device) - (frame[1] - 1) / 2
        hats = [(term.plane.disparity, term.plane.below, term.plane.above) for term in terms]
        disparity = d0 + dy * y + dx * x
        if batch.relief is not None:
            rows, columns = (slice(self.margin, self.margin + side) for side in frame)
            disparity = disparity + batch.relief[:, :, rows, columns][chosen]
        return hat(disparity, *torch.tensor(hats, device=device).T[..., None, None])

    def _responses(
        self, psf: PsfModel, disparity: float, side: int, size: tuple[int, int], device: torch.device
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Spectra of the basis at one disparity, with kernels around the origin, and its coefficients."""
        key = (psf, disparity, side, size, device)
        if key not in self._kept:
            kernels = plane_kernels(psf, disparity, side)
            half = kernels.basis.shape[-1] // 2
            placed = torch.zeros((len(kernels.basis), *size))
            placed[:, : 2 * half + 1, : 2 * half + 1] = torch.tensor(kernels.basis)
            placed = torch.roll(placed, (-half, -half), (1, 2)).to(device)
            coefficients = torch.from_numpy(kernels.coefficients).to(device)
            self._kept[key] = (list(torch.fft.rfft2(placed)), list(coefficients))
            if len(self._kept) > self.spectra_kept:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


def _smooth(length: int) -> int:
    """The least length >= ``length`` whose only prime factors are 2, 3 and 5: those transform fast."""
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 1
