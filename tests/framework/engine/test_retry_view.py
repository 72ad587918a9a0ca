import dataclasses

import pytest

from batchmill import CorruptRunError
from batchmill.engine.commit_log import ChunkDraft, CommitLog
from batchmill.engine.retry_view import (
    Retry,
    RetryView,
    begin_retry,
    current_view,
    read_retries,
    retried_chunks,
    staging_folder,
)
from batchmill.testing.storage_suite import StorageSuite
from batchmill_plugins.storage._local import LocalStorage


class TestRetryView(StorageSuite):
    """A view keeps every promise of the storage below it."""

    def make_storage(self, tmp_path):
        return RetryView(LocalStorage(str(tmp_path / "run")), Retry(1, frozenset({0, 3})))


def commit(storage, chunk, attempt):
    return CommitLog(storage, 4).commit(ChunkDraft(chunk, chunk * 10, chunk * 10 + 10, attempt))


@pytest.fixture
def tried(storage):
    """A run of four chunks, of which two are to be processed again."""
    for chunk in range(4):
        commit(storage, chunk, f"first-{chunk}")
    storage.put("result.json", b"the first result")
    storage.put("_SUCCESS", b"first")
    begin_retry(storage, 1, [3, 1])
    return storage


def test_the_chunks_of_a_retry_are_not_committed_yet(tried):
    view = current_view(tried, working=True)
    log = CommitLog(view, 4)
    assert log.missing() == [1, 3] and not log.is_committed(1) and log.is_committed(0)
    assert log.read(0)["attempt"] == "first-0"
    assert not view.exists("result.json") and not view.exists("_SUCCESS")


def test_what_a_retry_commits_lies_beside_what_was_there(tried):
    view = current_view(tried, working=True)
    record, ours = commit(view, 1, "second-1")
    assert ours and record["attempt"] == "second-1"
    assert CommitLog(view, 4).read(1)["attempt"] == "second-1"
    assert CommitLog(view, 4).missing() == [3]
    assert CommitLog(tried, 4).read(1)["attempt"] == "first-1", "the first record stays"
    view.put("result.json", b"the second result")
    assert tried.get("result.json") == b"the first result"
    assert [info.path for info in view.list("commits")] == [f"commits/{chunk:08d}.json" for chunk in (0, 1, 2)]


def test_a_worker_of_an_earlier_launch_cannot_commit_into_a_retry(tried):
    _, ours = commit(tried, 1, "a zombie")
    assert not ours
    assert CommitLog(current_view(tried, working=True), 4).missing() == [1, 3]


def test_a_worker_of_an_earlier_launch_deletes_nothing_of_a_retry(tried):
    """Though it staged the same bytes, now that what made samples fail is mended."""
    view = current_view(tried, working=True)
    log = CommitLog(view, 4, folder_of=lambda chunk: staging_folder(view, chunk))
    draft = ChunkDraft(1, 10, 20, "second-1", part=b"the mended rows", extension="bin", rows=10)
    record, ours = log.commit(draft)
    assert ours
    zombie = CommitLog(tried, 4, folder_of=lambda chunk: staging_folder(tried, chunk))
    assert not zombie.commit(dataclasses.replace(draft, attempt="a zombie"))[1]
    assert log.read_named(record["parts"][0]) == b"the mended rows"


def test_chunks_that_no_retry_processes_are_staged_where_they_always_were(tried):
    view = current_view(tried, working=True)
    folders = [staging_folder(view, chunk) for chunk in range(4)]
    assert folders == ["00000000", "00000001.retry-0001", "00000002", "00000003.retry-0001"]


def test_readers_see_a_retry_once_it_is_complete(tried):
    working = current_view(tried, working=True)
    for chunk in (1, 3):
        commit(working, chunk, f"second-{chunk}")
    working.put("result.json", b"the second result")
    assert current_view(tried).get("result.json") == b"the first result"
    working.put("_SUCCESS", b"second")
    assert current_view(tried).get("result.json") == b"the second result"
    assert retried_chunks(current_view(tried)) == 2


def test_a_second_retry_stands_on_the_first(tried):
    first = current_view(tried, working=True)
    for chunk in (1, 3):
        commit(first, chunk, f"second-{chunk}")
    first.put("_SUCCESS", b"second")
    begin_retry(tried, 2, [3])
    second = current_view(tried, working=True)
    log = CommitLog(second, 4)
    assert log.missing() == [3] and log.read(1)["attempt"] == "second-1" and log.read(2)["attempt"] == "first-2"
    assert retried_chunks(second) == 3


def test_who_begins_a_retry_second_finds_the_list_of_the_first(tried):
    begin_retry(tried, 1, [0])
    assert read_retries(tried) == [Retry(1, frozenset({1, 3}))]


def test_a_damaged_list_of_chunks_is_told(tried):
    tried.put("retries/0001/retry.json", tried.get("retries/0001/retry.json").replace(b"1", b"2", 1))
    with pytest.raises(CorruptRunError, match=r"retries/0001/retry\.json"):
        current_view(tried)
