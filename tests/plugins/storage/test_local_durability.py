import errno
import gc
import os
import re
import shutil
import signal
import threading
import time

import pytest

from batchmill.errors import StorageError, StorageFullError
from batchmill_plugins.storage import _new_files, _posix
from batchmill_plugins.storage._local import LocalStorage


@pytest.fixture
def system_calls(monkeypatch):
    """Record writes, fsyncs, renames and links, with the path behind each descriptor."""
    calls = []

    def spy(name, describe):
        original = getattr(os, name)

        def call(*args, **kwargs):
            calls.append((name, *describe(*args, **kwargs)))
            return original(*args, **kwargs)

        monkeypatch.setattr(os, name, call)

    def path_of(descriptor):
        return os.readlink(f"/proc/self/fd/{descriptor}")

    def full(directory, name):
        return name if directory is None else os.path.join(path_of(directory), name)

    spy("write", lambda descriptor, _: [path_of(descriptor)])
    spy("fsync", lambda descriptor: [path_of(descriptor)])
    spy("rename", lambda source, target: [source, target])
    spy("link", lambda source, target, dst_dir_fd=None, **_: [os.path.realpath(source), full(dst_dir_fd, target)])
    spy("mkdir", lambda path, *_: [str(path)])
    return calls


@pytest.fixture(params=["without a name", "with a temporary name"])
def new_files(request, monkeypatch):
    """Where the system has files without names they are used, and elsewhere it works without."""
    if request.param == "with a temporary name":
        monkeypatch.delattr(_new_files.os, "O_TMPFILE")


@pytest.mark.parametrize("operation", ["put", "put_if_absent"])
def test_the_order_of_system_calls_makes_an_object_durable(tmp_path, system_calls, new_files, operation):
    root, folder = tmp_path / "runs", tmp_path / "runs" / "r" / "commits"
    getattr(LocalStorage(str(root)), operation)("r/commits/0.json", b"record")
    publish = "rename" if operation == "put" else "link"
    at = next(number for number, call in enumerate(system_calls) if call[0] == publish)
    staged, target = system_calls[at][1:]
    assert target == str(folder / "0.json")
    assert os.path.dirname(staged.split(" ")[0]) in (str(folder), "/"), "a rename is atomic within one file system only"
    assert [call[0] for call in system_calls[at - 2 : at]] == ["write", "fsync"]
    assert system_calls[at - 2][1] == system_calls[at - 1][1]
    made = [call[1] for call in system_calls[:at] if call[0] == "mkdir"]
    assert made == [str(root), str(root / "r"), str(folder)]
    assert system_calls[at + 1] == ("fsync", str(folder))
    # Others may rely on what was created at once, so the names on the way come before; on what was put when it returns.
    names = system_calls[: at - 2] if operation == "put_if_absent" else system_calls[at + 2 :]
    synced = {call[1] for call in names if call[0] == "fsync"}
    assert synced == {str(root / "r"), str(root), str(tmp_path), *on_same_device(tmp_path)}


def test_a_folder_directly_below_the_root_is_opened_once(tmp_path, monkeypatch):
    """Records are created one after another in the same folder: as few calls as can be."""
    storage = LocalStorage(str(tmp_path))
    storage.put_if_absent("commits/0", b"1")
    calls = []
    for name in ("open", "write", "fsync", "link", "close", "lstat", "stat", "mkdir", "unlink"):
        original = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, _n=name, _o=original, **k: (calls.append(_n), _o(*a, **k))[1])
    storage.put_if_absent("commits/1", b"1")
    assert calls == ["open", "write", "fsync", "link", "close", "fsync"]


def test_a_folder_that_was_removed_and_made_anew_is_found(tmp_path):
    storage = LocalStorage(str(tmp_path))
    for number in range(3):
        assert storage.put_if_absent("commits/0", b"%d" % number)
        (tmp_path / "commits").rename(tmp_path / f"old-{number}")
        shutil.rmtree(tmp_path / f"old-{number}")
        if number:
            (tmp_path / "commits").mkdir()
    assert storage.list_folders() == []


def test_descriptors_of_folders_are_few_and_closed(tmp_path):
    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    gc.collect()
    before = descriptors()
    storage = LocalStorage(str(tmp_path))
    for number in range(20):
        storage.put_if_absent(f"folder-{number}/0", b"1")
        storage.put_if_absent(f"deep/{number}/0", b"1")
    assert descriptors() <= before + 4
    del storage
    gc.collect()
    assert descriptors() == before


