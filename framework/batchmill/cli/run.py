"""``batchmill run`` and ``batchmill resume``."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from batchmill.cli.display import number, percent, reserved_stdout, show_facts, show_json
from batchmill.cli.locate import allow_import_option, locate, output_option

if TYPE_CHECKING:
    from batchmill.contracts.run import RunRequest, RunResult
    from batchmill.settings import SweepJob


@click.command()
@click.argument("overrides", nargs=-1)
@click.option("-m", "--multirun", is_flag=True, help="One job for each combination of the values given as a,b,c.")
@click.option(
    "--cfg",
    type=click.Choice(["job", "json"]),
    help="Print the composed, checked configuration as YAML (job) or JSON, and stop.",
)
@click.option(
    "--dry-run", is_flag=True, help="Print what would be done: samples, chunks, path. Builds no model, writes nothing."
)
@click.option(
    "--config-dir",
    type=click.Path(),
    help="Folder with presets of your own: DIR/processor/mine.yaml is chosen with processor=mine.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output, and nothing else.")
@click.pass_context
def run(
    ctx: click.Context,
    overrides: tuple[str, ...],
    multirun: bool,
    cfg: str | None,
    dry_run: bool,
    config_dir: str | None,
    as_json: bool,
) -> None:
    """Compose a run from names and settings and do it.

    OVERRIDES are Hydra's key=value. A component is chosen by name, its settings follow it; `batchmill plugins`
    lists both. The same run_id resumes.

    \b
    One model over a Parquet file, on four workers, with two metrics:
      batchmill run processor=torch_module processor.builder=my_net processor.weights=net.safetensors \\
          dataset=parquet dataset.path=data.parquet batch_size=256 launcher.nproc=4 \\
          'reducers=[accuracy,confusion_matrix]'

    \b
    A reducer a second time, under a name of its own:
      ... 'reducers=[accuracy]' +reducers@reducers.top5=accuracy reducers.top5.prediction=top5

    \b
    A class from a local file (this lets the configuration run code, so say so):
      batchmill run +processor.name=my_module:MyProcessor +processor.times=3 allow_import=true dataset=...

    \b
    Three versions of a model, or all, one table at the end; the same command goes on with a sweep that was stopped:
      batchmill run -m model.name=digits model.version=1,2,3 processor=... dataset=...
      batchmill run -m model.name=digits model.version=all sweep.name=nightly processor=... dataset=...

    \b
    Look before you run:
      batchmill run ... --cfg job        the whole configuration
      batchmill run ... --dry-run        samples, chunks, what is committed already
    """  # noqa: D301 - click's mark
    from batchmill import settings

    if multirun:
        sweep = settings.expand(overrides, config_dir=config_dir)
    else:
        sweep = settings.Sweep(None, [settings.SweepJob({}, settings.compose(overrides, config_dir=config_dir))])
    jobs = sweep.jobs
    if cfg is not None:
        _show_configs(jobs, as_json=as_json or cfg == "json", several=multirun)
    elif dry_run:
        _show_plans(jobs, as_json, several=multirun)
    elif multirun:
        from batchmill.cli.sweep import begin_sweep, run_jobs, show_outcomes, worst_code

        with reserved_stdout(as_json):
            outcomes = run_jobs(begin_sweep(sweep))
        if _speaks():
            show_outcomes(outcomes, as_json)
        ctx.exit(worst_code(outcomes))
    else:
        _run_one(ctx, jobs[0].request, as_json)


@click.command()
@click.argument("run")
@click.option("--nproc", type=click.IntRange(min=1), help="Workers on this machine; by default as many as before.")
@output_option
@allow_import_option
@click.option("--max-errors", type=click.IntRange(min=0), help="Samples that may fail; by default as before.")
@click.option(
    "--on-error", type=click.Choice(["quarantine", "fail"]), help="What to do with them; by default as before."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output, and nothing else.")
@click.pass_context
def resume(
    ctx: click.Context,
    run: str,
    nproc: int | None,
    output: str,
    allow_import: bool | None,
    max_errors: int | None,
    on_error: str | None,
    as_json: bool,
) -> None:
    """Go on with a run that was stopped or killed.

    Nothing that is committed is done again. RUN is a run id (looked up below --output), a directory or a URL. The
    number of workers is free: results and
    metrics do not depend on it. Resuming a complete run only shows its result.

    \b
      batchmill resume 20261122-101502-digits
      batchmill resume runs/20261122-101502-digits --nproc 8
      batchmill resume s3://bucket/runs/nightly --json
    """  # noqa: D301 - click's mark
    from batchmill import api

    where = locate(run, output)
    with reserved_stdout(as_json):
        result = api.resume(where, nproc, max_errors=max_errors, on_error=on_error, allow_import=allow_import)
    finish(ctx, result, as_json)


def _run_one(ctx: click.Context, request: RunRequest, as_json: bool) -> None:
    from batchmill import api

    with reserved_stdout(as_json):
        result = api.run_request(request)
    finish(ctx, result, as_json)


def finish(ctx: click.Context, result: RunResult, as_json: bool) -> None:
    """Print a result and leave with its exit code."""
    if _speaks():
        if as_json:
            show_json(dataclasses.asdict(result))
        else:
            show_result(result)
    ctx.exit(result.exit_code)


def show_result(result: RunResult) -> None:
    """Print what a run came to, where its outputs lie and what to do next."""
    facts: list[tuple[str, object]] = [("samples", f"{result.samples:,} committed ({percent(result.coverage)})")]
    if result.quarantined:
        facts.append(("quarantined", f"{result.quarantined:,} samples failed: batchmill quarantined {result.path}"))
    facts += [(name, number(value)) for name, value in result.metrics.items()]
    facts.append(("run", result.path))
    if result.outputs:
        rows = sum(part["rows"] for part in result.outputs)
        facts.append(("outputs", f"{rows:,} rows in {len(result.outputs):,} parts below {result.path}"))
    if result.complete:
        if result.outputs:
            facts.append(("read them", f"batchmill.read_outputs({result.path!r})"))
        show_facts(f"Run {result.run_id} is complete", facts)
        return
    facts.append(("go on", f"batchmill resume {result.path}"))
    show_facts(f"Run {result.run_id} stopped early: {result.stop_reason or 'not all samples were asked for'}", facts)


def _show_configs(jobs: Sequence[SweepJob], as_json: bool, several: bool) -> None:
    from batchmill import settings

    configs = [settings.as_config(job.request) for job in jobs]
    if as_json:
        show_json(configs if several else configs[0])
        return
    click.echo("---\n".join(settings.to_yaml(config) for config in configs), nl=False)


def _show_plans(jobs: Sequence[SweepJob], as_json: bool, several: bool) -> None:
    from batchmill import api

    with reserved_stdout(as_json):
        plans: list[dict[str, Any]] = [dict(api.plan(job.request)) for job in jobs]
    if as_json:
        show_json(plans if several else plans[0])
        return
    for job, plan in zip(jobs, plans, strict=True):
        swept = " ".join(f"{key}={value}" for key, value in job.swept.items())
        facts = [(key.replace("_", " "), "a new one" if value is None else value) for key, value in plan.items()]
        show_facts(f"Plan {swept}".strip(), facts)


def _speaks() -> bool:
    """Return whether this process tells the result: of several workers in one terminal, only the first."""
    from batchmill.launch.environment import read_environment, started_by_launcher

    return not started_by_launcher(os.environ) or read_environment(os.environ).rank == 0
