"""Several processes that train one student together, so that each step is the one that a single process would take.

On plain torch.distributed rather than Lightning Fabric: what Fabric would save is the choice of a backend and a launcher, and
training must run where only torch is installed. And without DistributedDataParallel, whose mean over processes is not the mean
over the masks of all, and which stops at an output without a loss: the students have at most a million parameters, so one sum
of all gradients takes less than the backward pass that it would hide behind.

Every sum over processes is exact up to the order of additions: of gradients, of losses and the counts of their masks, of
batch-norm's moments, of the ranges of activations.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn

from edge_dp.errors import InputError, TrainingError
from edge_dp.training.losses import masked_mean

_PATIENCE = timedelta(days=2)  # the others wait while the first simulates


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes that train, as one of them sees them.

    rank: its number, from 0; the first one writes.
    count: of all.
    device: its own.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this one writes files and shows progress."""
        return self.rank == 0

    def share(self, size: int) -> range:
        """The part of ``size`` things that falls to it; all parts are equal.

        Raises:
            InputError: they cannot be shared equally.
        """
        if size % self.count:
            raise InputError(
                f"batch: expected a multiple of the {self.count} processes, found {size}; batch-norm and the order of captures "
                "are those of one process only in equal parts"
            )
        part = size // self.count
        return range(self.rank * part, (self.rank + 1) * part)

    def total(self, values: Tensor) -> Tensor:
        """Sum over the processes, elementwise; not differentiable."""
        if self.count == 1:
            return values
        summed = values.detach().clone()
        distributed.all_reduce(summed)
        return summed

    def mean(self, value: Tensor, mask: Tensor) -> Tensor:
        """Its part of the mean over the masks of all; the parts add up to that mean, and so do their gradients."""
        if self.count == 1:
            return masked_mean(value, mask)
        weight = mask.to(value.dtype)
        return (value * weight).sum() / self.total(weight.sum()).clamp(min=1.0)

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its sum over the processes."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.count == 1 or not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, summed in zip(gradients, torch.split(flat, sizes), strict=True):
            gradient.copy_(summed.view_as(gradient))

    def wait(self) -> None:
        """Go on when all processes are here."""
        if self.count > 1:
            distributed.barrier()

    def share_batch_norm(self, module: nn.Module) -> None:
        """Let batch-norm see the batch of all processes, in place."""
        if self.count == 1:
            return
        for parent in list(module.modules()):
            for name, child in parent.named_children():
                if type(child) is nn.BatchNorm2d:
                    setattr(parent, name, _SharedBatchNorm.of(child))

    def share_ranges(self, prepared: nn.Module) -> None:
        """Make the observed range of each activation that of the batch of all processes; call after each observed step.

        A moving average of least values follows the least of them: taking the least of the averages is the same. Where ranges end
        at quantiles it is the widest of the processes' own, nearly that of the batch.
        """
        if self.count == 1:
            return
        for module in prepared.modules():
            observer: Any = getattr(module, "activation_post_process", None)
            if observer is not None and isinstance(getattr(observer, "min_val", None), Tensor):
                distributed.all_reduce(observer.min_val, op=distributed.ReduceOp.MIN)
                distributed.all_reduce(observer.max_val, op=distributed.ReduceOp.MAX)


@contextlib.contextmanager
def join_processes(device: str) -> Iterator[Processes]:
    """Meet the other processes that ``torchrun`` started, if it did.

    Args:
        device: ``cpu`` (gloo) or ``cuda`` (nccl, one GPU for each process of a machine).

    Raises:
        InputError: there is no such device.
        TrainingError: another process ended.
    """
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device not in ("cpu", "cuda"):
        raise InputError(f"device: expected cpu or cuda, found {device!r}")
    if device == "cuda" and torch.cuda.device_count() <= local:
        raise InputError(
            f"device cuda: expected a GPU for each process of a machine, found {torch.cuda.device_count()} for process {local}. "
            "Pass --device cpu or start fewer."
        )
    where = torch.device("cuda", local) if device == "cuda" else torch.device("cpu")
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes(0, 1, where)
        return
    if device == "cuda":
        torch.cuda.set_device(where)
    distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Processes(distributed.get_rank(), count, where)
    except RuntimeError as error:
        if distributed.get_rank() == 0 or "onnection closed" not in str(error):
            raise
        raise TrainingError("another process of this training ended; its message says why") from error
    finally:
        distributed.destroy_process_group()


class _Total(torch.autograd.Function):
    """Sum over the processes, of values forward and of gradients backward."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        summed = values.clone()
        distributed.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        summed = gradients[0].contiguous().clone()
        distributed.all_reduce(summed)
        return summed


class _SharedBatchNorm(nn.BatchNorm2d):
    """Batch-norm whose moments are those of the batch of all processes. PyTorch's own is for GPUs only."""

    @classmethod
    def of(cls, plain: nn.BatchNorm2d) -> _SharedBatchNorm:
        """One with the parameters and statistics of ``plain``."""
        shared = cls(plain.num_features, plain.eps, plain.momentum)
        shared.load_state_dict(plain.state_dict())
        return shared.train(plain.training)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the name in PyTorch
        """(N, C, H, W), normalised over all but C."""
        if not self.training:
            return super().forward(input)
        x = input if input.dtype is torch.float64 else input.float()  # under autocast too, as PyTorch's own
        count = x.numel() // x.shape[1] * distributed.get_world_size()
        mean: Tensor = _Total.apply(x.sum((0, 2, 3))) / count  # type: ignore[no-untyped-call]
        centred = x - mean[:, None, None]
        variance: Tensor = _Total.apply((centred * centred).sum((0, 2, 3))) / count  # type: ignore[no-untyped-call]
        if self.running_mean is not None and self.running_var is not None and self.momentum is not None:
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
                if self.num_batches_tracked is not None:
                    self.num_batches_tracked.add_(1)
        gain = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * gain[:, None, None] + self.bias[:, None, None]).to(input.dtype)
