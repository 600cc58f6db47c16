"""The complete state of a stage as one file, written whole or not at all: a full disk or a kill leaves the one before it.

module/, average/, optimiser/NAME/   tensors: weights, their moving average, the optimiser's moments
random/                              states of PyTorch's, NumPy's and Python's global generators
metadata                             the number of steps done, which is also the position in the data
"""

from __future__ import annotations

import json
import random
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from edge_dp.errors import TrainingError
from edge_dp.files import atomic_write
from edge_dp.training.loop.average import MovingAverage


def save_state(
    path: Path, step: int, module: nn.Module, average: MovingAverage, optimiser: torch.optim.Optimizer
) -> None:
    """Write the state after ``step`` steps.

    Raises:
        InputError: the file cannot be written; the one before it is still there.
    """
    tensors = {f"module/{name}": value for name, value in module.state_dict().items()}
    tensors |= {f"average/{name}": value for name, value in average.values.items()}
    for name, parameter in module.named_parameters():
        tensors |= {f"optimiser/{name}/{key}": value for key, value in optimiser.state[parameter].items()}
    generators, words = _random_states()
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in (tensors | generators).items()}
    # Not save_file, which would not say that the disk is full.
    written = save(tensors, metadata={"step": str(step), "random": json.dumps(words)})
    with atomic_write(path) as temporary:
        temporary.write_bytes(written)


def load_state(path: Path, module: nn.Module, average: MovingAverage, optimiser: torch.optim.Optimizer) -> int:
    """Restore what ``save_state`` wrote; the number of steps done.

    Raises:
        TrainingError: the file is damaged, or of another network.
    """
    try:
        with safe_open(path, framework="pt") as file:
            step, words = int(file.metadata()["step"]), json.loads(file.metadata()["random"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        _load_module(module, _under(tensors, "module/"))
        for name, value in average.values.items():
            value.copy_(tensors[f"average/{name}"])
        for name, parameter in module.named_parameters():
            optimiser.state[parameter] = {
                key: value.to(parameter.device) if key == "step" else torch.empty_like(parameter).detach().copy_(value)
                for key, value in _under(tensors, f"optimiser/{name}/").items()
            }  # laid out as the parameter is: fused AdamW takes no notice of strides
        _restore_random_states(tensors, words)
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise TrainingError(f"{path}: damaged state ({reason}); delete it to start this stage again") from error
    return step


def _load_module(module: nn.Module, values: dict[str, Tensor]) -> None:
    state: Any = OrderedDict(values)
    versions: Any = module.state_dict()
    state._metadata = versions._metadata  # without them torchao resets each observer's eps
    for name, buffer in module.named_buffers():  # observers start empty and take their shape from the first data
        if name in values and buffer.shape != values[name].shape:
            buffer.resize_(values[name].shape)
    module.load_state_dict(state)


def _random_states() -> tuple[dict[str, Tensor], dict[str, Any]]:
    _, keys, *rest = np.random.get_state()  # the global generator is what is kept
    tensors = {"random/torch": torch.get_rng_state(), "random/numpy": torch.from_numpy(np.array(keys).astype(np.int64))}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    return tensors, {"numpy": rest, "python": random.getstate()}


def _restore_random_states(tensors: dict[str, Tensor], words: dict[str, Any]) -> None:
    torch.set_rng_state(tensors["random/torch"])
    np.random.set_state(("MT19937", tensors["random/numpy"].numpy().astype(np.uint32), *words["numpy"]))
    version, internal, gauss = words["python"]
    random.setstate((version, tuple(internal), gauss))
    if "random/cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random/cuda"])


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
