"""Progress on standard error, so that standard output stays clean for results."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

Update = Callable[[str, int, int, str], None]


@contextlib.contextmanager
def progress_bars() -> Iterator[Update]:
    """A bar per stage; yields ``update(stage, done, total, text)``. On no terminal, a line every tenth of a stage."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = (
        TextColumn("{task.description:>20}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, TaskID] = {}

        def update(stage: str, done: int, total: int, text: str) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total, text="")
            progress.update(tasks[stage], completed=done, total=total, text=text)

        yield update


def _lines(console: object) -> Update:
    from rich.console import Console

    assert isinstance(console, Console)
    shown: dict[str, int] = {}

    def update(stage: str, done: int, total: int, text: str) -> None:
        tenth = 10 * done // max(total, 1)
        if shown.get(stage) != tenth:
            shown[stage] = tenth
            console.print(f"{stage}: {done}/{total} {text}".rstrip(), highlight=False)

    return update
