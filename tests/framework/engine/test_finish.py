import json
import threading

import pytest

from batchmill import MetricReducer, ReducerError, StorageError
from batchmill.engine.commit_log import ChunkDraft, CommitLog
from batchmill.engine.finish import (
    collect_garbage,
    confirmed_result,
    final_reports,
    finish_run,
    read_records,
    result_of,
    settle_run,
)
from batchmill.engine.grid import Grid
from batchmill.engine.reduction import ReducerSet
from batchmill.engine.run_directory import RESULT, SUCCESS, open_or_create
from batchmill.engine.serialization import sha256_hex

pytestmark = pytest.mark.usefixtures("quick_retries")


class Joined(MetricReducer):
    """Shows the order in which partials arrive."""

    def reset(self):
        pass

    def per_slot_reduce(self):
        return ""

    def cross_slot_reduce(self, per_slot_metrics):
        return "".join(per_slot_metrics)


def reducers(extra=()):
    found = ReducerSet()
    for name in ("order", *extra):
        found.wrap(Joined(), name)
    return found


def report(chunk):
    return {"group": "g", "steps_completed": chunk, "metrics": {"m": chunk}, "rank": 0, "time": "2026-01-01T00:00:00"}


def draft(chunk, part=None, files=None, quarantined=()):
    return ChunkDraft(
        chunk=chunk,
        start=chunk * 10,
        stop=min(chunk * 10 + 10, 35),
        attempt=f"{chunk:032x}",
        part=b"rows of %d" % chunk if part is None else part,
        extension="bin",
        rows=10,
        partials={"order": "abcd"[chunk]},
        files=files or {},
        reports=[report(chunk)],
        quarantined=list(quarantined),
    )


@pytest.fixture
def run(storage):
    return open_or_create(storage, "r", facts={}, grid=Grid(35, 10, 1), config={}, versions={})


@pytest.fixture
def committed(run):
    for chunk in (2, 0, 3, 1):  # commit order is not chunk order
        run.log.commit(draft(chunk, files={"note": b"%d" % chunk}, quarantined=[{"index": 11}] if chunk == 1 else ()))
    return run


class Tracker:
    """Keeps what is restored."""

    def __init__(self):
        self.reports = []

    def __call__(self, reports):
        self.reports += reports


def test_the_result_holds_everything_in_dataset_order(committed, storage):
    tracker = Tracker()
    stored = finish_run(committed, reducers(), tracker)
    assert stored["metrics"] == {"order": "abcd"}
    assert (stored["complete"], stored["coverage"], stored["samples"], stored["quarantined"]) == (True, 1.0, 35, 1)
    assert [(part["start"], part["stop"]) for part in stored["outputs"]] == [(0, 10), (10, 20), (20, 30), (30, 35)]
    assert [storage.get(part["name"]) for part in stored["outputs"]] == [b"rows of %d" % chunk for chunk in range(4)]
    assert len(stored["files"]) == 4
    assert [item["metrics"] for item in tracker.reports] == [{"m": 0}, {"m": 1}, {"m": 2}, {"m": 3}, {"order": "abcd"}]
    assert storage.get(SUCCESS).decode() == f"{sha256_hex(storage.get(RESULT))}\n"


def test_the_result_has_the_same_bytes_whoever_folds(committed, storage):
    finish_run(committed, reducers(), Tracker())
    before = storage.get(RESULT)
    storage.delete(RESULT)
    storage.delete(SUCCESS)
    finish_run(committed, reducers(), Tracker())
    assert storage.get(RESULT) == before


def test_many_workers_may_finish_at_once(committed, storage):
    stored, barrier = [], threading.Barrier(6)

    def work():
        barrier.wait()
        stored.append(finish_run(committed, reducers(), Tracker()))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stored) == 6 and all(item == stored[0] for item in stored)
    assert committed.read_result() == stored[0]


def test_a_run_with_a_missing_chunk_has_no_result(run, storage):
    run.log.commit(draft(0))
    with pytest.raises(StorageError, match=r"commits/0000000\d\.json"):
        finish_run(run, reducers(), Tracker())
    assert not storage.exists(RESULT) and not storage.exists(SUCCESS)


def test_a_reducer_that_was_not_there_before_is_named(committed, storage):
    with pytest.raises(ReducerError, match=r"Chunk 0 was committed without reducer 'late' \(it has order\)"):
        finish_run(committed, reducers(extra=["late"]), Tracker())
    assert not storage.exists(RESULT)


def test_names_are_durable_before_the_result_says_so(committed, storage, monkeypatch):
    monkeypatch.setattr(storage, "sync", lambda prefix: storage.calls.append(("sync", prefix)))
    storage.calls.clear()
    finish_run(committed, reducers(), Tracker())
    assert storage.calls.index(("sync", "commits")) < storage.calls.index(("put_if_absent", RESULT))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("target", [RESULT, SUCCESS])
def test_an_unclear_answer_is_repeated(committed, storage, when, target):
    original = type(storage).put_if_absent
    failed = []

    def put_if_absent(path, data):
        if path == target and not failed:
            failed.append(path)
            storage.fail("put_if_absent", when)
        return original(storage, path, data)

    storage.put_if_absent = put_if_absent
    stored = finish_run(committed, reducers(), Tracker())
    assert failed and committed.read_result() == stored and storage.exists(SUCCESS)


