import pyarrow as pa
import pytest

from batchmill import INDEX_COLUMN, CorruptRunError, ReducerError, RowReducer, Writer
from batchmill.engine import committed_rows
from batchmill.engine.commit_log import ChunkDraft, CommitLog
from batchmill.engine.committed_rows import CommittedRows

CHUNKS = 20


class Lines(Writer):
    """A row for each byte: its value, and a column that nobody asks for."""

    extension = "bin"

    def encode(self, output):
        raise AssertionError("nothing is written here")

    def decode(self, data):
        values = list(data)
        return pa.table({INDEX_COLUMN: values, "value": values, "other": values})


class Values(RowReducer):
    def __init__(self, *columns):
        super().__init__(*columns)

    def reduce_rows(self, tables):
        return [table.to_pydict() for table in tables]


@pytest.fixture
def log(storage):
    log = CommitLog(storage, CHUNKS)
    for chunk in range(CHUNKS):
        empty = chunk == 3
        log.commit(
            ChunkDraft(
                chunk=chunk,
                start=chunk,
                stop=chunk + 1,
                attempt=f"{chunk:032x}",
                part=None if chunk == 5 else b"" if empty else bytes([chunk, 100 + chunk]),
                extension="bin",
                rows=0 if empty or chunk == 5 else 2,
            )
        )
    return log


def rows_of(log, processed=CHUNKS):
    return CommittedRows(log, [part for chunk in range(CHUNKS) for part in log.read(chunk)["parts"]], processed)


def test_tables_come_in_dataset_order_with_the_index_and_the_columns_asked_for(log):
    reducer = Values("value")
    tables = list(rows_of(log).tables(Lines(), reducer))
    chunks = [chunk for chunk in range(CHUNKS) if chunk not in (3, 5)]
    assert [table.to_pydict() for table in tables] == [
        {INDEX_COLUMN: [chunk, 100 + chunk], "value": [chunk, 100 + chunk]} for chunk in chunks
    ]


def test_a_column_named_twice_comes_once(log):
    assert next(rows_of(log).tables(Lines(), Values("other", "value", "other"))).column_names == [
        INDEX_COLUMN,
        "other",
        "value",
    ]


def test_rows_can_be_read_again_and_left_half_way(log, storage):
    rows = rows_of(log)
    before = len(storage.calls)
    tables = rows.tables(Lines(), Values("value"))
    next(tables)
    tables.close()
    read = [path for method, path in storage.calls[before:] if method == "get"]
    assert 1 <= len(read) <= committed_rows._READ_AHEAD + 1, "parts are read ahead, and not all of them"
    assert len(list(rows.tables(Lines(), Values("value")))) == CHUNKS - 2


def test_storage_that_fails_for_a_moment_is_asked_again(log, storage, quick_retries):
    storage.fail("get", "before", times=2)
    assert len(list(rows_of(log).tables(Lines(), Values("value")))) == CHUNKS - 2


def test_a_missing_column_is_named_with_those_there_are(log):
    with pytest.raises(ReducerError, match=r"reads column 'valu' .* Did you mean 'value'\? Returned: value, other"):
        next(rows_of(log).tables(Lines(), Values("valu")))


def test_a_damaged_part_is_found(log, storage):
    name = log.read(7)["parts"][0]["name"]
    storage.put(name, b"xx")
    with pytest.raises(CorruptRunError, match=f"{name} is damaged"):
        list(rows_of(log).tables(Lines(), Values("value")))


def test_no_rows_at_all_are_an_error_unless_no_sample_was_processed(storage):
    empty = CommitLog(storage, 0)
    with pytest.raises(ReducerError, match="process_batch returned None for all 4 samples"):
        next(CommittedRows(empty, [], 4).tables(Lines(), Values("value")))
    assert list(CommittedRows(empty, [], 0).tables(Lines(), Values("value"))) == []
