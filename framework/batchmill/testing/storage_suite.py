"""The suite that every storage component passes: what the commit protocol rests on.

Make a test class of it beside your component::

    from batchmill.testing.storage_suite import StorageSuite

    class TestMyStorage(StorageSuite):
        def make_storage(self, tmp_path):
            return MyStorage(f"my://{tmp_path.name}")
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from batchmill.contracts.storage import ObjectInfo, Storage
from batchmill.errors import ObjectNotFoundError, StorageError

HOSTILE_PATHS = (
    "",
    "/",
    "/etc/passwd",
    "..",
    "../outside",
    "a/../../outside",
    "a/..",
    "a/./b",
    ".",
    "a//b",
    "a/",
    "nul\0byte",
    "lone\ud800surrogate",
)
ODD_BUT_FINE_PATHS = (
    "sp ace",
    "100%",
    "a#b",
    "ünï/cödé",
    "q?x=1&y=2",
    "..dots",
    "a...b",
    "~",
    "[x]{y}*",
    ".hidden",
)
THREADS = 8


class StorageSuite(ABC):
    """Tests of the words in ``batchmill.Storage``. A subclass gives ``make_storage``."""

    @abstractmethod
    def make_storage(self, tmp_path: Path) -> Storage:
        """Return an empty storage of its own for each ``tmp_path``, and the same one for the same path."""

    def test_get_returns_what_put_stored(self, tmp_path: Path) -> None:
        """Bytes come back unchanged, the empty and the large ones too."""
        storage = self.make_storage(tmp_path)
        for path, data in (("empty", b""), ("a/b/c.bin", bytes(range(256))), ("big", os.urandom(6_000_000))):
            storage.put(path, data)
            assert storage.get(path) == data
            assert storage.exists(path)

    def test_put_replaces(self, tmp_path: Path) -> None:
        """The second of two puts stands, also when it is shorter."""
        storage = self.make_storage(tmp_path)
        storage.put("a", b"the longer one")
        storage.put("a", b"short")
        assert storage.get("a") == b"short"
        assert list(storage.list()) == [ObjectInfo("a", 5)]

    def test_put_if_absent_keeps_the_first(self, tmp_path: Path) -> None:
        """It says who created the object and changes nothing that exists, however that came to be."""
        storage = self.make_storage(tmp_path)
        assert storage.put_if_absent("commits/0.json", b"first") is True
        assert storage.put_if_absent("commits/0.json", b"second") is False
        assert storage.get("commits/0.json") == b"first"
        storage.put("commits/1.json", b"put")
        assert storage.put_if_absent("commits/1.json", b"late") is False
        assert storage.get("commits/1.json") == b"put"
        assert storage.put_if_absent("empty", b"") is True
        assert storage.put_if_absent("empty", b"x") is False
        assert storage.get("empty") == b""

    def test_put_if_absent_is_free_again_after_delete(self, tmp_path: Path) -> None:
        """A deleted object is absent."""
        storage = self.make_storage(tmp_path)
        assert storage.put_if_absent("a", b"1")
        storage.delete("a")
        assert storage.put_if_absent("a", b"2")
        assert storage.get("a") == b"2"

    def test_put_if_absent_has_one_winner_among_threads(self, tmp_path: Path) -> None:
        """Of many writers of one key exactly one wins, and its bytes stay."""
        assert self.make_storage(tmp_path).exclusive_create
        barrier = threading.Barrier(THREADS)

        def write(me: int) -> list[bool]:
            storage = self.make_storage(tmp_path)
            won = []
            for key in range(20):
                barrier.wait(timeout=30)
                won.append(storage.put_if_absent(f"commits/{key}.json", f"writer {me}".encode()))
            return won

        with ThreadPoolExecutor(THREADS) as pool:
            answers = list(pool.map(write, range(THREADS)))
        storage = self.make_storage(tmp_path)
        for key in range(20):
            winners = [me for me in range(THREADS) if answers[me][key]]
            assert len(winners) == 1, f"key {key} was won by writers {winners}"
            assert storage.get(f"commits/{key}.json") == f"writer {winners[0]}".encode()

    def test_list_is_sorted_and_recursive(self, tmp_path: Path) -> None:
        """All objects, with sizes, in the order of their whole paths."""
        storage = self.make_storage(tmp_path)
        paths = ["b", "a/b/c", "a-b", "a/c", "a.b", "a0", "z/9", "z/10", "Z"]
        for path in paths:
            storage.put(path, path.encode())
        assert list(storage.list()) == [ObjectInfo(path, len(path)) for path in sorted(paths)]

    def test_list_takes_a_folder_not_a_string_prefix(self, tmp_path: Path) -> None:
        """``a`` means what is below the folder ``a``: neither ``ab/x`` nor the object ``a1``."""
        storage = self.make_storage(tmp_path)
        for path in ("a/x", "a/y/z", "ab/x", "a1"):
            storage.put(path, b"1")
        for prefix in ("a", "a/"):
            assert [info.path for info in storage.list(prefix)] == ["a/x", "a/y/z"]
        assert [info.path for info in storage.list("a/y")] == ["a/y/z"]
        assert list(storage.list("nothing/here")) == []

    def test_list_of_an_empty_storage(self, tmp_path: Path) -> None:
        """A root that nobody has written to is empty, not an error."""
        storage = self.make_storage(tmp_path)
        assert list(storage.list()) == []
        assert storage.list_folders() == []

    def test_list_folders(self, tmp_path: Path) -> None:
        """Names of the folders directly below, without objects and deeper folders."""
        storage = self.make_storage(tmp_path)
        for path in ("run2/run.json", "run1/commits/0.json", "run1/commits/1.json", "run10/x/y/z", "file"):
            storage.put(path, b"1")
        assert storage.list_folders() == ["run1", "run10", "run2"]
        assert storage.list_folders("run1") == ["commits"]
        assert storage.list_folders("run10/x/") == ["y"]
        assert storage.list_folders("run1/commits") == []
        assert storage.list_folders("absent") == []

    def test_a_folder_is_gone_with_its_last_object(self, tmp_path: Path) -> None:
        """Folders are names only: none is left without objects."""
        storage = self.make_storage(tmp_path)
        storage.put("a/b/c", b"1")
        storage.delete("a/b/c")
        assert storage.list_folders() == []
        assert list(storage.list()) == []
        storage.put("a/b/c", b"2")
        assert storage.get("a/b/c") == b"2"

    def test_delete_twice(self, tmp_path: Path) -> None:
        """Deleting what is not there does nothing."""
        storage = self.make_storage(tmp_path)
        storage.put("a/b", b"1")
        storage.put("a/c", b"2")
        storage.delete("a/b")
        storage.delete("a/b")
        storage.delete("never/was")
        assert not storage.exists("a/b")
        assert storage.get("a/c") == b"2"

    def test_missing_objects(self, tmp_path: Path) -> None:
        """What is not there is told apart from every other failure; a folder is no object."""
        storage = self.make_storage(tmp_path)
        storage.put("a/b", b"1")
        for path in ("nope", "a/nope", "no/pe", "a"):
            assert not storage.exists(path)
            with pytest.raises(ObjectNotFoundError, match=path):
                storage.get(path)

    @pytest.mark.parametrize("path", HOSTILE_PATHS, ids=ascii)
    def test_hostile_paths_are_refused(self, tmp_path: Path, path: str) -> None:
        """No operation takes a path that could leave the root or that stores read differently."""
        storage = self.make_storage(tmp_path / "root")
        operations: list[Callable[[], object]] = [
            lambda: storage.put(path, b"x"),
            lambda: storage.put_if_absent(path, b"x"),
            lambda: storage.get(path),
            lambda: storage.exists(path),
            lambda: storage.delete(path),
        ]
        if path not in ("", "a/"):  # the root, and a folder written with its slash
            operations += [lambda: list(storage.list(path)), lambda: storage.list_folders(path)]
        for operation in operations:
            with pytest.raises(StorageError) as caught:
                operation()
            assert not isinstance(caught.value, ObjectNotFoundError)
        assert list(storage.list()) == []
        assert not (tmp_path / "outside").exists()

    @pytest.mark.parametrize("path", ODD_BUT_FINE_PATHS)
    def test_odd_paths_come_back_as_they_were(self, tmp_path: Path, path: str) -> None:
        """Names that need quoting in URLs and shells are stored and listed unchanged."""
        storage = self.make_storage(tmp_path)
        storage.put(f"folder/{path}", b"1")
        assert storage.put_if_absent(f"folder/{path}", b"2") is False
        assert storage.get(f"folder/{path}") == b"1"
        assert [info.path for info in storage.list("folder")] == [f"folder/{path}"]
        storage.delete(f"folder/{path}")
        assert list(storage.list()) == []

    def test_a_reused_buffer_is_not_aliased(self, tmp_path: Path) -> None:
        """The caller may change its buffer as soon as the call returns."""
        storage = self.make_storage(tmp_path)
        buffer = bytearray(b"a" * 100_000)
        storage.put("put", buffer)  # type: ignore[arg-type, unused-ignore]
        storage.put_if_absent("created", buffer)  # type: ignore[arg-type, unused-ignore]
        buffer[:] = b"b" * 100_000
        assert storage.get("put") == b"a" * 100_000
        assert storage.get("created") == b"a" * 100_000

    def test_readers_never_see_a_part(self, tmp_path: Path) -> None:
        """While one object is replaced over and over, every read is one of the whole versions."""
        storage = self.make_storage(tmp_path)
        versions = [bytes([number]) * 300_000 for number in range(4)]
        storage.put("a", versions[0])
        done = threading.Event()

        def read(_: int) -> int:
            own, reads = self.make_storage(tmp_path), 0
            while not done.is_set() or reads == 0:
                assert own.get("a") in versions
                assert [info.size for info in own.list()] == [300_000]
                reads += 1
            return reads

        with ThreadPoolExecutor(3) as pool:
            readers = [pool.submit(read, number) for number in range(3)]
            try:
                for number in range(60):
                    storage.put("a", versions[number % 4])
            finally:
                done.set()
            assert all(reader.result(timeout=30) > 0 for reader in readers)

    def test_sync_changes_nothing(self, tmp_path: Path) -> None:
        """It may be called at any time, for any folder, there or not."""
        storage = self.make_storage(tmp_path)
        storage.sync("")
        storage.sync("commits")
        storage.put("commits/0.json", b"1")
        storage.sync("commits")
        storage.sync("")
        assert list(storage.list()) == [ObjectInfo("commits/0.json", 1)]

    def test_lock_is_a_context_manager_and_not_an_object(self, tmp_path: Path) -> None:
        """A free lock is had, is had again after its end, and is not listed."""
        storage = self.make_storage(tmp_path)
        for _ in range(2):
            with storage.lock("run/lock") as held:
                assert held is True
        with pytest.raises(KeyError), storage.lock("run/lock"):
            raise KeyError("the body failed")
        with storage.lock("run/lock") as held:
            assert held is True
        assert list(storage.list()) == []
        assert storage.list_folders() == []

    def test_another_object_of_the_same_url_sees_the_same(self, tmp_path: Path) -> None:
        """Storage objects keep no state of their own."""
        one, other = self.make_storage(tmp_path), self.make_storage(tmp_path)
        one.put("a", b"1")
        assert other.get("a") == b"1"
        assert other.put_if_absent("a", b"2") is False
        other.delete("a")
        assert not one.exists("a")
        assert one.url == other.url
