"""Where metrics come from: a tracker for many runs, a run's own records for one run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import click

from batchmill.cli.locate import locate
from batchmill.components import Kind
from batchmill.contracts.run import Selection
from batchmill.contracts.tracker import MetricsRecord, Tracker
from batchmill.errors import ConfigError, ModelError, PluginError, RunNotFoundError
from batchmill.metrics.rows import MetricsRow
from batchmill.tracked_values import check_name

DEFAULT_TRACKER = "sqlite"
_LISTED = 10
_DATA_FACTS = ("limit", "max_batches")
_SOFTWARE_FACT = "dataset.plugin"


def tracker_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--tracker`` and ``--tracker-setting`` to a verb."""
    command = click.option(
        "--tracker-setting", "settings", multiple=True, metavar="KEY=VALUE", help="A setting of the tracker."
    )(command)
    return click.option(
        "--tracker", default=DEFAULT_TRACKER, show_default=True, help="Tracker that the runs reported to."
    )(command)


def open_tracker(output: str, name: str, settings: tuple[str, ...]) -> Tracker:
    """Return the tracker of an output.

    Args:
        output: Directory or URL that holds runs.
        name: Its registered name.
        settings: ``key=value`` each.

    Raises:
        ConfigError: There is no such tracker or setting.
    """
    from batchmill.engine.assembly import Assembler
    from batchmill.plugin_manager import get_catalog

    chosen: dict[str, str] = {}
    for setting in settings:
        key, separator, value = setting.partition("=")
        if not separator:
            raise ConfigError(f"--tracker-setting {setting!r} is no KEY=VALUE, such as path=metrics.sqlite.")
        chosen[key] = value
    assembler = Assembler(get_catalog().registry)
    tracker = assembler.build(
        Kind.TRACKER, assembler.complete_one(Kind.TRACKER, "tracker", Selection(name, chosen)), output
    )
    if not isinstance(tracker, Tracker):
        raise PluginError(f"Tracker {name!r} is a {type(tracker).__name__}; expected a batchmill.Tracker.")
    return tracker


@dataclass(frozen=True)
class Query:
    """Which reports to look for; None: all.

    Attributes:
        model: A model whose versions runs used.
        version: Of it, a number, ``latest`` or a label.
        checkpoint: UUID of a checkpoint that runs used.
        run: Id of a run.
        group: A group.
    """

    model: str | None = None
    version: str | None = None
    checkpoint: str | None = None
    run: str | None = None
    group: str | None = None


def find_rows(tracker: Tracker, query: Query) -> list[MetricsRow]:
    """Return what a tracker has of a query, by run, group, step and rank.

    Raises:
        ModelError: There is no such model, version or checkpoint.
    """
    number = None
    if query.checkpoint is not None:
        tracker.get_checkpoint(query.checkpoint)
    if query.model is not None:
        tracker.get_model(check_name(query.model))
        number = _version_number(tracker, query.model, query.version) if query.version is not None else None
    records = list(
        tracker.iter_metrics(
            group=query.group,
            run_id=query.run,
            checkpoint_uuid=query.checkpoint,
            model_name=query.model,
            version=number,
        )
    )
    used = _versions_by_run(tracker, query, {record.run_id for record in records})
    return [_row(record, tuple(used.get(record.run_id, ()))) for record in records]


def describe_contents(tracker: Tracker) -> str:
    """Return which groups, models and runs a tracker has, for somebody who found nothing."""
    groups: set[str] = set()
    runs: dict[str, None] = {}
    for record in tracker.iter_metrics():
        groups.add(record.group)
        runs[record.run_id] = None
    models = [model.name for model in tracker.list_models()]
    return f"Groups: {_listed(sorted(groups))}. Models: {_listed(models)}. Runs: {_listed(list(runs))}."


@dataclass(frozen=True)
class Reports:
    """What one run reported, read from the run itself.

    Attributes:
        given: What was asked for: a run, or ``MODEL:VERSION``.
        run_id: The run.
        path: Its directory or URL.
        version: ``MODEL:NUMBER`` if a version was asked for.
        complete: Whether its metrics are final.
        data: What tells its data from another's.
        reports: ``group``, ``steps_completed``, ``rank`` and ``metrics`` each; the final metrics are among them.
    """

    given: str
    run_id: str
    path: str
    version: str | None
    complete: bool
    data: Mapping[str, Any]
    reports: list[dict[str, Any]]


