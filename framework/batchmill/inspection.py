"""Looking at runs from outside: list, describe, verify. Never imports torch, never writes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from batchmill.engine.assembly import Assembler, open_storage
from batchmill.engine.finish import committed_parts
from batchmill.engine.grid import intervals
from batchmill.engine.run_directory import LINKS, REPORTS, RunDirectory, join_url, open_existing
from batchmill.engine.sideline import read_report
from batchmill.errors import CorruptRunError, RunNotFoundError
from batchmill.plugin_manager import get_catalog
from batchmill.verification import examine


@dataclass(frozen=True)
class RunSummary:
    """One line about a run."""

    run_id: str
    path: str
    state: str
    samples: int
    total: int
    coverage: float
    processor: str
    dataset: str
    model: str | None
    created: str
    metrics: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class RunDescription:
    """Everything about a run that people ask for."""

    summary: RunSummary
    batch_size: int
    chunk_batches: int
    chunks: int
    committed_chunks: int
    intervals: list[tuple[int, int]]
    quarantined: int
    outputs: list[dict[str, Any]]
    files: list[dict[str, Any]]
    reports: list[dict[str, Any]]
    links: list[dict[str, Any]]
    fingerprint: str
    config: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, the summary's keys at the top."""
        values = asdict(self)
        return {**values.pop("summary"), **values}


@dataclass(frozen=True)
class VerifyReport:
    """What a check of every digest and every index found."""

    run_id: str
    path: str
    ok: bool
    complete: bool
    samples: int
    checked_records: int
    checked_parts: int
    checked_files: int
    problems: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def open_run_directory(run: str) -> RunDirectory:
    """Return a run opened for reading.

    Raises:
        RunNotFoundError: There is no run at that directory or URL.
    """
    return open_existing(open_storage(Assembler(get_catalog().registry), run))


def list_runs(output: str) -> list[RunSummary]:
    """Return a summary of every run below a directory or URL, oldest first; damaged ones have state "damaged"."""
    storage = open_storage(Assembler(get_catalog().registry), output)
    found = []
    for name in storage.list_folders():
        path = join_url(output, name)
        try:
            found.append(_summary(open_run_directory(path)))
        except RunNotFoundError:
            continue  # a folder that is no run
        except CorruptRunError:
            found.append(RunSummary(name, path, "damaged", 0, 0, 0.0, "", "", None, "", {}))
    return sorted(found, key=lambda run: (run.created, run.run_id))


def describe_run(run: str) -> RunDescription:
    """Return what is known of one run.

    Raises:
        RunNotFoundError: There is no run.
        CorruptRunError: A record is damaged.
    """
    opened = open_run_directory(run)
    committed = sorted(opened.log.committed())
    records = [opened.log.read(chunk) for chunk in committed]
    reports = [report for record in records for report in record["reports"]]
    return RunDescription(
        summary=_summary(opened),
        batch_size=opened.grid.batch_size,
        chunk_batches=opened.grid.chunk_batches,
        chunks=opened.grid.chunks,
        committed_chunks=len(committed),
        intervals=intervals(opened.grid, committed),
        quarantined=sum(len(record["quarantined"]) for record in records),
        outputs=[part for record in records for part in committed_parts(record)],
        files=[named for record in records for named in record["files"]],
        reports=[*reports, *_documents(opened, REPORTS)],
        links=list(_documents(opened, LINKS)),
        fingerprint=opened.manifest["fingerprint"]["sha256"],
        config=opened.manifest["config"],
    )


def verify_run(run: str) -> VerifyReport:
    """Check a run: every record's and file's digest, every sample index exactly once, the result against the records.

    Indices are counted in the parts themselves, decoded by the run's writer.

    Raises:
        RunNotFoundError: There is no run.
    """
    opened = open_run_directory(run)
    found = examine(opened)
    return VerifyReport(
        run_id=opened.run_id,
        path=opened.path,
        ok=not found.faults,
        complete=found.complete,
        samples=opened.grid.samples_in(found.records),
        checked_records=len(found.committed),
        checked_parts=found.parts,
        checked_files=found.files,
        problems=[str(fault.error) for fault in found.faults],
    )


def _summary(run: RunDirectory) -> RunSummary:
    result = run.read_result()
    samples = result["samples"] if result is not None else run.grid.samples_in(run.log.committed())
    config = run.manifest["config"]
    model = None
    if "request" in config:
        request = config["request"]  # not rebuilt: the run may be another version's
        processor, dataset = request["processor"]["name"], request["dataset"]["name"]
        if request.get("model_name") is not None:
            model = f"{request['model_name']}:{run.manifest['fingerprint']['covers'].get('model.version')}"
    else:
        processor, dataset = config["python"]["processor"], config["python"]["dataset"]
    return RunSummary(
        run_id=run.run_id,
        path=run.path,
        state="complete" if result is not None else "incomplete",
        samples=samples,
        total=run.grid.samples,
        coverage=samples / run.grid.samples if run.grid.samples else 1.0,
        processor=processor,
        dataset=dataset,
        model=model,
        created=run.manifest["created"],
        metrics=result["metrics"] if result is not None else {},
    )


def _documents(run: RunDirectory, folder: str) -> Iterator[dict[str, Any]]:
    for info in run.storage.list(folder):
        data = run.storage.get(info.path)
        if folder == REPORTS:
            yield read_report(data, info.path)
            continue
        try:
            yield json.loads(data)
        except ValueError as error:
            raise CorruptRunError(f"{run.path}/{info.path} is damaged: {error}.") from error
