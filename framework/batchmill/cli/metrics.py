"""``batchmill metrics`` and ``metrics compare``: what runs reported, and whether one is worse than another."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from typing import Any

import click
from click.core import ParameterSource

from batchmill.cli.display import console, number, show_json, show_table
from batchmill.cli.groups import VerbGroup
from batchmill.cli.locate import output_option
from batchmill.cli.metrics_sources import (
    Query,
    Reports,
    describe_contents,
    find_rows,
    open_tracker,
    read_side,
    tracker_options,
)
from batchmill.engine.safe_text import printable
from batchmill.errors import ConfigError, did_you_mean
from batchmill.metrics.comparison import Compared, compare, latest_values
from batchmill.metrics.conditions import Outcome, Subject, judge, parse_condition
from batchmill.metrics.direction import lower_is_better
from batchmill.metrics.numbers import Number, json_ready, nearest_float
from batchmill.metrics.rows import MetricsRow, best_cells, csv_table, keep_metrics, metric_names, summarised

# As of `diff` and `grep`: the command worked, and the answer is no.
EXIT_CONDITION_HOLDS = 1
DEFAULT_GROUP = "validation"


@click.group(cls=VerbGroup, invoke_without_command=True, options_metavar="[OPTIONS]", subcommand_metavar="[compare]")
@click.option("--model", help="Only runs that used a version of this model.")
@click.option("--version", help="Of --model: a number, `latest` or a label.")
@click.option("--checkpoint", metavar="UUID", help="Only runs that used this checkpoint.")
@click.option("--run", help="Only this run: an id, a directory or a URL.")
@click.option("--group", help="Only this group; final metrics are in `validation`.")
@click.option("--metric", "wanted", multiple=True, metavar="NAME", help="Only this metric; may be repeated.")
@click.option("--lower", multiple=True, metavar="NAME", help="Of this metric lower values are better; may be repeated.")
@click.option("--higher", multiple=True, metavar="NAME", help="Of this metric higher values are better.")
@output_option
@tracker_options
@click.option("--json", "form", flag_value="json", help="Print one JSON list, numbers in full.")
@click.option("--jsonl", "form", flag_value="jsonl", help="Print a JSON document per line.")
@click.option("--csv", "form", flag_value="csv", help="Print CSV, nested values as JSON.")
@click.pass_context
def metrics(
    ctx: click.Context,
    model: str | None,
    version: str | None,
    checkpoint: str | None,
    run: str | None,
    group: str | None,
    wanted: tuple[str, ...],
    lower: tuple[str, ...],
    higher: tuple[str, ...],
    output: str,
    tracker: str,
    settings: tuple[str, ...],
    form: str | None,
) -> None:
    """Show what runs reported: a row per run, group and step.

    The best value of each metric within a group has a star. Lower is better for names such as loss, error, rmse,
    perplexity, latency or load_time, else higher; --lower and --higher say otherwise. `batchmill metrics compare`
    sets two runs or versions side by side.

    \b
      batchmill metrics
      batchmill metrics --model digits --group validation
      batchmill metrics --model digits --version production --metric accuracy --metric loss
      batchmill metrics --run 20261122-101502-digits --csv > metrics.csv
      batchmill metrics --json | jq '.[] | {run, accuracy: .metrics.accuracy}'
    """  # noqa: D301 - click's mark
    if ctx.invoked_subcommand is not None:
        _refuse_options_before(ctx)
        return
    if version is not None and model is None:
        raise click.UsageError("--version says nothing without --model. Say which model: --model NAME.")
    both = sorted(set(lower) & set(higher))
    if both:
        raise click.UsageError(f"{', '.join(map(repr, both))}: either lower or higher values are better, not both.")
    if run is not None and "/" in run.rstrip("/"):
        output, _, run = run.rstrip("/").rpartition("/")
        output = output or "/"
    opened = open_tracker(output, tracker, settings)
    rows = find_rows(opened, Query(model, version, checkpoint, run, group))
    chosen = keep_metrics(rows, wanted)
    _check_known([*lower, *higher], metric_names(chosen))
    if not chosen:
        found = f" Metrics in what the other options leave: {', '.join(metric_names(rows))}." if rows else ""
        hint = f"No metrics match in {output!r}.{found} {describe_contents(opened)}"
        click.echo(printable(hint, keep=""), err=form is not None)
    if form == "json":
        show_json([row.to_json() for row in chosen])
    elif form == "jsonl":
        for row in chosen:
            show_json(row.to_json(), indent=None)
    elif form == "csv":
        header, records = csv_table(chosen)
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerows([printable(cell, keep="") for cell in record] for record in [header, *records])
    elif chosen:
        _show_rows(chosen, lower, higher)


@metrics.command("compare")
@click.argument("a")
@click.argument("b")
@click.option("--group", default=DEFAULT_GROUP, show_default=True, help="The group to compare.")
@click.option(
    "--fail-if", "conditions", multiple=True, metavar="CONDITION", help="Exit with 1 if it holds; may be repeated."
)
@output_option
@tracker_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def compare_runs(
    ctx: click.Context,
    a: str,
    b: str,
    group: str,
    conditions: tuple[str, ...],
    output: str,
    tracker: str,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Compare the metrics of a baseline A and a candidate B.

    Each is a run (an id below --output, a directory or a URL) or MODEL:VERSION, which means the version's newest
    complete run that reported the group. Each metric counts with its value at the last step.

    CONDITION compares the difference B - A (accuracy<-0.01), the relative difference (loss>5%), or B's own value
    (B.accuracy<0.9), with < <= > or >=. Any that holds makes the exit code 1. A metric that is missing or is not a
    number makes it 2.

    \b
      batchmill metrics compare digits:production digits:latest
      batchmill metrics compare digits:1 digits:2 --fail-if 'accuracy<-0.01' --fail-if 'loss>5%'
      batchmill metrics compare runs/baseline runs/tonight --fail-if 'B.accuracy<0.9' --json
    """  # noqa: D301 - click's mark
    parsed = [parse_condition(condition) for condition in conditions]
    sides = [read_side(given, group, output, lambda: open_tracker(output, tracker, settings)) for given in (a, b)]
    old, new = (latest_values(side.reports, group, side.run_id) for side in sides)
    rows = compare(old, new)
    outcomes = judge(parsed, rows)
    same_data = sides[0].data == sides[1].data
    if as_json:
        show_json(_comparison_json(group, sides, rows, outcomes, same_data))
    else:
        _show_comparison(group, sides, rows, outcomes)
    _warn(sides, same_data)
    if any(outcome.holds for outcome in outcomes):
        ctx.exit(EXIT_CONDITION_HOLDS)


