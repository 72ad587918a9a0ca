"""``batchmill ls``, ``show``, ``verify`` and ``repair``: looking at runs, and putting damaged ones right."""

from __future__ import annotations

from typing import Any

import click

from batchmill.cli.display import (
    console,
    metrics_line,
    number,
    percent,
    reserved_stdout,
    show_facts,
    show_json,
    show_table,
)
from batchmill.cli.locate import locate, output_option
from batchmill.engine.safe_text import printable
from batchmill.errors import EXIT_ERROR_BUDGET

_LISTED_INTERVALS = 5


@click.command()
@output_option
@click.option("--rebuild", is_flag=True, help="Fill the ledger of models and metrics from the runs' own records.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def ls(ctx: click.Context, output: str, rebuild: bool, as_json: bool) -> None:
    """List runs with their state and metrics.

    Oldest first; samples are those committed, of those in the run.

    With --rebuild nothing is listed: every link and metric that the runs have recorded is stored in the ledger again,
    which may have been lost or lie on another machine. Repeating it changes nothing. Models are only in the ledger and
    have to be registered again. Exits with 65 if damaged runs were left out.

    \b
      batchmill ls
      batchmill ls --output s3://bucket/runs
      batchmill ls --json | jq '.[] | select(.state == "incomplete") | .run_id'
      batchmill ls --output s3://bucket/runs --rebuild
    """  # noqa: D301 - click's mark
    from batchmill import inspection

    if rebuild:
        ctx.exit(_rebuild(output, as_json))
    runs = inspection.list_runs(output)
    if as_json:
        show_json([run.to_json() for run in runs])
        return
    if not runs:
        click.echo(f"There are no runs in {output!r}. `batchmill run --help` shows how to start one.")
        return
    columns = ("run", "state", "samples", "processor", "dataset", "model", "created", "metrics")
    rows = [
        (
            run.run_id,
            run.state if run.state != "incomplete" else f"incomplete ({percent(run.coverage)})",
            f"{run.samples:,}/{run.total:,}",
            run.processor,
            run.dataset,
            run.model or "",
            run.created,
            metrics_line(run.metrics),
        )
        for run in runs
    ]
    show_table(columns, rows)


def _rebuild(output: str, as_json: bool) -> int:
    from batchmill.client import open_tracker
    from batchmill.ledger_rebuild import rebuild_ledger

    report = rebuild_ledger(output, open_tracker(output))
    if as_json:
        show_json(report.to_json())
        return report.exit_code
    click.echo(
        f"Rebuilt from {len(report.runs):,} runs in {output!r}: {report.reports:,} reports, {report.links:,} links."
    )
    for path, reason in report.skipped.items():
        click.echo(f"  left out: {printable(f'{path}: {reason}', keep='')}")
    if report.skipped:
        click.echo("`batchmill verify RUN` says what is damaged, `batchmill repair RUN` computes it again.")
    for path, reasons in report.unlinked.items():
        for reason in reasons:
            click.echo(f"  not linked: {printable(f'{path}: {reason}', keep='')}")
    if report.unlinked:
        click.echo(
            "Models cannot be rebuilt: they are known to the ledger only. Register the same files in the same order, "
            "and rebuild once more. The metrics of these runs are there, by run."
        )
    return report.exit_code


@click.command()
@click.argument("run")
@output_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every part, file, report and the config.")
def show(run: str, output: str, as_json: bool) -> None:
    """Show one run: state, metrics, outputs.

    Says where its outputs lie and how to go on with it. RUN is a run id (looked up below --output), a directory or
    a URL.

    \b
      batchmill show 20261122-101502-digits
      batchmill show runs/20261122-101502-digits --json | jq .metrics
    """  # noqa: D301 - click's mark
    from batchmill import inspection

    where = locate(run, output)
    described = inspection.describe_run(where).to_json()
    if as_json:
        show_json(described)
        return
    show_facts(f"Run {described['run_id']} is {described['state']}", _facts(described))
    if described["metrics"]:
        show_table(("metric", "value"), [(name, number(value)) for name, value in described["metrics"].items()])
    if described["outputs"]:
        columns = ("part", "samples", "rows", "bytes")
        rows = [
            (part["name"], f"{part['start']:,}..{part['stop'] - 1:,}", f"{part['rows']:,}", f"{part['bytes']:,}")
            for part in described["outputs"]
        ]
        shown = rows if len(rows) <= 2 * _LISTED_INTERVALS else rows[:_LISTED_INTERVALS]
        show_table(columns, shown)
        if len(shown) < len(rows):
            click.echo(f"... and {len(rows) - len(shown):,} more parts; --json lists all.")


def _facts(run: dict[str, Any]) -> list[tuple[str, object]]:
    facts: list[tuple[str, object]] = [
        ("path", run["path"]),
        ("samples", f"{run['samples']:,} of {run['total']:,} committed ({percent(run['coverage'])})"),
        ("chunks", f"{run['committed_chunks']:,} of {run['chunks']:,}, of {run['chunk_batches']:,} batches each"),
        ("batch size", run["batch_size"]),
        ("processor", run["processor"]),
        ("dataset", run["dataset"]),
        ("created", run["created"]),
        ("fingerprint", run["fingerprint"]),
    ]
    if run["model"]:
        facts.append(("model", run["model"]))
    if run.get("quarantined"):
        facts.append(("quarantined", f"{run['quarantined']:,} samples failed: batchmill quarantined {run['path']}"))
    if run["files"]:
        facts.append(("files", f"{len(run['files']):,} uploaded by the processor"))
    if run["state"] != "complete":
        facts.append(("committed", _intervals(run["intervals"])))
        facts.append(("go on", f"batchmill resume {run['path']}"))
    if run["outputs"]:
        facts.append(("read outputs", f"batchmill.read_outputs({run['path']!r})"))
    return facts


def _intervals(intervals: list[list[int]]) -> str:
    if not intervals:
        return "nothing yet"
    shown = ", ".join(f"{start:,}..{stop - 1:,}" for start, stop in intervals[:_LISTED_INTERVALS])
    more = len(intervals) - _LISTED_INTERVALS
    return f"samples {shown}" + (f" and {more:,} more ranges" if more > 0 else "")


@click.command()
@click.argument("run")
@output_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def verify(ctx: click.Context, run: str, output: str, as_json: bool) -> None:
    """Check every digest and every index of a run.

    Every sample index must be there exactly once. Reads everything the run wrote and changes nothing. Exits with 65
    if something is wrong; `batchmill repair` puts it right. An incomplete run is right if what is committed is right.

    \b
      batchmill verify 20261122-101502-digits
      batchmill verify s3://bucket/runs/nightly --json
    """  # noqa: D301 - click's mark
    from batchmill import inspection

    where = locate(run, output)
    found = inspection.verify_run(where).to_json()
    if as_json:
        show_json(found)
    else:
        checked = (
            f"{found['samples']:,} samples, {found['checked_records']:,} commit records, "
            f"{found['checked_parts']:,} parts, {found['checked_files']:,} files checked"
        )
        out = console()
        if found["ok"]:
            out.print(f"OK: {where}: {checked}.", markup=False, soft_wrap=True)
        else:
            out.print(f"DAMAGED: {where}: {len(found['problems'])} problems; {checked}.", markup=False, soft_wrap=True)
            for problem in found["problems"]:
                out.print(f"  - {printable(problem, keep='')}", markup=False, soft_wrap=True)
    if not found["ok"]:
        ctx.exit(EXIT_ERROR_BUDGET)


@click.command()
@click.argument("run")
@click.option("--nproc", type=click.IntRange(min=1), help="Workers on this machine; by default as many as before.")
@click.option("--no-resume", is_flag=True, help="Only set aside what is bad; `batchmill resume` goes on later.")
@output_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def repair(ctx: click.Context, run: str, nproc: int | None, no_resume: bool, output: str, as_json: bool) -> None:
    """Set aside what is damaged in a run and compute it again.

    Checks the run as `verify` does. Chunks that are not whole, and a result that no longer fits, are moved below
    RUN/damaged/, never deleted; then the run is resumed, which computes those chunks and nothing else. A run that was
    started from Python objects is resumed by its script. Refuses (73) while somebody works on the run; exits with 75
    if it is still to be resumed, and with 65 if something is wrong even then.

    \b
      batchmill repair 20261122-101502-digits
      batchmill repair runs/nightly --no-resume
    """  # noqa: D301 - click's mark
    from batchmill.repair import repair_run

    where = locate(run, output)
    with reserved_stdout(as_json):
        report = repair_run(where, nproc=nproc, resume=not no_resume)
    if as_json:
        show_json(report.to_json())
        ctx.exit(report.exit_code)
    if not report.problems:
        click.echo(f"OK: {where}: nothing is damaged; nothing was changed.")
        return
    click.echo(f"{where}: {len(report.problems)} problems found.")
    for problem in report.problems:
        click.echo(f"  - {problem}")
    if report.folder is not None:
        click.echo(f"{len(report.set_aside)} files were set aside, below {report.path}/{report.folder}.")
    for problem in report.remaining:
        click.echo(f"  still: {problem}")
    if report.advice is not None:
        click.echo(report.advice)
    elif not report.remaining:
        click.echo(f"Repaired: {len(report.chunks)} chunks were computed again, and everything verifies.")
    ctx.exit(report.exit_code)
