"""Finds the run that somebody means by an id, a directory or a URL."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import click

from batchmill.errors import RunNotFoundError, did_you_mean

DEFAULT_OUTPUT = "runs"
_LISTED = 10


def output_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--output`` to a verb."""
    return click.option(
        "--output", default=DEFAULT_OUTPUT, show_default=True, help="Directory or URL that holds runs."
    )(command)


def allow_import_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--allow-import`` to a verb that goes on with a run."""
    return click.option(
        "--allow-import/--no-import",
        default=None,
        help="Whether its configuration may name code to import; by default as when it began, if only you can have "
        "written its folder.",
    )(command)


def locate(run: str, output: str = DEFAULT_OUTPUT) -> str:
    """Return the directory or URL of a run.

    Args:
        run: A URL, a directory, or the id of a run below ``output``. An id that is also the name of a directory
            here means the run below ``output``.
        output: Directory or URL that holds runs.

    Raises:
        RunNotFoundError: There is no such directory.
    """
    if "://" in run:
        return run
    if "://" in output:
        return f"{output.rstrip('/')}/{run}"
    below = os.path.join(output, run)
    if os.path.isdir(below):
        return below
    if os.path.isdir(run):
        return run
    known = sorted(entry.name for entry in os.scandir(output) if entry.is_dir()) if os.path.isdir(output) else []
    shown = ", ".join(known[-_LISTED:]) + (", and earlier ones" if len(known) > _LISTED else "")
    raise RunNotFoundError(
        f"There is no run {run!r} in {output!r} and no directory of that name.{did_you_mean(run, known)} "
        f"Runs there: {shown or 'none'}. Other places are given with --output, or as a directory or URL."
    )