def _refuse_options_before(ctx: click.Context) -> None:
    given = [
        parameter.opts[0]
        for parameter in ctx.command.params
        if parameter.name is not None and ctx.get_parameter_source(parameter.name) is not ParameterSource.DEFAULT
    ]
    if given:
        verb = ctx.invoked_subcommand
        raise click.UsageError(f"{given[0]} stands before `{verb}`, where it has no effect. Options go after `{verb}`.")


def _check_known(given: Sequence[str], names: Sequence[str]) -> None:
    for name in given:
        if names and name not in names:
            raise ConfigError(
                f"There is no metric {name!r} in what is shown.{did_you_mean(name, names)} Metrics: {', '.join(names)}."
            )


def _show_rows(rows: Sequence[MetricsRow], lower: Sequence[str], higher: Sequence[str]) -> None:
    names, best = metric_names(rows), best_cells(rows, lower, higher)
    keys = {(row.run_id, row.group, row.step) for row in rows}
    by_rank, by_model = len(keys) < len(rows), any(row.versions for row in rows)
    columns = ["run", "group", "step", *(["rank"] if by_rank else []), *(["model"] if by_model else []), *names]
    cells = []
    for index, row in enumerate(rows):
        line = [row.run_id, row.group, str(row.step)]
        line += [str(row.rank)] if by_rank else []
        line += [" ".join(f"{model}:{version}" for model, version in row.versions)] if by_model else []
        for name in names:
            shown = number(summarised(row.metrics[name])) if name in row.metrics else ""
            line.append(f"{shown} *" if (index, name) in best else shown)
        cells.append(line)
    show_table(columns, cells)
    if best:
        starred = [name for name in names if any(name == found for _, found in best)]
        low = [name for name in starred if lower_is_better(name, lower, higher)]
        rule = f"lower is better: {', '.join(low)}" if low else "higher is better"
        _say(f"* best in its group; {rule}")


