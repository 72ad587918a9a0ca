"""The commit log: one write-once record per chunk. Everything a run promises rests on this file.

Protocol: stage parts and files under names made from their contents, then create ``commits/<chunk>.json``
exclusively. Naming an output in a record is the only way it becomes visible. Whoever creates the record has
committed the chunk; everyone else's attempt is void. An unclear answer is settled by reading back: the record
carries the attempt's random id.

Names from contents, instead of from the attempt, make ``result.json`` equal for every history, and are as safe:
equal names hold equal bytes, each put is atomic and durable before the record exists, and a losing attempt
deletes only what the winning record does not name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from batchmill.contracts.storage import Storage
from batchmill.engine.retries import with_retries
from batchmill.engine.serialization import canonical_json, seal, sha256_hex, unseal
from batchmill.errors import CorruptRunError, ObjectNotFoundError, StorageError

COMMITS, PARTS, FILES = "commits", "parts", "files"
# Larger partials live in a file of their own, so that listing and reading records stays cheap.
INLINE_PARTIALS_BYTES = 256 * 1024


def chunk_name(chunk: int) -> str:
    """Return a chunk's name in paths: eight digits, so that names sort as numbers."""
    return f"{chunk:08d}"


def record_path(chunk: int) -> str:
    """Return the path of a chunk's commit record."""
    return f"{COMMITS}/{chunk_name(chunk)}.json"


@dataclass
class ChunkDraft:
    """What one attempt wants to commit for a chunk.

    Attributes:
        chunk: The chunk's number.
        start: Its first sample.
        stop: The index after its last sample.
        attempt: 128 random bits in hex that tell this attempt from any other.
        part: Bytes of the part file, or None if no rows were written.
        extension: The part's file name ending, without the dot.
        rows: Rows in the part.
        partials: Reducer name to encoded partial.
        files: Relative path to bytes, from ``upload_path()``.
        reports: Metrics reported during the chunk.
        quarantined: Samples set aside with their reason.
        states: What stateful components gathered, by config key.
        micro_batch: Samples per piece, where batches did not fit into memory and were processed in pieces.
    """

    chunk: int
    start: int
    stop: int
    attempt: str
    part: bytes | None = None
    extension: str = ""
    rows: int = 0
    partials: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    reports: list[Mapping[str, Any]] = field(default_factory=list)
    quarantined: list[Mapping[str, Any]] = field(default_factory=list)
    states: Mapping[str, Any] = field(default_factory=dict)
    micro_batch: int | None = None


