"""Runs the jobs of ``run -m`` one after the other and sums them up in one table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from batchmill.cli.display import first_sentence, number, percent, show_json, show_table
from batchmill.cli.failures import EXIT_INTERRUPTED, report, report_unexpected
from batchmill.engine.safe_text import safe_text
from batchmill.errors import (
    EXIT_ALREADY_RUNNING,
    EXIT_COMPLETE,
    EXIT_CONFIG_MISMATCH,
    EXIT_ERROR_BUDGET,
    EXIT_INTERNAL,
    EXIT_PREEMPTED,
    EXIT_STORAGE,
    EXIT_USAGE,
    BatchmillError,
)

if TYPE_CHECKING:
    from batchmill.contracts.run import RunResult
    from batchmill.settings import Sweep, SweepJob

# Worst first: the sweep's exit code is the first of these that a job has.
_SEVERITY = (
    EXIT_INTERNAL,
    EXIT_STORAGE,
    EXIT_ERROR_BUDGET,
    EXIT_CONFIG_MISMATCH,
    EXIT_ALREADY_RUNNING,
    EXIT_USAGE,
    EXIT_INTERRUPTED,
    EXIT_PREEMPTED,
    EXIT_COMPLETE,
)
# How the engine's reason for stopping begins when a signal came; then the whole sweep is asked to stop.
_SIGNAL_REASON = "received SIG"


@dataclass(frozen=True)
class Outcome:
    """What one job came to: a result, an error, or neither if it was not started."""

    job: SweepJob
    result: RunResult | None = None
    error: str | None = None
    exit_code: int = EXIT_PREEMPTED


def begin_sweep(sweep: Sweep) -> Sequence[SweepJob]:
    """Return the jobs of a sweep, each with the run id by which the same command finds it again; say what it is."""
    from batchmill.launch.naming import new_run_id
    from batchmill.settings import name_runs

    name = sweep.name or new_run_id()
    hint = ""
    if sweep.name is None and any(job.request.run_id is None for job in sweep.jobs):
        hint = f" If it is stopped, the same command with sweep.name={name} goes on with it."
    click.echo(f"Sweep {name}: {len(sweep.jobs)} jobs.{hint}", err=True)
    return name_runs(name, sweep.jobs)


def run_jobs(jobs: Sequence[SweepJob]) -> list[Outcome]:
    """Run every job; one that fails does not keep the others from running, a signal or Ctrl-C does."""
    outcomes: list[Outcome] = []
    stopped = False
    for position, job in enumerate(jobs, start=1):
        if stopped:
            outcomes.append(Outcome(job))
            continue
        click.echo(f"Job {position} of {len(jobs)}: {_swept(job)}", err=True)
        outcome = _run_job(job)
        outcomes.append(outcome)
        reason = outcome.result.stop_reason if outcome.result is not None else None
        stopped = outcome.exit_code == EXIT_INTERRUPTED or (reason or "").startswith(_SIGNAL_REASON)
    return outcomes


def _run_job(job: SweepJob) -> Outcome:
    from batchmill import api

    try:
        result = api.run_request(job.request)
    except KeyboardInterrupt:  # the results of the jobs before it are still to be shown
        return Outcome(job, error="interrupted", exit_code=EXIT_INTERRUPTED)
    except BatchmillError as error:
        report(error)
        return Outcome(job, error=safe_text(str(error)), exit_code=error.exit_code)
    except Exception as error:  # one job's bug must not cost the others' results
        report_unexpected()
        return Outcome(job, error=safe_text(f"{type(error).__name__}: {error}"), exit_code=EXIT_INTERNAL)
    return Outcome(job, result, exit_code=result.exit_code)


def worst_code(outcomes: Sequence[Outcome]) -> int:
    """Return the exit code of a whole sweep: the worst of its jobs'."""
    codes = {outcome.exit_code for outcome in outcomes}
    return next((code for code in _SEVERITY if code in codes), EXIT_INTERNAL)


def show_outcomes(outcomes: Sequence[Outcome], as_json: bool) -> None:
    """Print one table, or one JSON document, of all jobs."""
    if as_json:
        show_json({"jobs": [_outcome_json(outcome) for outcome in outcomes], "exit_code": worst_code(outcomes)})
        return
    swept = list(dict.fromkeys(key for outcome in outcomes for key in outcome.job.swept))
    metrics = list(dict.fromkeys(name for outcome in outcomes if outcome.result for name in outcome.result.metrics))
    rows = []
    for outcome in outcomes:
        result = outcome.result
        found = result.metrics if result is not None else {}
        rows.append(
            [
                *(outcome.job.swept.get(key, "") for key in swept),
                _state(outcome),
                *(number(found[name]) if name in found else "" for name in metrics),
                result.path if result is not None else "",
            ]
        )
    show_table([*swept, "state", *metrics, "run"], rows)
    if any(outcome.result is not None and outcome.result.outputs for outcome in outcomes):
        click.echo("Outputs lie below each run; batchmill.read_outputs(RUN) gives the rows in dataset order.")


def _state(outcome: Outcome) -> str:
    if outcome.error is not None:
        return f"failed: {first_sentence(outcome.error)}"
    if outcome.result is None:
        return "not started"
    return "complete" if outcome.result.complete else f"stopped at {percent(outcome.result.coverage)}"


def _swept(job: SweepJob) -> str:
    return " ".join(f"{key}={value}" for key, value in job.swept.items()) or "(nothing swept)"


def _outcome_json(outcome: Outcome) -> dict[str, object]:
    return {
        "overrides": dict(outcome.job.swept),
        "result": dataclasses.asdict(outcome.result) if outcome.result is not None else None,
        "error": outcome.error,
        "exit_code": outcome.exit_code,
    }
