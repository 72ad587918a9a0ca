"""What people and programs see: rich tables on a terminal, unbroken lines elsewhere, JSON when asked for."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from batchmill.engine.safe_text import printable

if TYPE_CHECKING:
    from rich.console import Console

# Width where nobody looks: lines are cut by whoever reads them, and paths must stay in one piece.
_UNBROKEN = 100_000
_LONGEST_CELL = 60


def console() -> Console:
    """Return a console for standard output as it is now; lines are broken on a terminal only."""
    from rich.console import Console

    made = Console(highlight=False)
    if not made.is_terminal:
        made.width = _UNBROKEN
    return made


def show_json(value: Any, indent: int | None = 2) -> None:
    """Print one JSON document, on one line if ``indent`` is None."""
    click.echo(json.dumps(value, indent=indent, default=str))


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> None:
    """Print a table; cells are shown as they are, never read as markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    out = console()
    table = Table(
        box=box.SIMPLE_HEAD if out.is_terminal else None, title=title or None, title_justify="left", pad_edge=False
    )
    for column in columns:
        table.add_column(Text(printable(column, keep="")), overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(str(cell), keep="")) for cell in row))
    out.print(table)


def show_facts(title: str, facts: Iterable[tuple[str, object]]) -> None:
    """Print named facts below each other, in a frame on a terminal."""
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    out, title = console(), printable(title)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    for name, value in facts:
        grid.add_row(Text(printable(name, keep="")), Text(printable(str(value))))
    if out.is_terminal:
        out.print(Panel.fit(grid, title=Text(title), title_align="left"))
    else:
        out.print(Text(title))
        out.print(grid)


def number(value: object) -> str:
    """Return a metric for people: six significant digits, and nested values as short JSON."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int):
        return str(value)
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= _LONGEST_CELL else f"{text[: _LONGEST_CELL - 1]}…"


def metrics_line(metrics: Mapping[str, Any]) -> str:
    """Return metrics in one line."""
    return "  ".join(f"{name}={number(value)}" for name, value in metrics.items())


def percent(share: float) -> str:
    """Return a share as a percentage that says 100 % only of everything."""
    return "100 %" if share >= 1 else f"{min(share * 100, 99.9):.1f} %"


def first_sentence(text: str) -> str:
    """Return the beginning of an error message, for a table."""
    return text.partition("\n")[0].partition(". ")[0].rstrip(".")


@contextlib.contextmanager
def reserved_stdout(active: bool) -> Iterator[None]:
    """Send everything that is written to standard output inside to standard error, by child processes too.

    So that a processor's ``print`` does not get between a program and its JSON.
    """
    if not active:
        yield
        return
    sys.stdout.flush()
    try:
        saved = os.dup(1)
        os.dup2(2, 1)
    except OSError:  # no such descriptors, as under some test runners and services
        saved = None
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        if saved is not None:
            os.dup2(saved, 1)
            os.close(saved)
