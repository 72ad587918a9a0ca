from itertools import islice

import pyarrow as pa
import pytest
import torch
from torch.utils.data import TensorDataset

from batchmill import (
    ConfigError,
    CorruptRunError,
    RunNotFoundError,
    Selection,
    TorchBatchProcessor,
    hookimpl,
    iter_outputs,
    read_outputs,
    torch_batch_process,
)

DATA = TensorDataset(torch.arange(50.0))


class Doubling(TorchBatchProcessor):
    def __init__(self, context):
        pass

    def process_batch(self, batch, batch_idx):
        return {"y": batch[0] * 2, "name": [f"sample {int(i)}" for i in batch[0]]}


class StopAfter:
    def __init__(self, checkpoints):
        self.left = checkpoints

    @hookimpl
    def should_stop(self):
        self.left -= 1
        return "enough" if self.left == 0 else None


@pytest.fixture
def output(tmp_path):
    return tmp_path / "runs"


def test_rows_come_in_dataset_order_whatever_the_order_of_commits(output):
    first = torch_batch_process(Doubling, DATA, 5, output=output, run_id="x")
    shuffled = sorted((output / "x" / "commits").iterdir(), key=lambda path: path.name[::-1])
    for path in shuffled:  # the order in which records appear says nothing
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)
    table = read_outputs(first)
    assert table["_index"].to_pylist() == list(range(50))
    assert table["y"].to_pylist() == [2.0 * i for i in range(50)]
    assert table["name"].to_pylist() == [f"sample {i}" for i in range(50)]


def test_a_run_is_given_by_its_result_its_path_or_its_url(output):
    result = torch_batch_process(Doubling, DATA, 5, output=output, run_id="x")
    by_result = read_outputs(result)
    for given in (result.path, str(output / "x"), f"file://{output}/x", output / "x"):
        assert read_outputs(given).equals(by_result)


def test_one_table_per_chunk_without_holding_them_all(output):
    result = torch_batch_process(Doubling, DATA, 5, output=output, checkpoint_interval=2)
    tables = iter_outputs(result)
    first = next(tables)
    assert first["_index"].to_pylist() == list(range(10))
    (output / result.run_id / result.outputs[-1]["name"]).unlink()
    assert [table["_index"][0].as_py() for table in islice(tables, 3)] == [10, 20, 30]
    with pytest.raises(CorruptRunError, match="is missing, although a commit record names it"):
        next(tables)


def test_what_a_stopped_run_committed_can_be_read(output):
    result = torch_batch_process(Doubling, DATA, 5, output=output, callbacks={"stop": StopAfter(3)})
    assert not result.complete
    assert read_outputs(result)["_index"].to_pylist() == list(range(30))[: result.samples]


def test_staged_parts_that_no_record_names_are_invisible(output):
    result = torch_batch_process(Doubling, DATA, 5, output=output, run_id="x", callbacks={"stop": StopAfter(3)})
    committed = output / "x" / result.outputs[0]["name"]
    lost = committed.parent.parent / "00000009" / committed.name
    lost.parent.mkdir()
    lost.write_bytes(committed.read_bytes())
    assert read_outputs(result).num_rows == result.samples


class Silent(Doubling):
    def process_batch(self, batch, batch_idx):
        return None


def test_a_run_without_rows_is_an_empty_table(output):
    table = read_outputs(torch_batch_process(Silent, DATA, 5, output=output))
    assert table.num_rows == 0 and table.schema.field("_index").type == pa.int64()
    assert list(iter_outputs(torch_batch_process(Silent, DATA, 5, output=output, writer="none"))) == []


class Changing(Doubling):
    """Its columns differ from chunk to chunk, which is allowed."""

    def process_batch(self, batch, batch_idx):
        return {"y": batch[0]} if batch_idx < 5 else {"z": [str(int(i)) for i in batch[0]]}


def test_columns_of_all_chunks_are_joined(output):
    table = read_outputs(torch_batch_process(Changing, DATA, 5, output=output, checkpoint_interval=1))
    assert table.column_names == ["_index", "y", "z"]
    assert table["y"].to_pylist()[24:26] == [24.0, None] and table["z"].to_pylist()[24:26] == [None, "25"]


def test_a_damaged_part_is_refused(output):
    result = torch_batch_process(Doubling, DATA, 5, output=output)
    part = output / result.run_id / result.outputs[3]["name"]
    part.write_bytes(part.read_bytes()[:-1] + b"\0")
    with pytest.raises(CorruptRunError, match=f"{part.name} is damaged"):
        read_outputs(result)


def test_what_is_no_run_is_not_found(tmp_path):
    with pytest.raises(RunNotFoundError, match="There is no run at"):
        read_outputs(str(tmp_path))


@pytest.mark.parametrize("writer", ["jsonl", Selection("parquet", {"compression": "zstd"})], ids=["jsonl", "zstd"])
def test_every_named_writer_is_found_again(output, writer):
    table = read_outputs(torch_batch_process(Doubling, DATA, 5, output=output, writer=writer))
    assert table["y"].to_pylist() == [2.0 * i for i in range(50)]


class Lines:
    """A writer that only this process has."""

    extension = "txt"

    def encode(self, output):
        rows = zip(output.index, output.columns["name"], strict=True)
        return "".join(f"{index} {name}\n" for index, name in rows).encode()

    def decode(self, data):
        rows = [line.split(" ", 1) for line in data.decode().splitlines()]
        return pa.table({"_index": [int(row[0]) for row in rows], "name": [row[1] for row in rows]})


def test_a_writer_given_as_an_object_must_be_given_again(output):
    result = torch_batch_process(Doubling, DATA, 5, output=output, writer=Lines())
    with pytest.raises(ConfigError, match=r"written by a Python object \(Lines\); pass it as read_outputs"):
        read_outputs(result)
    assert read_outputs(result, writer=Lines())["name"].to_pylist()[7] == "sample 7"
