import json
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill import CorruptRunError, ObjectNotFoundError, StorageError
from batchmill.engine.commit_log import (
    INLINE_PARTIALS_BYTES,
    ChunkDraft,
    CommitLog,
    named_paths,
    record_path,
)
from batchmill.engine.serialization import seal, sha256_hex

pytestmark = pytest.mark.usefixtures("quick_retries")


def draft(chunk=0, part=b"rows", files=None, partials=None, attempt=None, **values):
    return ChunkDraft(
        chunk=chunk,
        start=chunk * 10,
        stop=chunk * 10 + 10,
        attempt=attempt or secrets.token_hex(16),
        part=part,
        extension="bin",
        rows=10,
        partials=partials if partials is not None else {"count": 10},
        files=files or {},
        **values,
    )


@pytest.fixture
def log(storage):
    return CommitLog(storage, chunks=5)


def test_a_commit_names_all_that_it_staged(log, storage):
    record, ours = log.commit(
        draft(2, files={"a/b.txt": b"note", "c": b""}, reports=[{"group": "g"}], quarantined=[{"index": 21}])
    )
    assert ours
    assert record == log.read(2)
    assert (record["chunk"], record["start"], record["stop"]) == (2, 20, 30)
    assert record["partials"] == {"count": 10}
    assert (record["reports"], record["quarantined"]) == ([{"group": "g"}], [{"index": 21}])
    (part,) = record["parts"]
    assert part["rows"] == 10 and part["name"].startswith("parts/00000002/") and part["name"].endswith(".bin")
    assert log.read_named(part) == b"rows"
    assert {named["name"].split("/", 3)[-1]: log.read_named(named) for named in record["files"]} == {
        "a/b.txt": b"note",
        "c": b"",
    }
    assert sorted([*named_paths(record), "commits/00000002.json"]) == storage.paths()


def test_every_file_is_stored_before_the_record_names_it(log, storage):
    log.commit(draft(files={"x": b"1", "y": b"2"}, partials={"p": "v" * INLINE_PARTIALS_BYTES}))
    methods = [method for method, _ in storage.calls]
    assert methods == ["put"] * 4 + ["put_if_absent"]


def test_a_chunk_without_rows_or_files_is_committed_too(log, storage):
    record, ours = log.commit(draft(1, part=None))
    assert ours and record["parts"] == [] and record["files"] == []
    assert storage.paths() == ["commits/00000001.json"]


def test_committed_and_missing_come_from_the_records_alone(log, storage):
    for chunk in (3, 0):
        log.commit(draft(chunk))
    storage.put("commits/readme.txt", b"not a record")
    storage.put("parts/00000004/x.bin", b"staged, never committed")
    assert log.committed() == {0, 3}
    assert log.missing() == [1, 2, 4]


def test_a_listing_that_lags_behind_takes_nothing_back(log, storage, monkeypatch):
    CommitLog(storage, 5).commit(draft(chunk=3))
    assert log.committed() == {3}
    log.commit(draft(chunk=1))
    monkeypatch.setattr(storage, "list", lambda prefix="": iter(()))
    assert log.committed() == {1, 3}
    assert log.missing() == [0, 2, 4]


def test_equal_contents_have_equal_names_for_every_attempt(storage):
    names = []
    for _ in range(2):
        record, _ = CommitLog(storage, 5).commit(draft(files={"f": b"x"}))
        names.append(list(named_paths(record)))
        storage.delete(record_path(0))
    assert names[0] == names[1]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("method", ["put", "put_if_absent"])
@pytest.mark.parametrize("times", [1, 3])
def test_an_unclear_answer_is_settled_by_reading_back(log, storage, method, when, times):
    storage.fail(method, when, times)
    record, ours = log.commit(draft(files={"f": b"x"}))
    assert ours, "the same attempt is recognised"
    assert log.read(0) == record
    assert sorted([*named_paths(record), record_path(0)]) == storage.paths()
    assert storage.failures_left < times


def test_an_unclear_answer_is_settled_even_if_reading_back_fails_at_first(log, storage):
    storage.fail("put_if_absent", "after")
    storage.fail("get", "before", 2)
    record, ours = log.commit(draft())
    assert ours and log.read(0) == record
    assert storage.failures_left == 0


def test_an_unclear_answer_that_was_another_attempts_success_is_a_lost_race(log, storage):
    winner = draft(part=b"theirs")
    mine = draft(part=b"mine")
    original = storage.put_if_absent

    def lose(path, data):
        storage.put_if_absent = original
        CommitLog(storage, 5).commit(winner)
        raise StorageError("time-out")

    storage.put_if_absent = lose
    record, ours = log.commit(mine)
    assert not ours
    assert record["attempt"] == winner.attempt
    assert sorted([*named_paths(record), record_path(0)]) == storage.paths(), "the loser removes what it staged"


@pytest.mark.parametrize("mine", [True, False])
def test_a_record_found_by_reading_back_is_made_durable_before_it_is_announced(log, storage, monkeypatch, mine):
    """What is visible may be lost with the power, until the names in its folder are synced."""
    monkeypatch.setattr(storage, "sync", lambda prefix: storage.calls.append(("sync", prefix)))
    if not mine:
        log.commit(draft(part=b"theirs"))
    storage.fail("put_if_absent", "after")
    storage.calls.clear()
    assert log.commit(draft(part=b"mine"))[1] is mine
    created = storage.calls.index(("put_if_absent", record_path(0)))
    assert ("sync", "commits") in storage.calls[created:]


