"""Finding everything that is wrong with a run: every digest, every index, the result against the records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

from batchmill.contracts.storage import Storage
from batchmill.contracts.writer import Writer
from batchmill.engine.commit_log import COMMITS, CommitLog, record_path
from batchmill.engine.finish import committed_parts
from batchmill.engine.retries import with_retries
from batchmill.engine.retry_view import RetryView, staging_folder, stored_path, view_below
from batchmill.engine.run_directory import LINKS, MANIFEST, REPORTS, RESULT, SUCCESS, RunDirectory, manifest_bytes
from batchmill.engine.serialization import canonical_json, sha256_hex, unseal
from batchmill.engine.sideline import read_report
from batchmill.errors import BatchmillError, ConfigError, CorruptRunError, ObjectNotFoundError
from batchmill.outputs import writer_of

_RESULT_KEYS = ("samples", "quarantined", "metrics", "outputs", "files", "fingerprint")


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a run, or could not be looked at.

    Attributes:
        path: The file, relative to the run.
        error: What is wrong. Anything but a ``CorruptRunError`` means that it could not be checked.
        chunk: The chunk whose committed results are not whole; None if it is about none of them.
        replaced: Whether a retry has put other results in the place of these, so that nothing depends on them.
        record: The chunk's commit record; None without a chunk.
        staging: The folder below ``parts/`` and ``files/`` in which what the record names lies; None without a chunk.
    """

    path: str
    error: BatchmillError
    chunk: int | None = None
    replaced: bool = False
    record: str | None = None
    staging: str | None = None

    @property
    def damage(self) -> bool:
        """Whether the file is known to be wrong."""
        return isinstance(self.error, CorruptRunError)


@dataclass
class Examination:
    """What an examination of a run found.

    Attributes:
        faults: In the order of chunks, then those of the whole run.
        records: The records that are right, by chunk.
        committed: Chunks that have a record, right or wrong.
        parts: Number of parts that were checked.
        files: Number of uploaded files that were checked.
        complete: Whether the run has a result that can be read.
    """

    faults: list[Fault] = field(default_factory=list)
    records: dict[int, dict[str, Any]] = field(default_factory=dict)
    committed: set[int] = field(default_factory=set)
    parts: int = 0
    files: int = 0
    complete: bool = False


def examine(run: RunDirectory) -> Examination:
    """Look at everything that a run has committed, also at what retries have replaced. Nothing is written."""
    found = _Examiner(run).examine()
    storage: Storage | None = run.storage
    while isinstance(storage, RetryView):
        replaced, storage = storage.retry.chunks, view_below(storage)
        assert storage is not None
        log = CommitLog(storage, run.grid.chunks, run.manifest["fingerprint"]["sha256"], run.grid.chunk_range)
        found.faults += _Examiner(replace(run, storage=storage, log=log), replaced=True).examine_replaced(replaced)
    return found


