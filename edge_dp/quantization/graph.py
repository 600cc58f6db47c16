"""A module as a graph of ATen operations, and the few edits that rewriting it needs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from edge_dp.errors import ExportError, InputError
from edge_dp.quiet import quiet

aten = torch.ops.aten


def capture(module: nn.Module, example: Sequence[Tensor]) -> GraphModule:
    """The graph of ``module`` in evaluation mode at the shapes of ``example``; ``module`` is left as it is.

    Raises:
        InputError: ``example`` is no sequence of tensors.
        ExportError: PyTorch cannot capture it as one static graph; names the module in which it gave up.
    """
    given: Any = example
    if isinstance(given, Tensor) or not all(isinstance(value, Tensor) for value in given):
        raise InputError(
            "example: expected a sequence of tensors, one for each input. Pass (tensor,) for a single input."
        )
    own = copy.deepcopy(module).eval()
    try:
        with quiet():
            program = torch.export.export(own, tuple(example), strict=True)
    except Exception as strict:  # Dynamo refuses some Python that plain tracing takes
        entered = _note_calls(own)
        try:
            with quiet():
                program = torch.export.export(own, tuple(example), strict=False)
        except Exception as error:
            raise ExportError(
                f"{entered[-1] or type(module).__name__}: expected one static graph, PyTorch cannot capture it: {_words(error)} "
                f"(strictly: {_words(strict)}). Avoid control flow and shapes that depend on values."
            ) from error
    return program.module(check_guards=False)


def module_path(node: Node) -> str:
    """The module that ``node`` came from, as in ``named_modules``; the node's name where it came from the root."""
    paths = module_paths(node)
    return paths[-1] if paths and paths[-1] else node.name


def module_paths(node: Node) -> list[str]:
    """Every module around ``node``, outermost first."""
    return [str(path).removeprefix("L['self'].") for path, _ in (node.meta.get("nn_module_stack") or {}).values()]


def within(node: Node, paths: Sequence[str]) -> bool:
    """Whether ``node`` belongs to one of the modules of ``paths`` or to one inside it."""
    return any(own == path or own.startswith(f"{path}.") for own in module_paths(node) for path in paths)


def shape(node: Node) -> tuple[int, ...]:
    """Of the tensor that ``node`` computes."""
    return tuple(node.meta["val"].shape)


def attribute(graph: GraphModule, target: Any) -> Any:
    """The parameter, buffer or module that a ``get_attr`` or ``call_module`` node of ``graph`` points to."""
    found: Any = graph
    for part in str(target).split("."):
        found = getattr(found, part)
    return found


def argument(node: Node, index: int, default: Any = None) -> Any:
    """Positional argument of an ATen call that may have left it out."""
    return node.args[index] if len(node.args) > index else default


class Editor:
    """Puts calls and constants into a graph, with the shapes and the module path that later steps read."""

    def __init__(self, graph: GraphModule) -> None:
        self.module, self.graph = graph, graph.graph
        values = (node.meta.get("val") for node in self.graph.nodes)
        self._mode = next(value.fake_mode for value in values if hasattr(value, "fake_mode"))

    def call(self, at: Node, target: Any, *args: Any) -> Node:
        """A call right before ``at``, and of the same module."""
        with self.graph.inserting_before(at):
            node = self.graph.call_function(target, args)
        node.meta.update({key: at.meta[key] for key in ("nn_module_stack", "stack_trace") if key in at.meta})
        with self._mode:
            node.meta["val"] = target(*torch.fx.map_arg(args, lambda value: value.meta["val"]))
        return node

    def constant(self, at: Node, name: str, value: Tensor) -> Node:
        """A buffer that training leaves alone, named after ``at``."""
        target = f"portable_{at.name}_{name}"
        self.module.register_buffer(target, value.detach().clone())
        node = self._get(at, target)
        node.meta["portable_constant"] = True
        return node

    def parameter(self, at: Node, target: str, value: Tensor) -> Node:
        """A parameter at ``target``; an existing one there is replaced."""
        path, _, name = target.rpartition(".")
        owner = self.module.get_submodule(path)
        setattr(owner, name, nn.Parameter(value.detach().clone()))
        return self._get(at, target)

    def replace(self, node: Node, other: Node) -> None:
        """Let ``other`` take the place of ``node``."""
        node.replace_all_uses_with(other)
        self.graph.erase_node(node)

    def finish(self) -> None:
        """Remove what nothing uses any more; to be called once after the edits."""
        self.graph.eliminate_dead_code()
        self.graph.lint()
        self.module.recompile()

    def _get(self, at: Node, target: str) -> Node:
        with self.graph.inserting_before(at):
            node = self.graph.get_attr(target)
        with self._mode:
            node.meta["val"] = self._mode.from_tensor(attribute(self.module, target))
        return node


def _note_calls(module: nn.Module) -> list[str]:
    """Paths of the modules in whose ``forward`` execution is, outermost first, kept up to date while ``module`` runs."""
    entered: list[str] = [""]

    def enter(path: str) -> Any:
        return lambda *_: entered.append(path)

    def leave(*_: Any) -> None:
        entered.pop()

    for path, part in module.named_modules():
        part.register_forward_pre_hook(enter(path))
        part.register_forward_hook(leave)
    return entered


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
