"""Blame on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_dp.cli.tables import console, plain_table, printable

if TYPE_CHECKING:
    from edge_dp.runtime.blame import Blame, Layer

_COLUMNS = ("layer", "operation", "tensor of the artifact", "max steps", "mean", "own max", "own mean", "")
_NAME = 32


def blame_table(blame: Blame, artifact: str) -> None:
    """Every layer that could be compared, and in words the guilty one."""
    output = console()
    rows = [_cells(layer, layer == blame.guilty) for layer in blame.layers]
    title = f"{artifact}: error of each layer in its quantisation steps; own: given what enters it in the artifact"
    output.print(plain_table(title, _COLUMNS, rows, right=_COLUMNS[3:7]))
    print(printable(blame_words(blame, artifact)))


def blame_words(blame: Blame, artifact: str) -> str:
    """One line: the guilty layer, its operation, the error before and after it."""
    guilty = blame.guilty
    if guilty is None:
        return f"{artifact}: no layer is to blame; all {len(blame.layers)} that show follow from what enters them"
    return (
        f"{artifact}: leaves the converted graph at {guilty.module} ({guilty.operation}): max error {blame.before:.2g} steps "
        f"before it, {guilty.max_steps:.3g} after"
    )


def _end(name: str) -> str:
    """LiteRT names a tensor after every module around it: the end tells most."""
    return name if len(name) <= _NAME else f"…{name[-_NAME:]}"


def _cells(layer: Layer, is_guilty: bool) -> tuple[str, ...]:
    numbers = (layer.max_steps, layer.mean_steps, layer.own_max_steps, layer.own_mean_steps)
    return (
        layer.module,
        layer.operation,
        _end(layer.tensor),
        *(f"{number:.3g}" for number in numbers),
        "to blame" if is_guilty else "",
    )