def read_side(given: str, group: str, output: str, tracker: Callable[[], Tracker]) -> Reports:
    """Return the reports of one side of a comparison.

    Args:
        given: A run id below ``output``, a directory, a URL, or ``MODEL:VERSION``: then its newest complete run in
            which ``group`` was reported.
        group: The group that is compared.
        output: Directory or URL that holds runs.
        tracker: Opens the tracker that knows models; called for versions only.

    Raises:
        RunNotFoundError: There is no such run.
        ModelError: There is no such model or version, or no complete run of it that reported the group.
    """
    model, colon, version = given.rpartition(":")
    if not colon or "://" in given or os.path.isdir(given):
        return _read_run(given, locate(given, output), None)
    opened = tracker()
    number = _version_number(opened, check_name(model), version)
    return _read_run(given, _newest_run(opened, model, number, group, output), f"{model}:{number}")


def _read_run(given: str, where: str, version: str | None) -> Reports:
    from batchmill import inspection
    from batchmill.engine.finish import final_reports

    opened = inspection.open_run_directory(where)
    result = opened.read_result()
    covers = opened.manifest["fingerprint"]["covers"]
    facts = covers if isinstance(covers, Mapping) else {}
    return Reports(
        given=given,
        run_id=opened.run_id,
        path=opened.path,
        version=version,
        complete=result is not None,
        data={
            key: value
            for key, value in facts.items()
            if key in _DATA_FACTS or (key.startswith("dataset.") and key != _SOFTWARE_FACT)
        },
        reports=[
            *inspection.describe_run(where).reports,
            *(final_reports(opened, result) if result is not None else []),
        ],
    )


def _newest_run(tracker: Tracker, model: str, version: int, group: str, output: str) -> str:
    from batchmill import inspection
    from batchmill.engine.run_directory import is_run_id, join_url

    groups: set[str] = set()
    reported: dict[str, str] = {}
    for record in tracker.iter_metrics(model_name=model, version=version):
        groups.add(record.group)
        if record.group == group:
            reported[record.run_id] = max(record.end_time, reported.get(record.run_id, ""))
    if not reported:
        raise ModelError(
            f"No run of model {model!r} version {version} reported metrics in group {group!r}. Groups that its runs "
            f"reported: {_listed(sorted(groups))}. Run it, or choose a group with --group."
        )
    complete: list[tuple[str, str, str]] = []
    others: list[str] = []
    for run_id, last in reported.items():
        path = join_url(output, run_id)
        try:
            # The name comes from a tracker, which may be anybody's: it must not lead out of the folder of runs.
            opened = inspection.open_run_directory(path) if is_run_id(run_id) else None
        except RunNotFoundError:
            opened = None
        if opened is None:
            others.append(f"{run_id} (not below {output!r})")
        elif opened.read_result() is None:
            others.append(f"{run_id} (incomplete)")
        else:
            complete.append((opened.manifest["created"], last, path))
    if not complete:
        raise ModelError(
            f"Model {model!r} version {version} has no complete run that reported group {group!r}: "
            f"{_listed(others)}. Finish one with `batchmill resume RUN`, or say with --output where its runs are."
        )
    return max(complete)[2]


def _version_number(tracker: Tracker, model: str, version: str) -> int:
    from batchmill.models import find_version

    return find_version(tracker.get_versions(model), model, version).version


def _versions_by_run(tracker: Tracker, query: Query, run_ids: set[str]) -> dict[str, list[tuple[str, int]]]:
    """Return the versions that runs used, of the query's model or of all; asks for those of models in use only."""
    found: dict[str, list[tuple[str, int]]] = {}
    if not run_ids:
        return found
    names = [query.model] if query.model is not None else [model.name for model in tracker.list_models()]
    for name in names:
        if query.model is None and run_ids.isdisjoint(_linked_runs(tracker, query, name, None)):
            continue
        for record in tracker.get_versions(name):
            for run_id in _linked_runs(tracker, query, name, record.version) & run_ids:
                found.setdefault(run_id, []).append((name, record.version))
    return found


def _linked_runs(tracker: Tracker, query: Query, model: str, version: int | None) -> set[str]:
    records = tracker.iter_metrics(group=query.group, run_id=query.run, model_name=model, version=version)
    return {record.run_id for record in records}


def _row(record: MetricsRecord, versions: tuple[tuple[str, int], ...]) -> MetricsRow:
    return MetricsRow(
        record.run_id,
        record.group,
        record.steps_completed,
        record.rank,
        record.end_time,
        versions,
        dict(record.metrics),
    )


def _listed(names: list[str]) -> str:
    more = len(names) - _LISTED
    return (", ".join(names[:_LISTED]) or "none") + (f" and {more} more" if more > 0 else "")