def _show_comparison(
    group: str, sides: Sequence[Reports], rows: Sequence[Compared], outcomes: Sequence[Outcome]
) -> None:
    for letter, side in zip("AB", sides, strict=True):
        version = f"{side.version}, " if side.version else ""
        _say(f"{letter}: {version}run {side.run_id} ({'complete' if side.complete else 'incomplete'}), {side.path}")
    _say(f"group {group}")
    show_table(
        ("metric", "A", "B", "B - A", "relative"),
        [(row.metric, _cell(row.a), _cell(row.b), _signed(row.difference), _share(row.relative)) for row in rows],
    )
    for outcome in outcomes:
        _say(_verdict(outcome))


def _verdict(outcome: Outcome) -> str:
    condition = outcome.condition
    show = _share if condition.subject is Subject.RELATIVE else _signed
    if condition.subject is Subject.VALUE:
        show = _plain
    measured = f"{condition.subject.value} is {show(outcome.measured)}"
    margin = show(outcome.beyond).removeprefix("+")
    if outcome.holds:
        return f"FAILED {condition}: {measured}, past the limit by {margin}"
    return f"passed {condition}: {measured}, {margin} from the limit"


def _warn(sides: Sequence[Reports], same_data: bool) -> None:
    for letter, side in zip("AB", sides, strict=True):
        if not side.complete:
            click.echo(f"Warning: {letter} is not complete; its metrics may cover a part of the data.", err=True)
    if not same_data:
        click.echo("Warning: A and B did not read the same data; what differs may be the data's doing.", err=True)


def _comparison_json(
    group: str, sides: Sequence[Reports], rows: Sequence[Compared], outcomes: Sequence[Outcome], same_data: bool
) -> dict[str, Any]:
    document: dict[str, Any] = {"group": group, "same_data": same_data}
    for letter, side in zip("ab", sides, strict=True):
        document[letter] = {
            "given": side.given,
            "version": side.version,
            "run": side.run_id,
            "path": side.path,
            "complete": side.complete,
        }
    document["metrics"] = [
        {"metric": row.metric, "a": row.a, "b": row.b, "difference": row.difference, "relative": row.relative}
        for row in rows
    ]
    document["conditions"] = [
        {
            "condition": str(outcome.condition),
            "subject": outcome.condition.subject.name.lower(),
            "measured": outcome.measured,
            "holds": outcome.holds,
            "beyond": outcome.beyond,
        }
        for outcome in outcomes
    ]
    document["failed"] = any(outcome.holds for outcome in outcomes)
    ready: dict[str, Any] = json_ready(document)
    return ready


def _cell(value: Any) -> str:
    return "" if value is None else number(summarised(value))


def _plain(value: Number | None) -> str:
    return "" if value is None else f"{nearest_float(value):.6g}"


def _signed(value: Number | None) -> str:
    return "" if value is None else f"{nearest_float(value):+.6g}"


def _share(value: Number | None) -> str:
    return "" if value is None else f"{nearest_float(value * 100):+.4g} %"


def _say(line: str) -> None:
    console().print(printable(line, keep=""), markup=False, soft_wrap=True)
