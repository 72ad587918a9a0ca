"""Looking at runs from outside: list, describe, verify. Never imports torch, never writes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from batchmill.engine.assembly import Assembler, open_storage
from batchmill.engine.finish import committed_parts
from batchmill.engine.grid import intervals
from batchmill.engine.run_directory import (
    LINKS,
    MANIFEST,
    REPORTS,
    RESULT,
    SUCCESS,
    RunDirectory,
    join_url,
    open_existing,
)
from batchmill.engine.serialization import sha256_hex
from batchmill.errors import (
    BatchmillError,
    ConfigError,
    CorruptRunError,
    ObjectNotFoundError,
    RunNotFoundError,
)
from batchmill.outputs import writer_of
from batchmill.plugin_manager import get_catalog


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
    return _Verifier(opened).verify()


class _Verifier:
    """Collects what is wrong with one run instead of stopping at the first fault."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._problems: list[str] = []
        self._records: dict[int, dict[str, Any]] = {}
        self._parts = self._files = 0

    def verify(self) -> VerifyReport:
        run = self._run
        committed = sorted(run.log.committed())
        for chunk in committed:
            self._attempt(lambda chunk=chunk: self._check_chunk(chunk))
        stored = self._attempt(run.read_result)
        complete = stored is not None
        if complete:
            self._attempt(lambda: self._check_result(stored))
        return VerifyReport(
            run_id=run.run_id,
            path=run.path,
            ok=not self._problems,
            complete=complete,
            samples=run.grid.samples_in(self._records),
            checked_records=len(committed),
            checked_parts=self._parts,
            checked_files=self._files,
            problems=self._problems,
        )

    def _attempt(self, check: Any) -> Any:
        try:
            return check()
        except BatchmillError as error:
            self._problems.append(str(error))
            return None

    def _check_chunk(self, chunk: int) -> None:
        run = self._run
        if chunk >= run.grid.chunks:
            raise CorruptRunError(f"There is a record of chunk {chunk}, but the run has {run.grid.chunks} chunks.")
        record = run.log.read(chunk)
        expected = run.grid.chunk_range(chunk)
        if (record["start"], record["stop"]) != expected:
            raise CorruptRunError(
                f"The record of chunk {chunk} covers samples {record['start']}..{record['stop']}, "
                f"the grid says {expected[0]}..{expected[1]}."
            )
        self._records[chunk] = record
        self._attempt(lambda: run.log.read_partials(record))
        for named in record["files"]:
            self._files += 1
            self._attempt(lambda named=named: run.log.read_named(named))
        for part in record["parts"]:
            self._parts += 1
            self._attempt(lambda part=part: self._check_part(record, part))

    def _check_part(self, record: Mapping[str, Any], part: Mapping[str, Any]) -> None:
        data = self._run.log.read_named(part)
        writer = self._writer
        if writer is None:
            return  # the digest was checked
        index = writer.decode(data).column("_index").to_pylist()
        quarantined = {item["index"] for item in record["quarantined"]}
        expected = [i for i in range(record["start"], record["stop"]) if i not in quarantined]
        if index != expected and not self._is_sparse(index, expected):
            raise CorruptRunError(
                f"{part['name']} does not hold samples {record['start']}..{record['stop'] - 1} once each, in order."
            )

    def _is_sparse(self, index: list[int], expected: list[int]) -> bool:
        """A processor may write nothing for whole batches; what it writes is whole batches, in order, once."""
        batches = {i // self._run.grid.batch_size for i in index}
        return index == [i for i in expected if i // self._run.grid.batch_size in batches]

    @cached_property
    def _writer(self) -> Any:
        try:
            return writer_of(self._run)
        except ConfigError:
            if "request" in self._run.manifest["config"]:
                raise
            return None  # a Python object, which is not here

    def _check_result(self, stored: Mapping[str, Any]) -> None:
        run = self._run
        missing = run.log.missing()
        if missing:
            self._problems.append(
                f"{RESULT} says complete, but {len(missing)} chunks have no record, first {missing[0]}."
            )
        parts = [part for chunk in sorted(self._records) for part in committed_parts(self._records[chunk])]
        if stored["outputs"] != parts:
            self._problems.append(f"{RESULT} lists other outputs than the commit records.")
        if stored["files"] != [named for chunk in sorted(self._records) for named in self._records[chunk]["files"]]:
            self._problems.append(f"{RESULT} lists other files than the commit records.")
        if stored["samples"] != run.grid.samples:
            self._problems.append(f"{RESULT} says {stored['samples']} samples, {MANIFEST} {run.grid.samples}.")
        if stored["fingerprint"] != run.manifest["fingerprint"]["sha256"]:
            self._problems.append(f"{RESULT} and {MANIFEST} have different fingerprints.")
        try:
            success = run.storage.get(SUCCESS).decode().strip()
        except ObjectNotFoundError:
            self._problems.append(f"{SUCCESS} is missing; resume the run to write it.")
            return
        if success != sha256_hex(run.storage.get(RESULT)):
            self._problems.append(f"{RESULT} is damaged: {SUCCESS} carries another digest.")


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
        try:
            yield json.loads(run.storage.get(info.path))
        except ValueError as error:
            raise CorruptRunError(f"{run.path}/{info.path} is damaged: {error}.") from error
