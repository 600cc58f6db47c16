"""Ops that move elements and change none: shapes, slices, joins, padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edge_dp.runtime.engines.mil.registry import Ints, mil_op

Flags = tuple[bool, ...]


@mil_op("identity", moves=True)
def identity(x: Tensor) -> Tensor:
    """The same tensor."""
    return x


@mil_op("reshape", moves=True)
def reshape(x: Tensor, shape: Ints) -> Tensor:
    """The elements of x in the same order, in another shape: -1 is whatever is left, 0 the size x has there."""
    return x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)])


@mil_op("transpose", moves=True)
def transpose(x: Tensor, perm: Ints) -> Tensor:
    """Axes reordered: axis i of the result is axis ``perm[i]`` of x."""
    return x.permute(perm)


@mil_op("expand_dims", moves=True)
def expand_dims(x: Tensor, axes: Ints) -> Tensor:
    """New axes of size 1 at the places ``axes`` of the result."""
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@mil_op("squeeze", moves=True)
def squeeze(x: Tensor, axes: Ints | None = None) -> Tensor:
    """Without the axes ``axes``, which have size 1; by default without all that have it."""
    return x.squeeze() if axes is None else x.squeeze(axes)


@mil_op("concat", moves=True)
def concat(values: Sequence[Tensor], axis: int, interleave: bool = False) -> Tensor:
    """Tensors joined along ``axis``; with ``interleave`` their slices alternate: a0, b0, a1, b1, ..."""
    if not interleave:
        return torch.cat(list(values), axis)
    axis %= values[0].ndim
    return torch.stack(list(values), axis + 1).flatten(axis, axis + 1)


@mil_op("stack", moves=True)
def stack(values: Sequence[Tensor], axis: int) -> Tensor:
    """Tensors of one shape joined along a new axis ``axis`` of the result."""
    return torch.stack(list(values), axis)


@mil_op("split", moves=True)
def split(x: Tensor, axis: int, num_splits: int | None = None, split_sizes: Ints | None = None) -> tuple[Tensor, ...]:
    """Pieces of x, cut along ``axis`` into ``split_sizes``, or into ``num_splits`` equal ones."""
    if split_sizes is None:
        if not num_splits or x.shape[axis] % num_splits:
            raise ValueError(f"cannot cut {x.shape[axis]} into {num_splits} equal pieces")
        split_sizes = (x.shape[axis] // num_splits,) * num_splits
    return torch.split(x, list(split_sizes), axis)


@mil_op("slice_by_index", moves=True)
def slice_by_index(
    x: Tensor,
    begin: Ints,
    end: Ints,
    *,
    stride: Ints | None = None,
    begin_mask: Flags | None = None,
    end_mask: Flags | None = None,
    squeeze_mask: Flags | None = None,
) -> Tensor:
    """x[begin:end:stride] per axis, as Python slices; negative indices count from the end, a stride may be negative.

    A true ``begin_mask[i]`` or ``end_mask[i]`` means from, or to, the end of the axis. A true ``squeeze_mask[i]`` takes
    the one element ``begin[i]`` and drops the axis.
    """
    no = (False,) * x.ndim
    stride, begin_mask, end_mask = stride or (1,) * x.ndim, begin_mask or no, end_mask or no
    squeeze_mask = squeeze_mask or no
    dropped = tuple(axis for axis in range(x.ndim) if squeeze_mask[axis])
    for axis, size in enumerate(x.shape):
        if squeeze_mask[axis]:
            indices = range(begin[axis] % size, begin[axis] % size + 1)
        else:
            first = None if begin_mask[axis] else begin[axis]
            stop = None if end_mask[axis] else end[axis]
            indices = range(*slice(first, stop, stride[axis]).indices(size))
        x = _taken(x, axis, indices)
    return x.squeeze(dropped) if dropped else x


@mil_op("slice_by_size", moves=True)
def slice_by_size(x: Tensor, begin: Ints, size: Ints) -> Tensor:
    """``size[i]`` elements from ``begin[i]`` on along axis i; -1 takes all that are left."""
    for axis, (first, count) in enumerate(zip(begin, size, strict=True)):
        start = first % x.shape[axis]
        x = x.narrow(axis, start, x.shape[axis] - start if count == -1 else count)
    return x


@mil_op("crop", moves=True)
def crop(x: Tensor, crop_height: Ints, crop_width: Ints) -> Tensor:
    """Without the first and last ``crop_height`` rows and ``crop_width`` columns: (N, C, H, W) -> (N, C, H', W')."""
    (top, bottom), (left, right) = crop_height, crop_width
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


@mil_op("pad", moves=True)
def pad(x: Tensor, pad: Ints, mode: str = "constant", constant_val: float = 0.0) -> Tensor:
    """``pad[2i]`` elements before and ``pad[2i + 1]`` after the last len(pad) / 2 axes.

    constant: ``constant_val``. reflect: mirrored about the border element, not repeating it. replicate: the border
    element.
    """
    pairs = list(zip(pad[::2], pad[1::2], strict=True))
    if mode == "constant":
        flat = [n for pair in reversed(pairs) for n in pair]
        return functional.pad(x, flat, value=constant_val)
    kind = {"reflect": "reflect", "replicate": "edge"}[mode]
    for axis, pair in enumerate(pairs, start=x.ndim - len(pairs)):
        source = np.pad(np.arange(x.shape[axis]), pair, mode=kind)  # type: ignore[call-overload]  # kind is a str
        x = x.index_select(axis, torch.from_numpy(source))
    return x


@mil_op("tile", moves=True)
def tile(x: Tensor, reps: Ints) -> Tensor:
    """Copies of x side by side, ``reps[i]`` of them along axis i."""
    return x.repeat(reps)


@mil_op("pixel_shuffle", moves=True)
def pixel_shuffle(x: Tensor, upscale_factor: int) -> Tensor:
    """(N, C f^2, H, W) -> (N, C, H f, W f): channel c f^2 + i f + j goes to row i and column j of each f x f block."""
    return functional.pixel_shuffle(x, upscale_factor)


@mil_op("pixel_unshuffle", moves=True)
def pixel_unshuffle(x: Tensor, downscale_factor: int) -> Tensor:
    """(N, C, H f, W f) -> (N, C f^2, H, W), the inverse of ``pixel_shuffle``."""
    return functional.pixel_unshuffle(x, downscale_factor)


@mil_op("depth_to_space", moves=True)
def depth_to_space(x: Tensor, block_size: int) -> Tensor:
    """(N, C b^2, H, W) -> (N, C, H b, W b): channel (i b + j) C + c goes to row i and column j of each b x b block.

    The block is the slow part of the channel, as in TensorFlow, whose op converts to this one; in ``pixel_shuffle`` it
    is the fast part.
    """
    n, c, h, w = x.shape
    b = block_size
    return x.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // (b * b), h * b, w * b)


@mil_op("space_to_depth", moves=True)
def space_to_depth(x: Tensor, block_size: int) -> Tensor:
    """(N, C, H b, W b) -> (N, C b^2, H, W), the inverse of ``depth_to_space``."""
    n, c, h, w = x.shape
    b = block_size
    return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, c * b * b, h // b, w // b)


def _taken(x: Tensor, axis: int, indices: range) -> Tensor:
    """Elements ``indices`` along ``axis``: a view where they ascend, a copy where they descend."""
    if indices.step > 0 and len(indices):
        where = [slice(None)] * axis + [slice(indices[0], indices[-1] + 1, indices.step)]
        return x[tuple(where)]
    return x.index_select(axis, torch.tensor(list(indices), dtype=torch.int64))


@mil_op("reverse", moves=True)
def reverse(x: Tensor, axes: Ints | None = None) -> Tensor:
    """The elements in the opposite order along ``axes``, all of them by default."""
    return x.flip(list(range(x.ndim)) if axes is None else list(axes))


@mil_op("gather", moves=True)
def gather(
    x: Tensor, indices: Tensor | Ints | int, axis: int = 0, batch_dims: int = 0, validate_indices: bool = False
) -> Tensor:
    """The slices of x at ``indices`` along ``axis``, negative ones from its end; the shape of ``indices`` stands for that axis.

    Only ``batch_dims`` 0 has a meaning here; ``validate_indices`` changes nothing, as an index out of range is an error always.
    """
    if batch_dims:
        raise ValueError(f"expected batch_dims 0, found {batch_dims}")
    chosen, axis, count = torch.as_tensor(indices), axis % x.ndim, x.shape[axis]
    flat = torch.where(chosen < 0, chosen + count, chosen).flatten()
    return x.index_select(axis, flat).reshape(*x.shape[:axis], *chosen.shape, *x.shape[axis + 1 :])


@mil_op("fill_like")
def fill_like(ref_tensor: Tensor, value: float = 0.0) -> Tensor:
    """``value`` everywhere, in the shape of ``ref_tensor``."""
    return torch.full(ref_tensor.shape, value)
