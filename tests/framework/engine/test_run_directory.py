import dataclasses
import json
import threading
from pathlib import Path

import pytest

from batchmill import ConfigError, ConfigMismatchError, CorruptRunError, RunNotFoundError, StorageError
from batchmill.engine.grid import Grid
from batchmill.engine.run_directory import (
    MANIFEST,
    RESULT,
    check_run_id,
    join_url,
    local_directory,
    open_existing,
    open_or_create,
)
from batchmill.engine.serialization import seal
from batchmill_plugins.storage._local import LocalStorage
from batchmill_plugins.storage._memory import MemoryStorage

pytestmark = pytest.mark.usefixtures("quick_retries")

FACTS = {"batch_size": 10, "seed": 0, "shape": (2, 3)}
GRID = Grid(95, 10, 2)


def create(storage, facts=FACTS, grid=GRID):
    return open_or_create(storage, "digits", facts=facts, grid=grid, config={"asked": 1}, versions={"torch": "2"})


def test_the_first_to_open_freezes_the_manifest(storage):
    run = create(storage)
    manifest = json.loads(storage.get(MANIFEST))
    assert (run.run_id, run.path, run.grid) == ("digits", storage.url, GRID)
    assert {key: manifest[key] for key in ("format", "run_id", "samples", "batch_size", "chunk_batches")} == {
        "format": 1,
        "run_id": "digits",
        "samples": 95,
        "batch_size": 10,
        "chunk_batches": 2,
    }
    assert manifest["fingerprint"]["covers"] == {"batch_size": 10, "seed": 0, "shape": [2, 3]}
    assert manifest["config"] == {"asked": 1} and manifest["versions"] == {"torch": "2"}
    assert run.log.missing() == [0, 1, 2, 3, 4]


def test_the_frozen_grid_wins_over_the_one_that_a_resume_would_choose(storage):
    create(storage)
    before = storage.get(MANIFEST)
    assert create(storage, grid=Grid(95, 10, 1)).grid == GRID
    assert storage.get(MANIFEST) == before


def test_other_facts_are_refused_with_a_list_of_what_differs(storage):
    create(storage)
    with pytest.raises(ConfigMismatchError) as caught:
        create(storage, facts={"batch_size": 20, "seed": 0, "extra": "x"})
    assert caught.value.differences == {"batch_size": (10, 20), "shape": ([2, 3], None), "extra": (None, "x")}
    assert caught.value.exit_code == 78
    assert "batch_size: 10 in the run, 20 now" in str(caught.value)


def test_all_who_open_at_once_see_one_manifest(storage):
    grids, barrier = [], threading.Barrier(8)

    def work(k):
        barrier.wait()
        grids.append(create(storage, grid=Grid(95, 10, k)).grid)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(grids) == 8 and len(set(grids)) == 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_unclear_answer_still_opens_one_run(storage, when):
    storage.fail("put_if_absent", when)
    assert create(storage).grid == GRID
    assert storage.failures_left == 0


def test_a_full_disk_is_a_storage_error(storage):
    storage.fail("put_if_absent", "before", 100, StorageError("No space left on device"))
    with pytest.raises(StorageError, match="No space left"):
        create(storage)


def test_opening_what_is_not_there_says_where(storage):
    with pytest.raises(RunNotFoundError, match=r"There is no run at memory://.*no run\.json"):
        open_existing(storage)


def test_a_damaged_manifest_is_refused(storage):
    create(storage)
    data = storage.get(MANIFEST)
    storage.put(MANIFEST, data.replace(b'"samples": 95', b'"samples": 94'))
    with pytest.raises(CorruptRunError, match=r"run\.json is damaged"):
        open_existing(storage)


def test_a_later_format_is_refused(storage):
    create(storage)
    manifest = json.loads(storage.get(MANIFEST))
    del manifest["sha256"]
    storage.put(MANIFEST, seal({**manifest, "format": 2}))
    with pytest.raises(CorruptRunError, match="has format 2; this version of Batchmill reads format 1"):
        open_existing(storage)


def test_a_sealed_document_that_is_no_manifest_is_refused(storage):
    storage.put(MANIFEST, seal({"something": "else"}))
    with pytest.raises(CorruptRunError, match="is damaged: it is another document, without format"):
        open_existing(storage)


def test_no_result_yet_is_none(storage):
    assert create(storage).read_result() is None


def test_a_result_is_read_as_it_is(storage):
    storage.put(RESULT, seal({"complete": True, "samples": 95}))
    found = create(storage).read_result()
    assert (found["complete"], found["samples"]) == (True, 95)


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"complete":true}', seal({"samples": 95}).replace(b"95", b"94")])
def test_a_damaged_result_is_refused(storage, data):
    run = create(storage)
    storage.put(RESULT, data)
    with pytest.raises(CorruptRunError, match=r"result\.json is damaged"):
        run.read_result()


@pytest.mark.parametrize("run_id", ["a", "2026-01-01.x_y", "A" * 128, "..a"])
def test_a_run_id_is_a_safe_file_name(run_id):
    assert check_run_id(run_id) == run_id


@pytest.mark.parametrize("run_id", ["", ".", "..", "a/b", "a b", "ü", "a\n", "A" * 129, "../x", "a\0"])
def test_other_run_ids_are_refused(run_id):
    with pytest.raises(ConfigError, match="cannot name a run"):
        check_run_id(run_id)


@pytest.mark.parametrize(
    ("base", "expected"), [("runs", "runs/x"), ("runs/", "runs/x"), ("/", "/x"), ("s3://b/p", "s3://b/p/x")]
)
def test_a_run_lies_below_its_output(base, expected):
    assert join_url(base, "x") == expected


def test_local_files_of_a_run_elsewhere_go_to_a_folder_of_the_user(storage, tmp_path):
    """Not below /tmp, where anybody could have put a link in their place; and apart for equal names elsewhere."""
    run = create(storage)
    here = dataclasses.replace(run, storage=LocalStorage(str(tmp_path / "digits")))
    assert local_directory(here) == tmp_path / "digits"
    one = local_directory(run, {"XDG_CACHE_HOME": str(tmp_path)})
    other = local_directory(dataclasses.replace(run, storage=MemoryStorage("memory://b/digits")), {})
    assert one.parent == tmp_path / "batchmill" and other.parent == Path.home() / ".cache" / "batchmill"
    assert one.name.startswith("digits-") and other.name.startswith("digits-") and one.name != other.name
    assert local_directory(run, {"XDG_CACHE_HOME": "relative"}).parent == other.parent
