import errno
import os
import socket
import stat

import pytest

from batchmill.contracts.storage import ObjectInfo
from batchmill.errors import ConfigError, StorageError
from batchmill.testing.storage_suite import StorageSuite
from batchmill_plugins.storage import _posix
from batchmill_plugins.storage._local import LocalStorage


class TestLocalStorage(StorageSuite):
    def make_storage(self, tmp_path):
        return LocalStorage(str(tmp_path / "new" / "root"))


class TestLocalStorageWithoutHardLinks(StorageSuite):
    """As on exFAT or a FUSE mount: exclusive rename takes the place of the link."""

    @pytest.fixture(autouse=True)
    def no_links(self, monkeypatch):
        def link(*_args, **_kwargs):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(_posix.os, "link", link)

    def make_storage(self, tmp_path):
        return LocalStorage((tmp_path / "ro ot").as_uri())


# --- confinement --------------------------------------------------------------------------------------------


def test_links_out_of_the_root_are_refused(tmp_path, files_below):
    outside, root = tmp_path / "root-sibling", tmp_path / "root"
    outside.mkdir()
    root.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (root / "link").symlink_to(outside)
    (root / "file").symlink_to(outside / "secret")
    storage = LocalStorage(str(root))
    for operation in (
        lambda: storage.get("link/secret"),
        lambda: storage.put("link/new", b"x"),
        lambda: storage.put_if_absent("link/new", b"x"),
        lambda: storage.delete("link/secret"),
        lambda: storage.exists("link/secret"),
        lambda: list(storage.list("link/deeper")),
        lambda: storage.list_folders("link/deeper"),
        lambda: storage.lock("link/lock"),
    ):
        with pytest.raises(StorageError, match="leads out of"):
            operation()
    for operation in (lambda: storage.get("file"), lambda: storage.put("file", b"x")):
        with pytest.raises(StorageError, match="not a regular file"):
            operation()
    assert files_below(outside) == ["secret"]
    assert (outside / "secret").read_bytes() == b"secret"
    assert list(storage.list()) == []


def test_links_inside_the_root_and_the_root_as_a_link_work(tmp_path):
    real = tmp_path / "real"
    (real / "a").mkdir(parents=True)
    (real / "latest").symlink_to("a")
    (tmp_path / "runs").symlink_to(real)
    storage = LocalStorage(str(tmp_path / "runs"))
    storage.put("latest/x", b"1")
    assert storage.get("a/x") == b"1"
    assert list(storage.list()) == [ObjectInfo("a/x", 1)]


def test_things_that_are_no_files_are_left_alone(tmp_path):
    storage = LocalStorage(str(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for name in ("pipe", "socket", "folder"):
            for operation in (storage.put, storage.put_if_absent):
                with pytest.raises(StorageError, match="not a regular file"):
                    operation(name, b"x")
            if name != "folder":
                with pytest.raises(StorageError, match="not a regular file"):
                    storage.get(name)
        assert list(storage.list()) == []
    assert stat.S_ISFIFO(os.lstat(tmp_path / "pipe").st_mode)


@pytest.mark.parametrize("name", [f".{'0' * 32}.tmp", ".x.batchmill-lock"])
def test_reserved_names_are_refused(tmp_path, name):
    with pytest.raises(StorageError, match="reserved"):
        LocalStorage(str(tmp_path)).put(f"a/{name}", b"x")


def test_files_are_readable_by_others_as_the_umask_says(tmp_path):
    storage = LocalStorage(str(tmp_path))
    before = os.umask(0o022)
    try:
        storage.put("open", b"1")
        os.umask(0o077)
        storage.put("closed", b"1")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "open").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "closed").stat().st_mode) == 0o600


# --- locks --------------------------------------------------------------------------------------------------


def test_a_lock_has_one_holder_in_a_process(tmp_path):
    one, other = LocalStorage(str(tmp_path)), LocalStorage(str(tmp_path / ".." / tmp_path.name))
    with one.lock("r/lock") as first, other.lock("r/lock") as second, other.lock("q/lock") as elsewhere:
        assert (first, second, elsewhere) == (True, False, True)
    with other.lock("r/lock") as third:
        assert third


def test_a_lock_has_one_holder_among_processes_and_falls_with_it(tmp_path, start):
    code = """
with storage.lock("lock") as held:
    print(held, flush=True)
    sys.stdin.readline()
"""
    holder = start(code, tmp_path)
    assert holder.stdout.readline() == "True\n"
    storage = LocalStorage(str(tmp_path))
    with storage.lock("lock") as held:
        assert held is False
    with storage.lock("lock") as held:
        assert held is False, "the failed try must not have broken the holder's lock"
    holder.kill()
    holder.communicate()
    with storage.lock("lock") as held:
        assert held is True


# --- roots --------------------------------------------------------------------------------------------------


def test_a_relative_root_stays_where_it_was(tmp_path, monkeypatch, files_below):
    monkeypatch.chdir(tmp_path)
    storage = LocalStorage("runs")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    storage.put("a", b"1")
    assert files_below(tmp_path) == ["runs/a"]
    assert storage.url == str(tmp_path / "runs")


def test_reading_creates_nothing(tmp_path, files_below):
    storage = LocalStorage(str(tmp_path / "runs"))
    assert list(storage.list()) == [] and storage.list_folders() == [] and not storage.exists("a")
    storage.delete("a/b")
    storage.sync("")
    assert files_below(tmp_path) == [] and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("url", ["", "s3://bucket/runs", "file://host/runs", "memory://x"])
def test_roots_that_are_no_local_folder_are_refused(url):
    with pytest.raises(ConfigError, match=r"storage=local|another host"):
        LocalStorage(url)