def on_same_device(folder):
    """Return the folders above ``folder`` that hold a name of its path, up to the mount point."""
    device = os.lstat(folder).st_dev
    return [str(parent) for parent in folder.parents if os.lstat(parent).st_dev == device]


def test_the_path_to_the_root_is_synced_too_whoever_made_it(tmp_path, system_calls):
    """A launcher may die between making ``out/runs/r`` and its fsync; the next one finds all of it there."""
    root = tmp_path / "out" / "runs" / "r"
    root.mkdir(parents=True)
    system_calls.clear()
    storage = LocalStorage(str(root))
    storage.put("run.json", b"1")
    above = [str(tmp_path / "out" / "runs"), str(tmp_path / "out"), str(tmp_path), *on_same_device(tmp_path)]
    assert [call[1] for call in system_calls if call[0] == "fsync" and call[1] in above] == above
    system_calls.clear()
    storage.put("commits/0", b"1")
    assert not [call for call in system_calls if call[0] == "fsync" and call[1] in above], "once is enough"


def test_a_folder_above_the_root_that_may_not_be_read_is_passed_over(tmp_path, monkeypatch):
    root = tmp_path / "out" / "runs"
    root.mkdir(parents=True)
    sync_folder = _posix.sync_folder

    def refuse(folder):
        if folder == str(tmp_path):
            raise PermissionError(errno.EACCES, "permission denied", folder)
        sync_folder(folder)

    monkeypatch.setattr(_posix, "sync_folder", refuse)
    LocalStorage(str(root)).put("a", b"1")
    assert (root / "a").read_bytes() == b"1"


def test_names_of_folders_made_by_others_are_synced_too(tmp_path, system_calls):
    folder = tmp_path / "parts" / "7"
    folder.mkdir(parents=True)
    system_calls.clear()
    storage = LocalStorage(str(tmp_path))
    storage.put("parts/7/x", b"1")
    assert {("fsync", str(tmp_path)), ("fsync", str(tmp_path / "parts")), ("fsync", str(folder))} <= set(system_calls)
    system_calls.clear()
    storage.put("parts/7/y", b"1")
    again = [call[1] for call in system_calls if call[0] == "fsync"][1:]
    assert again == [str(folder), str(tmp_path / "parts")], (
        "but a folder right below the root stays, once it is durable"
    )


def test_folders_right_below_the_root_are_never_removed(tmp_path):
    """That their names are durable is remembered: one who removed and remade them could die before his fsync."""
    storage = LocalStorage(str(tmp_path))
    storage.put("parts/7/x", b"1")
    storage.delete("parts/7/x")
    assert [path.name for path in tmp_path.iterdir()] == ["parts"]
    assert storage.list_folders() == []


def test_a_lost_race_leaves_the_winner_durable_and_no_temporary_file(tmp_path, system_calls, files_below):
    storage = LocalStorage(str(tmp_path))
    (tmp_path / "a").write_bytes(b"winner")
    assert storage.put_if_absent("a", b"loser") is False
    assert system_calls[-1] == ("fsync", str(tmp_path))
    assert files_below(tmp_path) == ["a"]


def test_sync_reaches_every_folder(tmp_path, system_calls):
    storage = LocalStorage(str(tmp_path))
    for path in ("commits/0", "parts/1/x", "parts/2/x"):
        storage.put(path, b"1")
    system_calls.clear()
    storage.sync("parts")
    assert sorted(system_calls) == [("fsync", str(tmp_path / folder)) for folder in ("parts", "parts/1", "parts/2")]


def test_a_lost_answer_to_a_link_is_recognised(tmp_path, monkeypatch, new_files, files_below):
    """NFS repeats a request whose answer was lost; the repetition finds the name taken, by ourselves."""
    real = os.link

    def link_twice(source, target, **options):
        real(source, target, **options)
        real(source, target, **options)

    monkeypatch.setattr(os, "link", link_twice)
    assert LocalStorage(str(tmp_path)).put_if_absent("a", b"1") is True
    assert files_below(tmp_path) == ["a"]


def test_a_file_system_without_exclusive_creation_is_refused(tmp_path, monkeypatch, files_below):
    def link(*_args, **_options):
        raise OSError(errno.ENOTSUP, "not supported")

    class Library:
        renameat2 = staticmethod(lambda *_args: -1)

    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(_new_files.ctypes, "CDLL", lambda *_args, **_kwargs: Library)
    monkeypatch.setattr(_new_files.ctypes, "get_errno", lambda: errno.EINVAL)
    with pytest.raises(StorageError, match=r"neither hard links nor exclusive rename.*another file system"):
        LocalStorage(str(tmp_path)).put_if_absent("a", b"1")
    assert files_below(tmp_path) == []