class CommitLog:
    """The records of one run. Safe to use from several threads and processes.

    Args:
        storage: The run's storage.
        chunks: Chunks in the run.
        fingerprint: The run's fingerprint; every record carries it, which tells it from a record of another run.
        chunk_range: Returns the samples of a chunk; None leaves records' ranges unchecked.
        folder_of: Returns the folder below ``parts/`` and ``files/`` in which attempts at a chunk are staged.
    """

    def __init__(
        self,
        storage: Storage,
        chunks: int,
        fingerprint: str = "",
        chunk_range: Callable[[int], tuple[int, int]] | None = None,
        folder_of: Callable[[int], str] = chunk_name,
    ) -> None:
        self._storage = storage
        self.chunks = chunks
        self._fingerprint, self._chunk_range, self._folder_of = fingerprint, chunk_range, folder_of
        self._known: set[int] = set()

    def committed(self) -> set[int]:
        """Return the numbers of all committed chunks, from one listing and from what was seen before.

        Records never go away, so a listing that lags behind takes nothing back: a worker does not repeat what it
        committed itself.
        """
        found = set()
        for info in with_retries(lambda: list(self._storage.list(COMMITS))):
            stem = info.path.removeprefix(f"{COMMITS}/").removesuffix(".json")
            if stem.isdigit():
                found.add(int(stem))
        self._known.update(found)
        return set(self._known)

    def missing(self) -> list[int]:
        """Return the chunks not yet committed, ascending."""
        done = self.committed()
        return [chunk for chunk in range(self.chunks) if chunk not in done]

    def is_committed(self, chunk: int) -> bool:
        """Return whether a chunk is committed, by whomever."""
        return with_retries(lambda: self._storage.exists(record_path(chunk)))

    def read(self, chunk: int) -> dict[str, Any]:
        """Return a chunk's record, its digest checked, and that it belongs there.

        Raises:
            ObjectNotFoundError: The chunk is not committed.
            CorruptRunError: The record is damaged, or is another chunk's or another run's.
        """
        path = record_path(chunk)
        record = unseal(with_retries(lambda: self._storage.get(path)), path)
        self.check_place(chunk, record)
        return record

    def check_place(self, chunk: int, record: Mapping[str, Any]) -> None:
        """Check that an intact record is this chunk's and this run's.

        Raises:
            CorruptRunError: It is not; the message says whose it is.
        """
        path = record_path(chunk)
        if record.get("chunk") != chunk:
            raise CorruptRunError(f"{path} is damaged: it is the record of chunk {record.get('chunk')}.")
        if (theirs := record.get("fingerprint")) != self._fingerprint:
            raise CorruptRunError(
                f"{path} is the record of a run with other settings or data: its fingerprint is {str(theirs)[:12]}, "
                f"this run's is {self._fingerprint[:12]}."
            )
        covered = (record["start"], record["stop"])
        if self._chunk_range is not None and chunk < self.chunks and covered != (own := self._chunk_range(chunk)):
            raise CorruptRunError(
                f"The record of chunk {chunk} covers samples {covered[0]}..{covered[1]}, "
                f"the grid says {own[0]}..{own[1]}."
            )

    def read_partials(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return a record's partials, still encoded, from the record or its partials file.

        Raises:
            CorruptRunError: The file does not match the digest in the record.
        """
        if "partials_file" not in record:
            partials: dict[str, Any] = record["partials"]
            return partials
        named = record["partials_file"]
        data = self.read_named(named)
        return unseal(data, named["name"])["partials"]  # type: ignore[no-any-return]

    def read_named(self, named: Mapping[str, Any]) -> bytes:
        """Return the bytes of a part or file that a record names, their size and digest checked.

        Raises:
            CorruptRunError: It is missing, or is not what was committed.
        """
        try:
            data = with_retries(lambda: self._storage.get(named["name"]))
        except ObjectNotFoundError as error:
            raise CorruptRunError(f"{named['name']} is missing, although a commit record names it.") from error
        if len(data) != named["bytes"] or sha256_hex(data) != named["sha256"]:
            raise CorruptRunError(f"{named['name']} is damaged: it is not the file that was committed.")
        return data

    def commit(self, draft: ChunkDraft) -> tuple[dict[str, Any], bool]:
        """Stage a draft's files and commit its chunk.

        Returns:
            The record that the chunk now has, and whether it is this attempt's.

        Raises:
            StorageError: Storage kept failing. Nothing is lost: the chunk is committed or it is not, and a resume
                finds out.
        """
        staged = self._stage(draft)
        path, data = record_path(draft.chunk), self._record_bytes(draft, staged)
        ours = self._create(path, data, draft.attempt)
        self._known.add(draft.chunk)
        if ours:
            return json.loads(data), True
        winner = self.read(draft.chunk)
        kept = set(named_paths(winner))
        for name in (named["name"] for group in staged.values() for named in group):
            if name not in kept:
                with_retries(lambda name=name: self._storage.delete(name))  # type: ignore[misc]
        return winner, False

    def _stage(self, draft: ChunkDraft) -> dict[str, list[dict[str, Any]]]:
        folder = self._folder_of(draft.chunk)
        staged: dict[str, list[dict[str, Any]]] = {"parts": [], "files": [], "partials_file": []}
        if draft.part is not None:
            digest = sha256_hex(draft.part)
            name = f"{PARTS}/{folder}/{digest[:32]}.{draft.extension}"
            staged["parts"].append(self._put(name, draft.part, digest, rows=draft.rows))
        if draft.files:
            digests = {path: sha256_hex(data) for path, data in sorted(draft.files.items())}
            together = sha256_hex(canonical_json(digests))[:32]
            for path, digest in digests.items():
                staged["files"].append(self._put(f"{FILES}/{folder}/{together}/{path}", draft.files[path], digest))
        if len(canonical_json(draft.partials)) > INLINE_PARTIALS_BYTES:
            data = seal({"partials": draft.partials})
            digest = sha256_hex(data)
            staged["partials_file"].append(self._put(f"{PARTS}/{folder}/{digest[:32]}.partials.json", data, digest))
        return staged

    def _put(self, name: str, data: bytes, digest: str, **facts: int) -> dict[str, Any]:
        with_retries(lambda: self._storage.put(name, data))
        return {"name": name, **facts, "bytes": len(data), "sha256": digest}

    def _record_bytes(self, draft: ChunkDraft, staged: Mapping[str, list[dict[str, Any]]]) -> bytes:
        record: dict[str, Any] = {
            "chunk": draft.chunk,
            "start": draft.start,
            "stop": draft.stop,
            "attempt": draft.attempt,
            "fingerprint": self._fingerprint,
            "parts": staged["parts"],
            "files": staged["files"],
            "reports": draft.reports,
            "quarantined": draft.quarantined,
        }
        if draft.states:
            record["states"] = draft.states
        if draft.micro_batch is not None:
            record |= {"micro_batch": draft.micro_batch, "bitwise": False}
        if staged["partials_file"]:
            record["partials_file"] = staged["partials_file"][0]
        else:
            record["partials"] = draft.partials
        return seal(record)

    def _create(self, path: str, data: bytes, attempt: str) -> bool:
        """Create a record exclusively; True if the record that is there in the end is this attempt's."""

        def create_or_settle() -> bool:
            try:
                if self._storage.put_if_absent(path, data):
                    return True
            except StorageError as error:
                # Unclear: it may have been applied. Absent means that the same bytes are tried again.
                try:
                    present = self._storage.get(path)
                except ObjectNotFoundError:
                    raise error from None
                # Visible is not yet durable: whoever created it may have failed, or died, right after that.
                self._storage.sync(COMMITS)
                return bool(unseal(present, path)["attempt"] == attempt)
            # "There already" may be the echo of our own earlier try.
            return bool(unseal(self._storage.get(path), path)["attempt"] == attempt)

        return with_retries(create_or_settle)


def named_paths(record: Mapping[str, Any]) -> Iterable[str]:
    """Yield the path of every object that a record names."""
    for named in (*record["parts"], *record["files"]):
        yield named["name"]
    if "partials_file" in record:
        yield record["partials_file"]["name"]