class _Examiner:
    """Collects what is wrong with one run instead of stopping at the first fault."""

    def __init__(self, run: RunDirectory, replaced: bool = False) -> None:
        self._run, self._replaced = run, replaced
        self._found = Examination()
        self._fingerprints: list[Any] = []

    def examine(self) -> Examination:
        self._attempt(MANIFEST, None, self._check_manifest)
        for path in self._listed(COMMITS):
            self._check_record_file(path)
        stored = self._attempt(RESULT, None, self._read_result)
        if stored is not None:
            self._found.complete = True
            self._check_result(stored)
        elif with_retries(lambda: self._run.storage.exists(SUCCESS)) and not self._has_fault(RESULT):
            self._fault(SUCCESS, f"{SUCCESS} is there, but {RESULT} is missing.")
        for path in [*self._listed(LINKS), *self._listed(REPORTS)]:
            self._attempt(path, None, partial(self._check_document, path))
        self._judge_manifest()
        return self._found

    def examine_replaced(self, chunks: Iterable[int]) -> list[Fault]:
        """Look at the records of chunks that a retry has replaced, and at the result from before it."""
        for chunk in sorted(chunks):
            if with_retries(partial(self._run.storage.exists, record_path(chunk))):
                self._check_record_file(record_path(chunk))
        if (stored := self._attempt(RESULT, None, self._read_result)) is not None:
            self._check_success()
            if stored["fingerprint"] != self._run.manifest["fingerprint"]["sha256"]:
                self._fault(RESULT, f"{RESULT} and {MANIFEST} have different fingerprints.")
        return self._found.faults

    def _listed(self, folder: str) -> list[str]:
        return [info.path for info in with_retries(lambda: list(self._run.storage.list(folder)))]

    def _get(self, path: str) -> bytes:
        return with_retries(lambda: self._run.storage.get(path))

    def _fault(self, path: str, problem: str, chunk: int | None = None) -> None:
        self._add(path, CorruptRunError(problem), chunk)

    def _add(self, path: str, error: BatchmillError, chunk: int | None) -> None:
        storage = self._run.storage
        place = stored_path(storage, path)
        if place != path and isinstance(error, CorruptRunError):
            error = CorruptRunError(f"{place}: {error}")
        fault = Fault(place, error, chunk, self._replaced)
        if chunk is not None:
            record = stored_path(storage, record_path(chunk))
            fault = replace(fault, record=record, staging=staging_folder(storage, chunk))
        self._found.faults.append(fault)

    def _has_fault(self, path: str) -> bool:
        return any(fault.path == stored_path(self._run.storage, path) for fault in self._found.faults)

    def _attempt(self, path: str, chunk: int | None, check: Callable[[], Any]) -> Any:
        try:
            return check()
        except BatchmillError as error:
            self._add(path, error, chunk)
            return None

    # --- records and what they name ---

    def _check_record_file(self, path: str) -> None:
        stem = path.removeprefix(f"{COMMITS}/").removesuffix(".json")
        if not stem.isdecimal() or record_path(int(stem)) != path:
            self._fault(path, f"{path} is no name of a commit record.")
            return
        chunk = int(stem)
        self._found.committed.add(chunk)
        if chunk >= self._run.grid.chunks:
            problem = f"There is a record of chunk {chunk}, but the run has {self._run.grid.chunks} chunks."
            self._fault(path, problem, chunk)
            return
        record = self._attempt(path, chunk, lambda: self._read_record(chunk))
        if record is None:
            return
        self._found.records[chunk] = record
        if "partials_file" in record:
            self._attempt(record["partials_file"]["name"], chunk, lambda: self._run.log.read_partials(record))
        for named in record["files"]:
            self._found.files += 1
            self._attempt(named["name"], chunk, partial(self._run.log.read_named, named))
        for part in record["parts"]:
            self._found.parts += 1
            self._attempt(part["name"], chunk, partial(self._check_part, record, part))

    def _read_record(self, chunk: int) -> dict[str, Any]:
        path = record_path(chunk)
        record = _unsealed(self._get(path), path)
        self._fingerprints.append(record.get("fingerprint"))
        self._run.log.check_place(chunk, record)
        return record

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
    def _writer(self) -> Writer | None:
        try:
            return writer_of(self._run)
        except ConfigError:
            if "request" in self._run.manifest["config"]:
                raise
            return None  # a Python object, which is not here

    # --- files of the whole run ---

    def _check_manifest(self) -> None:
        if self._get(MANIFEST) != manifest_bytes(self._run.manifest):
            raise CorruptRunError(f"{MANIFEST} is damaged: it is not laid out as it was written.")

    def _judge_manifest(self) -> None:
        """Tell a foreign ``run.json`` from foreign records: two witnesses or more that all contradict it."""
        own = self._run.manifest["fingerprint"]["sha256"]
        if len(self._fingerprints) > 1 and own not in self._fingerprints:
            self._fault(
                MANIFEST,
                f"{MANIFEST} is of a run with other settings or data: none of the {len(self._fingerprints)} commit "
                f"records and results here carries its fingerprint {own[:12]}.",
            )

    def _read_result(self) -> dict[str, Any] | None:
        try:
            stored = _unsealed(self._get(RESULT), RESULT)
        except ObjectNotFoundError:
            return None
        lacking = [key for key in _RESULT_KEYS if key not in stored]
        if lacking:
            raise CorruptRunError(f"{RESULT} is damaged: it is a document without {', '.join(lacking)}.")
        self._fingerprints.append(stored["fingerprint"])
        return stored

    def _check_result(self, stored: Mapping[str, Any]) -> None:
        run, records = self._run, self._found.records
        missing = [chunk for chunk in range(run.grid.chunks) if chunk not in self._found.committed]
        if missing:
            self._fault(RESULT, f"{RESULT} says complete, but {_chunks(missing)} no record, first {missing[0]}.")
        if not missing and len(records) == run.grid.chunks:  # damaged records are told by themselves
            self._compare(stored, [records[chunk] for chunk in range(run.grid.chunks)])
        if stored["samples"] != run.grid.samples:
            self._fault(RESULT, f"{RESULT} says {stored['samples']} samples, {MANIFEST} {run.grid.samples}.")
        if stored["fingerprint"] != run.manifest["fingerprint"]["sha256"]:
            self._fault(RESULT, f"{RESULT} and {MANIFEST} have different fingerprints.")
        self._check_success()

    def _check_success(self) -> None:
        try:
            success = self._get(SUCCESS)
        except ObjectNotFoundError:
            self._fault(SUCCESS, f"{SUCCESS} is missing; resume the run to write it.")
            return
        if success != f"{sha256_hex(self._get(RESULT))}\n".encode():
            self._fault(RESULT, f"{RESULT} or {SUCCESS} is damaged: {SUCCESS} carries another digest.")

    def _compare(self, stored: Mapping[str, Any], records: Iterable[Mapping[str, Any]]) -> None:
        parts, files, quarantined = [], [], 0
        for record in records:
            parts += committed_parts(record)
            files += record["files"]
            quarantined += len(record["quarantined"])
        if stored["outputs"] != parts:
            self._fault(RESULT, f"{RESULT} lists other outputs than the commit records.")
        if stored["files"] != files:
            self._fault(RESULT, f"{RESULT} lists other files than the commit records.")
        if stored["quarantined"] != quarantined:
            self._fault(
                RESULT,
                f"{RESULT} counts {stored['quarantined']} quarantined samples, the commit records {quarantined}.",
            )

    def _check_document(self, path: str) -> None:
        data = self._get(path)
        if path.startswith(f"{REPORTS}/"):
            _unsealed(data, path)
            read_report(data, path)
        elif path != f"{LINKS}/{sha256_hex(data)[:16]}.json":
            raise CorruptRunError(f"{path} is damaged: its name is not the digest of its contents.")


def _unsealed(data: bytes, path: str) -> dict[str, Any]:
    """Return a sealed document that is canonical to the last byte: ``1e-05`` and ``1E-05`` are one value in JSON."""
    document = unseal(data, path)
    if canonical_json(document) != data:
        raise CorruptRunError(f"{path} is damaged: it is not laid out as it was written.")
    return document


def _chunks(missing: list[int]) -> str:
    return f"{len(missing)} chunks have" if len(missing) > 1 else "1 chunk has"
