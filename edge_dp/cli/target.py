"""The network that a verb works on: a checkpoint, or any network with the shapes of its inputs."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from edge_dp.cli.arguments import image_size, named_shape
from edge_dp.errors import InputError


def add_target(parser: argparse.ArgumentParser) -> None:
    """The argument ``model`` and the options that say how to run it."""
    parser.add_argument(
        "model",
        help="name of a shipped checkpoint (dp_disparity_s), folder of one, or package.module:factory of a network",
    )
    checkpoint = parser.add_argument_group("of a checkpoint")
    checkpoint.add_argument(
        "--size", type=image_size, metavar="HxW", help="height and width of the input (default: the checkpoint's)"
    )
    network = parser.add_argument_group("of any network")
    network.add_argument(
        "--input",
        dest="inputs",
        action="append",
        type=named_shape,
        metavar="NAME=1x3xHxW",
        help="name and shape of an input, in the order of forward",
    )
    network.add_argument(
        "--output", dest="outputs", action="append", metavar="NAME", help="name of an output, in order"
    )
    network.add_argument(
        "--calibration",
        type=Path,
        metavar="FOLDER",
        help="samples of what the network will see, for integer precisions: an .npz each, arrays by input name, or an .npy",
    )
    network.add_argument(
        "--keep-float", action="append", metavar="MODULE", help="path of a module that stays in float; may be repeated"
    )


def is_network(options: argparse.Namespace) -> bool:
    """Whether ``model`` names a network rather than a checkpoint.

    Raises:
        InputError: an option of the other kind was given, or the shapes of a network's inputs are missing or named twice.
    """
    chosen = ":" in options.model and not Path(options.model).exists()
    if chosen and not options.inputs:
        raise InputError(f"{options.model}: pass the shape of each input, as in --input left=1x1x384x512")
    wrong = ("size",) if chosen else ("inputs", "outputs", "calibration", "keep_float")
    for name in wrong:
        if getattr(options, name):
            flag = {"inputs": "input", "outputs": "output"}.get(name, name).replace("_", "-")
            kind = "a network of your own" if chosen else "a checkpoint"
            raise InputError(f"{options.model}: --{flag} is not for {kind}")
    if chosen and len(dict(options.inputs)) != len(options.inputs):
        raise InputError("--input: expected each name once")
    return chosen


def network_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """What ``edge_dp.export`` calls the network, its inputs, outputs, name, calibration samples and modules kept in float.

    Raises:
        InputError: there is no such network, or a calibration file that cannot be read.
    """
    from edge_dp.converters.calibration import sample_files

    return {
        "module": _build(options.model),
        "inputs": dict(options.inputs),
        "outputs": options.outputs,
        "name": options.model.rpartition(":")[2].rpartition(".")[2],
        "calibration": sample_files(options.calibration) if options.calibration else None,
        "keep_float": options.keep_float or (),
    }


def named_model(target: str | None) -> Any:
    """What ``--model`` names: the network of ``package.module:factory``, else the text, the name or folder of a checkpoint.

    Raises:
        InputError: there is no such network.
    """
    return _build(target) if target is not None and ":" in target and not Path(target).exists() else target


def _build(target: str) -> Any:
    """The network that ``package.module:factory`` names: a module, its class, or a function that makes it."""
    import torch

    module_name, _, attribute = target.partition(":")
    sys.path.insert(0, str(Path.cwd()))  # as ``python -m`` does: a user's own package need not be installed
    try:
        found = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
        network = found if isinstance(found, torch.nn.Module) else found()  # type: ignore[operator]
    except Exception as error:  # a user's code raises anything
        words = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(
            f"{target}: expected package.module:factory that gives a network, found {type(error).__name__}: {words}"
        ) from error
    finally:
        sys.path.pop(0)
    if not isinstance(network, torch.nn.Module):
        raise InputError(f"{target}: expected a torch.nn.Module, found {type(network).__name__}")
    return network
