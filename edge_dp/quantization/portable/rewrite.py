"""What a rewrite is, and what several need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.fx import Node

from edge_dp.quantization.graph import Editor

Rewrite = Callable[[Editor, Node], None]
"""Replaces one node, or leaves it where it cannot."""


def pair(value: Any) -> list[int]:
    """A number for height and width each, as PyTorch reads one, or two."""
    values = [value] if isinstance(value, int) else list(value)
    return values * 2 if len(values) == 1 else values


def same(editor: Editor, node: Node) -> None:
    """Does nothing in evaluation: dropout, copies."""
    editor.replace(node, node.args[0])  # type: ignore[arg-type]
