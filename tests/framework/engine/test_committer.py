import threading
import time

import numpy as np
import pytest

from batchmill import ChunkOutput, OutputError, StorageError
from batchmill.engine.commit_log import CommitLog
from batchmill.engine.committer import Committer, FinishedChunk

pytestmark = pytest.mark.usefixtures("quick_retries")


class Lines:
    """Writes one index per line."""

    extension = "txt"

    def __init__(self):
        self.gate = threading.Event()
        self.gate.set()

    def encode(self, output):
        assert self.gate.wait(20)
        return "".join(f"{index}\n" for index in output.index).encode()


def finished(chunk, rows=True):
    index = np.arange(chunk * 10, chunk * 10 + 10)
    output = ChunkOutput(index, {"y": index}) if rows else None
    return FinishedChunk(chunk, chunk * 10, chunk * 10 + 10, output, {"n": 10}, {"f": b"x"}, [{"m": 1}])


class Told:
    def __init__(self):
        self.calls = []

    def __call__(self, chunk, record, ours):
        self.calls.append((chunk, record, ours, threading.current_thread().name))


@pytest.fixture
def log(storage):
    return CommitLog(storage, 10)


def test_chunks_are_committed_in_their_order_by_another_thread(log, storage):
    told = Told()
    committer = Committer(log, Lines(), told)
    for chunk in (3, 1, 2):
        committer.submit(finished(chunk))
    committer.drain()
    assert [(chunk, ours) for chunk, _, ours, _ in told.calls] == [(3, True), (1, True), (2, True)]
    assert {thread for *_, thread in told.calls} == {"batchmill-commit"}
    for chunk, record, _, _ in told.calls:
        assert record == log.read(chunk)
        assert (record["start"], record["stop"], record["partials"]) == (chunk * 10, chunk * 10 + 10, {"n": 10})
        assert record["reports"] == [{"m": 1}] and len(record["files"]) == 1
        (part,) = record["parts"]
        assert part["rows"] == 10 and storage.get(part["name"]).startswith(b"%d\n" % (chunk * 10))
    committer.close()
    assert "batchmill-commit" not in {thread.name for thread in threading.enumerate()}


def test_every_attempt_has_a_name_of_its_own(log):
    told = Told()
    committer = Committer(log, Lines(), told)
    committer.submit(finished(0))
    committer.submit(finished(0))
    committer.drain()
    committer.close()
    (_, first, ours_first, _), (_, second, ours_second, _) = told.calls
    assert (ours_first, ours_second) == (True, False)
    assert first == second and len(first["attempt"]) == 32


def test_a_chunk_without_rows_and_a_writer_that_writes_nothing_leave_no_part(log):
    committer = Committer(log, Lines(), Told())
    committer.submit(finished(0, rows=False))
    committer.drain()
    committer.close()
    nothing = Lines()
    nothing.extension = ""
    silent = Committer(log, nothing, Told())
    silent.submit(finished(1))
    silent.drain()
    silent.close()
    assert log.read(0)["parts"] == [] and log.read(1)["parts"] == []


def test_a_worker_waits_instead_of_filling_memory(log):
    writer = Lines()
    writer.gate.clear()
    committer = Committer(log, writer, Told())
    submitted = []

    def submit():
        for chunk in range(8):
            committer.submit(finished(chunk))
            submitted.append(chunk)

    worker = threading.Thread(target=submit)
    worker.start()
    deadline = time.monotonic() + 20
    while len(submitted) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert submitted == [0, 1, 2], "one in the writer's hands, two queued"
    writer.gate.set()
    worker.join(20)
    committer.drain()
    committer.close()
    assert log.committed() == set(range(8))


class Refusing(Lines):
    def encode(self, output):
        raise OutputError("column 'y' cannot be written")


@pytest.mark.parametrize("surface", ["submit", "drain", "check"])
def test_an_error_reaches_the_worker_at_its_next_word(log, surface):
    committer = Committer(log, Refusing(), Told())
    committer.submit(finished(0))
    committer._queue.join()
    with pytest.raises(OutputError, match="column 'y' cannot be written"):
        getattr(committer, surface)(*([finished(1)] if surface == "submit" else []))
    committer.close()
    assert log.committed() == set()


def test_nothing_more_is_committed_after_an_error(log, storage):
    storage.fail("put", "before", 6, StorageError("No space left on device"))
    committer = Committer(log, Lines(), Told())
    committer.submit(finished(0))
    committer._queue.join()
    with pytest.raises(StorageError, match="No space left"):
        committer.submit(finished(1))
    committer.close()
    assert storage.paths() == []


def test_what_was_queued_behind_an_error_is_not_committed(log, storage):
    writer = Lines()
    writer.gate.clear()
    committer = Committer(log, writer, Told())
    storage.fail("put", "before", 6, StorageError("No space left on device"))
    committer.submit(finished(0))
    committer.submit(finished(1))
    writer.gate.set()
    committer.close()
    assert log.committed() == set()
    with pytest.raises(StorageError, match="No space left"):
        committer.check()


def test_an_error_of_a_listener_is_an_error(log):
    def listen(chunk, record, ours):
        raise ValueError("a callback failed")

    committer = Committer(log, Lines(), listen)
    committer.submit(finished(0))
    with pytest.raises(ValueError, match="a callback failed"):
        committer.drain()
    committer.close()
    assert log.committed() == {0}, "what is committed stays"


def test_closing_commits_what_is_queued(log):
    writer = Lines()
    writer.gate.clear()
    committer = Committer(log, writer, Told())
    committer.submit(finished(0))
    committer.submit(finished(1))
    threading.Timer(0.1, writer.gate.set).start()
    committer.close()
    assert log.committed() == {0, 1}
