"""Trying quarantined samples again: a second result beside the first, which stays as it is.

Nothing that was committed is overwritten. A retry freezes the list of chunks that hold quarantined samples in
``retries/<number>/retry.json``; those chunks are processed and committed anew below that folder, as whole chunks, and
the folder gets a ``result.json`` and ``_SUCCESS`` of its own. To the engine a retry is a run like any other: it sees
the run's storage through ``RetryView``, in which the chunks to try again are not yet committed.

So a worker of an earlier launch that wakes up late only ever touches the files of its own time.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from batchmill.contracts.storage import ObjectInfo, Storage
from batchmill.engine.commit_log import COMMITS, chunk_name, record_path
from batchmill.engine.retries import with_retries
from batchmill.engine.serialization import seal, unseal
from batchmill.errors import ObjectNotFoundError

RETRIES = "retries"
RESULT, SUCCESS = "result.json", "_SUCCESS"


@dataclass(frozen=True)
class Retry:
    """One retry of a run.

    Attributes:
        number: 1 for the first.
        chunks: Chunks that are processed again.
    """

    number: int
    chunks: frozenset[int]

    @property
    def folder(self) -> str:
        """Where its records and its result lie, relative to the run."""
        return f"{RETRIES}/{self.number:04d}"


class RetryView(Storage):
    """A run's storage as a retry sees it: its own records and result before those that it replaces.

    Args:
        below: The run's storage, or the view of the retry before.
        retry: The retry.
    """

    def __init__(self, below: Storage, retry: Retry) -> None:
        self._below, self.retry = below, retry
        self._own = {record_path(chunk) for chunk in retry.chunks} | {RESULT, SUCCESS}
        self.url = below.url
        self.exclusive_create = below.exclusive_create
        self.shared_between_processes = below.shared_between_processes

    def put(self, path: str, data: bytes) -> None:
        """See ``Storage.put``."""
        self._below.put(self._place(path), data)

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """See ``Storage.put_if_absent``."""
        return self._below.put_if_absent(self._place(path), data)

    def get(self, path: str) -> bytes:
        """See ``Storage.get``."""
        return self._below.get(self._place(path))

    def exists(self, path: str) -> bool:
        """See ``Storage.exists``."""
        return self._below.exists(self._place(path))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See ``Storage.list``; only the records are seen in another place than they lie."""
        if prefix != COMMITS:
            yield from self._below.list(prefix)
            return
        found = [info for info in self._below.list(prefix) if info.path not in self._own]
        for info in self._below.list(f"{self.retry.folder}/{COMMITS}"):
            found.append(ObjectInfo(info.path.removeprefix(f"{self.retry.folder}/"), info.size))
        yield from sorted(found, key=lambda info: info.path)

    def list_folders(self, prefix: str = "") -> builtins.list[str]:
        """See ``Storage.list_folders``."""
        return self._below.list_folders(prefix)

    def delete(self, path: str) -> None:
        """See ``Storage.delete``."""
        self._below.delete(self._place(path))

    def sync(self, prefix: str) -> None:
        """See ``Storage.sync``."""
        self._below.sync(prefix)
        if prefix == COMMITS:
            self._below.sync(f"{self.retry.folder}/{COMMITS}")

    def lock(self, path: str) -> AbstractContextManager[bool]:
        """See ``Storage.lock``."""
        return self._below.lock(path)

    def _place(self, path: str) -> str:
        return f"{self.retry.folder}/{path}" if path in self._own else path


def read_retries(storage: Storage) -> builtins.list[Retry]:
    """Return the retries of a run, in their order.

    Args:
        storage: The run's storage.

    Raises:
        CorruptRunError: A retry's list of chunks is damaged.
    """
    found: builtins.list[Retry] = []
    while True:
        path = f"{RETRIES}/{len(found) + 1:04d}/retry.json"
        try:
            data = with_retries(lambda path=path: storage.get(path))  # type: ignore[misc]
        except ObjectNotFoundError:
            return found
        found.append(Retry(len(found) + 1, frozenset(unseal(data, f"{storage.url}/{path}")["chunks"])))


def current_view(storage: Storage, *, working: bool = False) -> Storage:
    """Return a run's storage as its latest retry sees it.

    Args:
        storage: The run's storage.
        working: Whether to work on the run; readers see the latest retry that has a result.
    """
    view = storage
    for retry in read_retries(storage):
        after = RetryView(view, retry)
        if not working and not with_retries(lambda after=after: after.exists(SUCCESS)):  # type: ignore[misc]
            break
        view = after
    return view


def begin_retry(storage: Storage, number: int, chunks: builtins.list[int]) -> None:
    """Freeze the chunks of a new retry; whoever comes second finds the list of the first.

    Args:
        storage: The run's storage.
        number: Number of the retry.
        chunks: Chunks to process again.
    """
    data = seal({"chunks": sorted(chunks)})
    with_retries(lambda: storage.put_if_absent(f"{RETRIES}/{number:04d}/retry.json", data))


def staging_folder(storage: Storage, chunk: int) -> str:
    """Return the folder below ``parts/`` and ``files/`` in which attempts at a chunk are staged.

    A retry has its own. In one folder, equal bytes would have one name, and a worker of an earlier launch that wakes up
    late, loses, and deletes what it has staged would delete what the retry has committed.

    Args:
        storage: The run's storage, or the view of a retry.
        chunk: The chunk.
    """
    while isinstance(storage, RetryView):
        if chunk in storage.retry.chunks:
            return f"{chunk_name(chunk)}.retry-{storage.retry.number:04d}"
        storage = storage._below
    return chunk_name(chunk)


def stored_path(storage: Storage, path: str) -> str:
    """Return where an object that a view names lies in the run's own storage.

    Args:
        storage: The run's storage, or the view of a retry.
        path: The object's path in it.
    """
    while isinstance(storage, RetryView):
        path, storage = storage._place(path), storage._below
    return path


def view_below(storage: Storage) -> Storage | None:
    """Return what the latest retry of a view replaces; None for the run's own storage."""
    return storage._below if isinstance(storage, RetryView) else None


def retried_chunks(storage: Storage) -> int:
    """Return how many chunks the retries up to a view have processed again."""
    count = 0
    while isinstance(storage, RetryView):
        count += len(storage.retry.chunks)
        storage = storage._below
    return count