def test_killed_writers_leave_no_visible_part(tmp_path, start, files_below):
    """SIGKILL in the middle of large puts, ten times: whole objects or none, and later writers go on."""
    code = """
import itertools
for number in itertools.count():
    payload = bytes([number % 256]) * 3_000_000
    storage.put(f"parts/{number % 5}", payload)
    storage.put_if_absent(f"commits/{sys.argv[2]}-{number}", payload)
    print(number, flush=True)
"""
    storage = LocalStorage(str(tmp_path))
    for attempt in range(10):
        process = start(code, tmp_path, attempt)
        process.stdout.readline()
        time.sleep(0.003 * attempt)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    visible = list(storage.list())
    assert len(visible) >= 11
    for info in visible:
        data = storage.get(info.path)
        assert len(data) == info.size == 3_000_000
        assert data == data[:1] * len(data), info.path
    hidden = set(files_below(tmp_path)) - {info.path for info in visible}
    assert hidden, "no kill hit a write: the test shows nothing; make the payload larger"
    assert all(_posix.is_hidden(os.path.basename(name)) for name in hidden)
    storage.put("parts/0", b"after")
    assert storage.get("parts/0") == b"after"


def test_processes_racing_for_keys_have_one_winner_each(tmp_path, start, files_below):
    code = """
import time
sys.stdin.readline()
for key in range(100):
    if storage.put_if_absent(f"commits/{key}", sys.argv[2].encode()):
        print(key)
"""
    processes = [start(code, tmp_path, me) for me in range(5)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    won = {me: process.communicate(timeout=60)[0].split() for me, process in enumerate(processes)}
    assert [process.returncode for process in processes] == [0] * 5
    assert sorted(int(key) for keys in won.values() for key in keys) == list(range(100))
    storage = LocalStorage(str(tmp_path))
    for me, keys in won.items():
        assert all(storage.get(f"commits/{key}") == str(me).encode() for key in keys)
    assert len(files_below(tmp_path)) == 100


def test_writers_and_deleters_of_one_folder_do_not_fail(tmp_path, start, files_below):
    """A delete removes the emptied folder while another thread is about to write into it."""
    errors = []

    def work(me):
        storage = LocalStorage(str(tmp_path))
        try:
            for number in range(100):
                storage.put(f"a/b/{me}", str(number).encode())
                assert storage.get(f"a/b/{me}") == str(number).encode()
                storage.delete(f"a/b/{me}")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(me,)) for me in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert errors == []
    assert files_below(tmp_path) == []


# --- failing disks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["put", "put_if_absent"])
@pytest.mark.parametrize("function", ["write", "fsync"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_failing_disk_is_named_and_leaves_nothing(tmp_path, monkeypatch, operation, function, code, files_below):
    storage = LocalStorage(str(tmp_path))
    storage.put("parts/old", b"old")

    def fail(*_args):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, function, fail)
        with pytest.raises(StorageError) as caught:
            getattr(storage, operation)("parts/x", b"data")
    message = str(caught.value)
    assert str(tmp_path / "parts/x") in message
    assert errno.errorcode[code] in message
    assert ("Free some space" in message) == (code != errno.EIO) == isinstance(caught.value, StorageFullError)
    assert (re.search(r"[\d,]+ bytes and [\d,]+ files are free there", message) is not None) == (code != errno.EIO)
    assert files_below(tmp_path) == ["parts/old"]
    assert storage.put_if_absent("parts/x", b"data") is True


def test_a_real_size_limit_stops_a_write_cleanly(tmp_path, start, files_below):
    code = """
import resource
import batchmill
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
storage.put("fits", b"x" * 100_000)
for operation in (storage.put, storage.put_if_absent):
    try:
        operation("large", b"x" * 100_001)
    except batchmill.StorageError as error:
        print(error)
"""
    process = start(code, tmp_path)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert output.count("EFBIG") == output.count(f"{tmp_path}/large") == 2
    assert output.count("larger than the 100,000 bytes allowed. Raise the limit (ulimit -f)") == 2
    assert files_below(tmp_path) == ["fits"]


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"Could not write .*file/run/run\.json.*ENOTDIR"):
        LocalStorage(str(tmp_path / "file" / "run")).put("run.json", b"1")
    storage = LocalStorage(str(tmp_path))
    with pytest.raises(StorageError, match="ENOTDIR"):
        storage.put("file/below", b"1")
    assert not storage.exists("file/below")
