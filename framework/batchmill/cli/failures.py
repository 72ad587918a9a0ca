"""How errors are shown."""

from __future__ import annotations

import os
import traceback

import click

from batchmill.engine.safe_text import safe_text
from batchmill.errors import BatchmillError, CorruptRunError

FULL_ERROR_VARIABLE = "BATCHMILL_FULL_ERROR"
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def report(error: BatchmillError) -> None:
    """Show an error on standard error: its message, and the traceback only where it is asked for."""
    if os.environ.get(FULL_ERROR_VARIABLE, "") not in ("", "0"):
        click.echo(safe_text("".join(traceback.format_exception(error))), err=True, nl=False)
    advice = ""
    if isinstance(error, CorruptRunError):
        advice = " `batchmill verify RUN` lists all damage; `batchmill repair RUN` sets it aside and computes it again."
    click.echo(click.style("Error: ", fg="red", bold=True) + safe_text(str(error)) + advice, err=True)


def report_unexpected() -> None:
    """Show the traceback of the exception that is being handled, on standard error."""
    click.echo(safe_text(traceback.format_exc()), err=True, nl=False)
