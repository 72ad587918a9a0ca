"""Telling a tracker again what runs keep in their own records: links and reported metrics.

A tracker's ledger may be lost, or lie on another machine than the runs, as it does for runs on an object store. Each
run's records hold all that the engine has told the tracker, so that the ledger can be filled from them. What only the
tracker knows, which is the models, versions and checkpoints that were registered, cannot be found there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from batchmill.contracts.storage import Storage
from batchmill.contracts.tracked_records import MetricsRecord, RunLink
from batchmill.contracts.tracker import Tracker
from batchmill.engine.assembly import Assembler, open_storage
from batchmill.engine.commit_log import CommitLog
from batchmill.engine.finish import final_reports, read_records
from batchmill.engine.retries import with_retries
from batchmill.engine.retry_view import RetryView, retried_chunks, view_below
from batchmill.engine.run_directory import LINKS, REPORTS, RunDirectory, join_url, open_existing
from batchmill.engine.serialization import sha256_hex
from batchmill.engine.sideline import read_report
from batchmill.errors import (
    EXIT_COMPLETE,
    EXIT_ERROR_BUDGET,
    EXIT_STORAGE,
    BatchmillError,
    CorruptRunError,
    ModelError,
    RunNotFoundError,
    StorageError,
)
from batchmill.plugin_manager import get_catalog
from batchmill.tracked_values import check_report, check_text

_RANKS_LIMIT = 2**31


@dataclass
class RebuildReport:
    """What was told to the tracker again.

    Attributes:
        runs: Ids of the runs that were restored.
        reports: Number of reports that they hold.
        links: Number of links from them to checkpoints and model versions.
        skipped: Path of each run that was left out, and why.
        unlinked: What runs used that the tracker does not know, by the path of the run. Their metrics were restored,
            and are not found through a model until it is registered again and the ledger rebuilt once more.
        exit_code: 0, or why runs were skipped: 65 for damage, 74 for storage that could not be read.
    """

    runs: list[str] = field(default_factory=list)
    reports: int = 0
    links: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    unlinked: dict[str, list[str]] = field(default_factory=dict)
    exit_code: int = EXIT_COMPLETE

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    def skip(self, path: str, error: BatchmillError) -> None:
        """Note that a run was left out, and why."""
        self.skipped[path] = str(error)
        if not isinstance(error, StorageError):
            self.exit_code = EXIT_ERROR_BUDGET
        elif self.exit_code == EXIT_COMPLETE:
            self.exit_code = EXIT_STORAGE

    @contextmanager
    def skipping(self, path: str) -> Iterator[None]:
        """Leave out the run that is read inside if it cannot be read."""
        try:
            yield
        except (CorruptRunError, StorageError) as error:
            self.skip(path, error)


def rebuild_ledger(output: str, tracker: Tracker) -> RebuildReport:
    """Tell a tracker all links and metrics of the runs below a directory or URL. Repeating it changes nothing.

    Every commit record counts, of runs that are not complete and of retries too. A run that is damaged is left out
    whole, so that no half of it looks like all of it.

    Args:
        output: Directory or URL that holds runs.
        tracker: The tracker; what it knows besides stays.

    Raises:
        StorageError: The output cannot be listed, or the tracker cannot store.
    """
    assembler, report = Assembler(get_catalog().registry), RebuildReport()
    runs: list[tuple[str, RunDirectory]] = []
    for name in with_retries(open_storage(assembler, output).list_folders):
        path = join_url(output, name)
        with report.skipping(path):
            try:
                runs.append((name, open_existing(open_storage(assembler, path), working=True)))
            except RunNotFoundError:
                continue  # a folder that is no run
    # A run in the folder of its own name goes before its copies.
    for name, run in sorted(runs, key=lambda item: item[0] != item[1].run_id):
        path, kept = join_url(output, name), None
        with report.skipping(path):
            if run.run_id in report.runs:
                raise CorruptRunError(f"It holds run {run.run_id!r}, as another folder does. Move one of them away.")
            kept = _read(run)
        if kept is not None:
            _tell(tracker, run, kept, path, report)
    report.runs.sort()
    return report


@dataclass(frozen=True)
class _Kept:
    """What a run's records hold for a tracker."""

    reports: list[MetricsRecord]
    links: list[RunLink]


def _read(run: RunDirectory) -> _Kept:
    """Return all that a run keeps.

    Raises:
        CorruptRunError: One of its records is damaged.
    """
    try:
        return _Kept([_record(run, report) for report in _reports(run)], list(_links(run)))
    except (KeyError, TypeError) as error:
        raise CorruptRunError(f"One of its records is another document: {type(error).__name__}: {error}.") from error