def test_a_lost_race_deletes_only_what_the_winner_does_not_name(log, storage):
    won, _ = log.commit(draft(part=b"same", files={"a": b"1", "b": b"2"}))
    lost, ours = log.commit(draft(part=b"same", files={"a": b"1", "b": b"other"}))
    assert not ours
    assert lost == won
    assert sorted([*named_paths(won), record_path(0)]) == storage.paths()


def test_a_lost_race_with_identical_contents_deletes_nothing(log, storage):
    contents = {"part": b"same", "files": {"a": b"1"}, "partials": {"p": "v" * INLINE_PARTIALS_BYTES}}
    won, _ = log.commit(draft(**contents))
    _, ours = log.commit(draft(**contents))
    assert not ours
    assert not [call for call in storage.calls if call[0] == "delete"]
    for named in (*won["parts"], *won["files"], won["partials_file"]):
        log.read_named(named)


def test_a_full_disk_surfaces_as_a_storage_error_and_commits_nothing(log, storage):
    storage.fail("put", "before", 100, StorageError("cannot write parts/...: No space left on device"))
    with pytest.raises(StorageError, match="No space left on device") as caught:
        log.commit(draft())
    assert caught.value.exit_code == 74
    assert log.missing() == [0, 1, 2, 3, 4]


def test_storage_that_stays_unclear_surfaces_and_the_next_attempt_finds_out(log, storage):
    storage.fail("put_if_absent", "after")
    storage.fail("get", "before", 100, StorageError("unreachable"))
    with pytest.raises(StorageError, match="unreachable"):
        log.commit(draft(attempt="a" * 32))
    storage._plan.clear()
    record, ours = log.commit(draft(part=b"again"))
    assert not ours and record["attempt"] == "a" * 32, "it had been committed after all"


def test_large_partials_live_in_a_file_of_their_own(log, storage):
    partials = {"words": ["x" * 1000] * 300}
    record, _ = log.commit(draft(partials=partials))
    assert "partials" not in record
    assert log.read_partials(record) == partials
    assert len(storage.get(record_path(0))) < 2000
    small, _ = log.commit(draft(1, partials={"n": 1}))
    assert "partials_file" not in small and log.read_partials(small) == {"n": 1}


def _damage(data: bytes) -> bytes:
    return data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]


def test_damage_to_anything_committed_is_found(log, storage):
    record, _ = log.commit(draft(files={"f": b"file bytes"}, partials={"p": "v" * INLINE_PARTIALS_BYTES}))
    for named in (*record["parts"], *record["files"], record["partials_file"]):
        intact = storage.get(named["name"])
        for damaged in (_damage(intact), intact[:-1], intact + b" "):
            storage.put(named["name"], damaged)
            with pytest.raises(CorruptRunError, match=f"{named['name']} is damaged"):
                log.read_named(named)
        storage.delete(named["name"])
        with pytest.raises(CorruptRunError, match=f"{named['name']} is missing"):
            log.read_named(named)
        storage.put(named["name"], intact)
    storage.put(record_path(0), _damage(storage.get(record_path(0))))
    with pytest.raises(CorruptRunError, match=r"commits/00000000\.json is damaged"):
        log.read(0)


def test_a_record_under_another_chunks_name_is_found(log, storage):
    log.commit(draft(1))
    storage.put(record_path(2), storage.get(record_path(1)))
    with pytest.raises(CorruptRunError, match="it is the record of chunk 1"):
        log.read(2)


def test_a_sealed_document_that_is_no_record_is_found(log, storage):
    storage.put(record_path(2), seal({"something": "else"}))
    with pytest.raises(CorruptRunError, match=r"commits/00000002\.json is damaged"):
        log.read(2)


def test_a_chunk_that_is_not_committed_is_not_found_at_once(log, storage):
    with pytest.raises(ObjectNotFoundError):
        log.read(3)
    assert len(storage.calls) == 1


failures = st.lists(
    st.tuples(st.sampled_from(["put", "put_if_absent", "get", "delete"]), st.sampled_from(["before", "after"])),
    max_size=9,
)
contents = st.tuples(
    st.sampled_from([b"one", b"two", None]), st.sampled_from([{}, {"f": b"1"}, {"f": b"2", "g": b"3"}])
)


@given(st.lists(st.tuples(contents, failures), min_size=1, max_size=4))
def test_whatever_fails_one_attempt_wins_and_all_it_names_is_there(new_storage, attempts):
    storage = new_storage()
    log = CommitLog(storage, 1)
    won, clean = 0, True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("batchmill.engine.retries._FIRST_DELAY", 0.0)
        for (part, files), plan in attempts:
            for method, when in plan:
                storage.fail(method, when)
            try:
                record, ours = log.commit(draft(part=part, files=files))
            except StorageError:
                clean = False  # an attempt that gave up may leave what it staged
            else:
                won += ours
                storage._plan.clear()
                assert record == log.read(0)
            storage._plan.clear()
    assert won <= 1
    if log.committed():
        record = log.read(0)
        for named in (*record["parts"], *record["files"]):
            assert sha256_hex(log.read_named(named)) == named["sha256"]
        if clean:
            assert won == 1
            assert sorted([*named_paths(record), record_path(0)]) == storage.paths()
    else:
        assert not clean


def test_a_record_is_plain_json(log, storage):
    log.commit(draft())
    assert json.loads(storage.get(record_path(0)))["chunk"] == 0
