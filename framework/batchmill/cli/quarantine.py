"""``batchmill quarantined`` and ``retry-quarantined``: the samples that failed."""

from __future__ import annotations

import click

from batchmill.cli.display import reserved_stdout, show_json, show_table
from batchmill.cli.locate import allow_import_option, locate, output_option
from batchmill.cli.run import finish

_SHOWN = 20
_SHOWN_CHARACTERS = 80


@click.command()
@click.argument("run")
@output_option
@click.option("--jsonl", is_flag=True, help="Print all as JSON lines, with tracebacks.")
def quarantined(run: str, output: str, jsonl: bool) -> None:
    """List samples that failed, and why.

    RUN is a run id (looked up below --output), a directory or a URL.

    \b
      batchmill quarantined 20261122-101502-digits
      batchmill quarantined 20261122-101502-digits --jsonl > failed.jsonl
      batchmill quarantined nightly --jsonl | jq -r .index
    """  # noqa: D301 - click's mark
    from batchmill.outputs import iter_quarantined

    where = locate(run, output)
    if jsonl:
        for entry in iter_quarantined(where):
            show_json(entry, indent=None)
        return
    rows: list[tuple[object, ...]] = []
    more = 0
    for entry in iter_quarantined(where):
        if len(rows) == _SHOWN:
            more += 1
            continue
        message = " ".join(f"{entry['error']}: {entry['message']}".split())
        shown = message if len(message) <= _SHOWN_CHARACTERS else message[: _SHOWN_CHARACTERS - 3] + "..."
        rows.append((entry["index"], entry["stage"], shown))
    if not rows:
        click.echo(f"No sample of {where} was set aside.")
        return
    show_table(("sample", "stage", "error"), rows)
    if more:
        click.echo(f"... and {more:,} more; --jsonl lists all.")
    click.echo(f"Mend the cause, then: batchmill retry-quarantined {where}")


@click.command("retry-quarantined")
@click.argument("run")
@click.option("--nproc", type=click.IntRange(min=1), help="Workers on this machine; by default as many as before.")
@click.option("--max-errors", type=click.IntRange(min=0), help="Samples that may fail again; by default as before.")
@allow_import_option
@output_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output, and nothing else.")
@click.pass_context
def retry_quarantined(
    ctx: click.Context,
    run: str,
    nproc: int | None,
    max_errors: int | None,
    allow_import: bool | None,
    output: str,
    as_json: bool,
) -> None:
    """Try samples that failed again.

    Do it once what made them fail is mended. Their chunks are processed anew. The first result stays as it is; the
    new one lies below retries/ and is what every reader sees once it is complete. The run must be complete.

    \b
      batchmill retry-quarantined 20261122-101502-digits
      batchmill retry-quarantined runs/nightly --nproc 4 --max-errors 100
    """  # noqa: D301 - click's mark
    from batchmill import api

    where = locate(run, output)
    with reserved_stdout(as_json):
        result = api.retry_quarantined(where, nproc, max_errors=max_errors, allow_import=allow_import)
    finish(ctx, result, as_json)