def _reports(run: RunDirectory) -> Iterator[Mapping[str, Any]]:
    for view, chunks in _views(run):
        for record in read_records(view, sorted(chunks)):
            yield from record["reports"]
        if (stored := view.read_result()) is not None:
            yield from final_reports(view, stored)
    for path, data in _objects(run, REPORTS):
        yield read_report(data, path)


def _views(run: RunDirectory) -> Iterator[tuple[RunDirectory, set[int]]]:
    """Yield the run as it was before all retries, and then as each retry saw it, with the chunks committed there."""
    storages: list[Storage] = [run.storage]
    while (below := view_below(storages[-1])) is not None:
        storages.append(below)
    for storage in reversed(storages):
        log = CommitLog(storage, run.grid.chunks, run.manifest["fingerprint"]["sha256"], run.grid.chunk_range)
        own = storage.retry.chunks if isinstance(storage, RetryView) else range(run.grid.chunks)
        yield replace(run, storage=storage, log=log), log.committed().intersection(own)


def _objects(run: RunDirectory, folder: str) -> Iterator[tuple[str, bytes]]:
    for info in with_retries(lambda: list(run.storage.list(folder))):
        yield info.path, with_retries(partial(run.storage.get, info.path))


def _record(run: RunDirectory, report: Mapping[str, Any]) -> MetricsRecord:
    """Return a report in the form for trackers. Anybody may have sealed it, so its form is checked once more."""
    group, steps, rank = report["group"], report["steps_completed"], report["rank"]
    if type(rank) is not int or not 0 <= rank < _RANKS_LIMIT:
        raise CorruptRunError(f"A report of group {group!r} is damaged: it comes from rank {rank!r}.")
    try:
        check_report(group, steps, {name: 0 for name in report["metrics"]})
        end_time = check_text(report["time"], "Its time")
    except ModelError as error:
        raise CorruptRunError(f"A report is damaged: {error}") from error
    return MetricsRecord(run.run_id, group, steps, report["metrics"], end_time, rank)


def _links(run: RunDirectory) -> Iterator[RunLink]:
    for path, data in _objects(run, LINKS):
        if path != f"{LINKS}/{sha256_hex(data)[:16]}.json":
            raise CorruptRunError(f"{path} is damaged: its name is not the digest of its contents.")
        try:
            link = json.loads(data)
        except ValueError as error:
            raise CorruptRunError(f"{path} is damaged: {error}.") from error
        found = RunLink(link["checkpoint"], link["model"], link["version"])
        kinds = (type(found.checkpoint_uuid), type(found.model_name), type(found.version))
        if kinds not in ((str, str, int), (str, type(None), type(None))):
            raise CorruptRunError(f"{path} is damaged: it is another document.")
        yield found


def _tell(tracker: Tracker, run: RunDirectory, kept: _Kept, path: str, report: RebuildReport) -> None:
    try:
        tracker.report_all(kept.reports)
    except ModelError as error:  # the tracker has other values
        if not retried_chunks(run.storage):
            report.skip(path, error)
            return
        # What a retry reports anew may differ, and then what was told first stands: see restore_reports.
        for record in kept.reports:
            with suppress(ModelError):
                tracker.report(record)
    report.runs.append(run.run_id)
    report.reports += len(kept.reports)
    for link in kept.links:
        try:
            _link(tracker, run, link)
            report.links += 1
        except ModelError as error:
            used = f"checkpoint {link.checkpoint_uuid}"
            if link.model_name is not None:
                used = f"version {link.version} of model {link.model_name!r} ({used})"
            report.unlinked.setdefault(path, []).append(f"It used {used}. {error}")


def _link(tracker: Tracker, run: RunDirectory, link: RunLink) -> None:
    """Link a run to what it used; a version that was registered anew with the same files is the one that it used.

    Raises:
        ModelError: The tracker does not know it.
    """
    try:
        tracker.link_run(run.run_id, run.path, link.checkpoint_uuid, link.model_name, link.version)
    except ModelError:
        covers = run.manifest["fingerprint"]["covers"]
        known = (covers.get("model.name"), covers.get("model.version")) if isinstance(covers, dict) else None
        if link.model_name is None or known != (link.model_name, link.version):
            raise
        for record in tracker.get_versions(link.model_name):
            if record.version == link.version and record.checkpoint.digest == covers.get("model.digest"):
                tracker.link_run(run.run_id, run.path, record.checkpoint.uuid, link.model_name, link.version)
                return
        raise
