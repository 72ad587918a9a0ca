import errno
import os
import socket
import stat
from types import SimpleNamespace

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


@pytest.fixture
def umask():
    """Set the umask; it is put back."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mode", ["auto", "private"])
@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_a_new_root_is_its_owner_s_alone(tmp_path, umask, mode, mask):
    umask(mask)
    storage = LocalStorage(str(tmp_path / "above" / "run"), mode=mode)
    storage.put("a/b", b"1")
    storage.put_if_absent("c", b"1")
    with storage.lock("d") as held:
        assert held
    root = tmp_path / "above" / "run"
    assert mode_of(tmp_path / "above") == 0o777 & ~mask, "what is above the root is not ours"
    assert {mode_of(path) for path in (root, root / "a")} == {0o700}
    assert {mode_of(path) for path in root.rglob("*") if path.is_file()} == {0o600}
    assert len([path for path in root.rglob("*") if path.is_file()]) == 3


@pytest.mark.parametrize("mask", [0o002, 0o027, 0o077])
def test_the_umask_decides_where_it_is_asked_to(tmp_path, umask, mask):
    umask(mask)
    LocalStorage(str(tmp_path / "run"), mode="umask").put("a/b", b"1")
    assert mode_of(tmp_path / "run") == mode_of(tmp_path / "run" / "a") == 0o777 & ~mask
    assert mode_of(tmp_path / "run" / "a" / "b") == 0o666 & ~mask


@pytest.mark.parametrize(
    ("above", "own_group", "private"),
    [
        (0o770, False, False),
        (0o770, True, True),
        (0o2775, True, False),
        (0o2775, False, False),
        (0o755, False, True),
        (0o1777, False, True),
    ],
)
def test_a_folder_that_a_group_works_in_is_shared(tmp_path, umask, monkeypatch, above, own_group, private):
    umask(0o007)
    monkeypatch.setattr(_posix, "_is_own_group", lambda gid: own_group)
    folder = tmp_path / "team"
    folder.mkdir()
    folder.chmod(above)
    LocalStorage(str(folder / "runs" / "run")).put("a", b"1")
    assert mode_of(folder / "runs" / "run") & 0o777 == (0o700 if private else 0o770)
    assert mode_of(folder / "runs" / "run" / "a") == (0o600 if private else 0o660)


def test_a_group_is_one_s_own_if_nobody_else_is_in_it(monkeypatch):
    def of(name, members):
        monkeypatch.setattr(_posix.grp, "getgrgid", lambda gid: SimpleNamespace(gr_name=name, gr_mem=members))
        monkeypatch.setattr(_posix.pwd, "getpwuid", lambda uid: SimpleNamespace(pw_name="me"))
        return _posix._is_own_group(1000)

    assert of("me", []) and of("me", ["me"])
    assert not of("me", ["you"]) and not of("team", []) and not of("team", ["me"])


def test_files_follow_the_folder_whoever_writes_them(tmp_path, umask):
    """A run's folder is opened again without its settings, as by a supervisor or a repair."""
    umask(0o022)
    for name, folder, file in (("open", 0o755, 0o644), ("closed", 0o700, 0o600)):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(folder)
        for mode in ("auto", "private", "umask"):
            storage = LocalStorage(str(tmp_path / name), mode=mode)
            storage.put(f"{mode}/x", b"1")
            with storage.lock(f"{mode}.lock"):
                pass
        assert {mode_of(path) for path in (tmp_path / name).rglob("*") if path.is_file()} == {file}
        assert {mode_of(path) for path in (tmp_path / name).rglob("*") if path.is_dir()} == {folder}


def test_a_mode_that_is_none_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="'0600'; expected auto, private, umask"):
        LocalStorage(str(tmp_path), mode="0600")


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