def test_garbage_goes_only_after_the_result_and_nothing_named_goes(committed, storage):
    storage.put("parts/00000001/lost.bin", b"an attempt that was killed")
    storage.put("files/00000001/abc/lost.txt", b"an attempt that was killed")
    storage.put("files/rank-00000/mine.txt", b"uploaded outside of chunks")
    named = {part["name"] for chunk in range(4) for part in committed.log.read(chunk)["parts"]}
    finish_run(committed, reducers(), Tracker())
    left = set(storage.paths("parts")) | set(storage.paths("files"))
    assert named <= left
    assert not [path for path in left if "lost" in path]
    assert "files/rank-00000/mine.txt" in left
    deletes = [i for i, call in enumerate(storage.calls) if call[0] == "delete"]
    assert len(deletes) == 2 and min(deletes) > storage.calls.index(("put_if_absent", RESULT))


def test_a_named_file_of_partials_is_no_garbage(run, storage):
    from batchmill.engine.commit_log import INLINE_PARTIALS_BYTES

    for chunk in range(4):
        wide = draft(chunk)
        wide.partials = {"order": "x" * INLINE_PARTIALS_BYTES}
        run.log.commit(wide)
    stored = finish_run(run, reducers(), Tracker())
    assert collect_garbage(run, stored) == []
    for chunk in range(4):
        run.log.read_partials(run.log.read(chunk))


def test_settling_twice_changes_nothing_more(committed, storage):
    stored = finish_run(committed, reducers(), Tracker())
    before = {path: storage.get(path) for path in storage.paths()}
    tracker = Tracker()
    settle_run(committed, stored, tracker, collect=True)
    assert {path: storage.get(path) for path in storage.paths()} == before
    assert tracker.reports == final_reports(committed, stored)


def test_the_result_of_another_worker_is_durable_before_success_is_told(committed, storage, monkeypatch):
    """Simulated schedule 1030003: it was visible only, and a power loss kept ``_SUCCESS`` without it."""
    finish_run(committed, reducers(), Tracker())
    storage.delete(SUCCESS)
    created, put_if_absent = [], storage.put_if_absent
    monkeypatch.setattr(
        storage, "put_if_absent", lambda path, data: (created.append(path), put_if_absent(path, data))[1]
    )
    finish_run(committed, reducers(), Tracker())
    assert created == [RESULT, SUCCESS]


def test_a_result_is_confirmed_once_it_is_settled_and_durable(committed, storage):
    """Another launch may have made it visible a moment ago, without having come to its fsync yet."""
    assert confirmed_result(committed) is None
    stored = finish_run(committed, reducers(), Tracker())
    storage.calls.clear()
    assert confirmed_result(committed) == stored
    assert ("put_if_absent", SUCCESS) in storage.calls, "which makes its folder durable, whoever wrote it"
    storage.delete(SUCCESS)
    assert confirmed_result(committed) is None, "a resume has still to settle it"
    assert not storage.exists(SUCCESS)


def test_success_comes_last(committed, storage):
    def fail(reports):
        if reports[0]["group"] == "validation":
            raise StorageError("the tracker's disk is full")

    with pytest.raises(StorageError, match="tracker"):
        finish_run(committed, reducers(), fail)
    assert storage.exists(RESULT) and not storage.exists(SUCCESS)
    finish_run(committed, reducers(), Tracker())
    assert storage.exists(SUCCESS)


def test_metrics_without_a_value_are_not_reported(run):
    stored = {"metrics": {"none": None, "zero": 0}}
    (only,) = final_reports(run, stored)
    assert only["metrics"] == {"zero": 0}
    assert only["steps_completed"] == 4 and only["group"] == "validation"
    assert final_reports(run, {"metrics": {"none": None}}) == []


def test_records_are_read_in_the_order_asked_for(committed):
    assert [record["chunk"] for record in read_records(committed, [3, 0, 2])] == [3, 0, 2]


def test_the_result_of_an_incomplete_run_says_how_far_it_is(run):
    run.log.commit(draft(3, quarantined=[{"index": 31}]))
    run.log.commit(draft(1))
    result = result_of(run, None, "received SIGTERM")
    assert (result.complete, result.samples, result.quarantined, result.metrics) == (False, 15, 1, {})
    assert result.coverage == pytest.approx(15 / 35)
    assert [(part["start"], part["stop"]) for part in result.outputs] == [(10, 20), (30, 35)]
    assert (result.stop_reason, result.exit_code) == ("received SIGTERM", 75)


def test_the_result_of_a_complete_run_is_what_is_stored(committed):
    stored = finish_run(committed, reducers(), Tracker())
    result = result_of(committed, stored)
    assert (result.complete, result.coverage, result.exit_code, result.stop_reason) == (True, 1.0, 0, None)
    assert result.metrics == {"order": "abcd"} and list(result.outputs) == stored["outputs"]


def test_an_empty_dataset_is_complete_at_once(new_storage):
    run = open_or_create(new_storage(), "empty", facts={}, grid=Grid(0, 10, 1), config={}, versions={})
    stored = finish_run(run, reducers(), Tracker())
    assert (stored["samples"], stored["metrics"], stored["outputs"]) == (0, {"order": ""}, [])
    assert result_of(run, None).coverage == 0.0


def test_the_result_is_readable_json(committed, storage):
    finish_run(committed, reducers(), Tracker())
    assert json.loads(storage.get(RESULT))["bitwise"] is True
    assert isinstance(committed.log, CommitLog)
