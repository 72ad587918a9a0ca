import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchmill import ChunkOutput, DatasetError
from batchmill_plugins.datasets._parquet import ParquetDataset
from batchmill_plugins.writers._parquet import ParquetWriter

EMBEDDING = np.arange(40, dtype=np.float32).reshape(10, 4)


def fixed_size(values):
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


TABLE = pa.table(
    {
        "id": pa.array(range(10), pa.int32()),
        "flag": pa.array([i % 3 == 0 for i in range(10)]),
        "half": pa.array(np.arange(10, dtype=np.float16)),
        "embedding": fixed_size(EMBEDDING),
        "text": pa.array([None if i == 4 else f"text {i}" for i in range(10)]),
        "tags": pa.array([["a"] * i for i in range(10)]),
        "nested": pa.array([{"k": i} for i in range(10)]),
        "category": pa.array(["x", "y"] * 5).dictionary_encode(),
    }
)


@pytest.fixture
def folder(tmp_path):
    """TABLE in three files: row groups of 2, 2, 1 rows; none (an empty file); 3, 2 rows."""
    pq.write_table(TABLE.slice(0, 5), tmp_path / "a.parquet", row_group_size=2)
    pq.write_table(TABLE.slice(0, 0), tmp_path / "b.parquet")
    pq.write_table(TABLE.slice(5), tmp_path / "c.parquet", row_group_size=3)
    return tmp_path


def test_rows_across_groups_and_files(folder, check_dataset):
    check_dataset(ParquetDataset(str(folder)), TABLE.to_pylist())
    check_dataset(ParquetDataset(f"{folder}/*.parquet", ["text", "id"]), TABLE.select(["text", "id"]).to_pylist())
    check_dataset(ParquetDataset(str(folder / "a.parquet")), TABLE.slice(0, 5).to_pylist())


@given(st.integers(0, 9), st.integers(1, 10))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_any_range(folder, start, size):
    stop = min(10, start + size)
    batch = ParquetDataset(str(folder), ["id", "text", "embedding"]).read_batch(start, stop)
    assert batch["id"].tolist() == list(range(start, stop))
    assert batch["text"] == TABLE["text"].to_pylist()[start:stop]
    assert np.array_equal(batch["embedding"].numpy(), EMBEDDING[start:stop])


def test_dtypes_and_shapes(folder):
    batch = ParquetDataset(str(folder)).read_batch(1, 8)
    tensors = {name: (v.dtype, tuple(v.shape)) for name, v in batch.items() if isinstance(v, torch.Tensor)}
    assert tensors == {
        "id": (torch.int32, (7,)),
        "flag": (torch.bool, (7,)),
        "half": (torch.float16, (7,)),
        "embedding": (torch.float32, (7, 4)),
    }


def test_reads_what_the_parquet_writer_wrote(tmp_path):
    columns = {
        "image": np.arange(48, dtype=np.int16).reshape(2, 2, 3, 4),
        "empty": np.empty((2, 0), np.float32),
        "score": np.array([0.5, 1.5]),
        "text": ["a", "b"],
    }
    (tmp_path / "part.parquet").write_bytes(ParquetWriter().encode(ChunkOutput(np.array([3, 4]), columns)))
    batch = ParquetDataset(str(tmp_path / "part.parquet")).read_batch(0, 2)
    assert batch["_index"].tolist() == [3, 4]
    assert np.array_equal(batch["image"].numpy(), columns["image"])
    assert batch["empty"] == [[], []]
    assert batch["score"].tolist() == [0.5, 1.5]
    assert batch["text"] == ["a", "b"]


def test_nested_fixed_size_lists(tmp_path):
    values = np.arange(24, dtype=np.float64).reshape(2, 3, 4)
    inner = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 4)
    pq.write_table(pa.table({"x": pa.FixedSizeListArray.from_arrays(inner, 3)}), tmp_path / "x.parquet")
    assert np.array_equal(ParquetDataset(str(tmp_path)).read_batch(1, 2)["x"].numpy(), values[1:])


def test_only_the_last_row_groups_stay_in_memory(folder, monkeypatch):
    dataset = ParquetDataset(str(folder))
    read = []
    original = ParquetDataset._read_row_group
    monkeypatch.setattr(ParquetDataset, "_read_row_group", lambda self, n: read.append(n) or original(self, n))
    for start in range(0, 9):
        dataset.read_batch(start, start + 2)
        assert len(dataset._cache) <= 2
    groups = len(dataset._groups)
    assert sorted(read) == sorted(set(read))  # reading on in order reads no row group twice
    assert len(read) == groups - 1  # and never the empty file's


def test_identity_follows_the_contents(folder, tmp_path_factory):
    identity = ParquetDataset(str(folder)).identity()
    moved = tmp_path_factory.mktemp("moved")
    for file in folder.iterdir():
        (moved / f"x{file.name}").write_bytes(file.read_bytes())
    assert ParquetDataset(str(moved)).identity() == identity
    # The same layout and footers, another float.
    table = TABLE.set_column(3, "embedding", fixed_size(EMBEDDING + 1))
    options = {"row_group_size": 10, "write_statistics": False, "use_dictionary": False, "compression": "none"}
    pq.write_table(TABLE, moved / "one.parquet", **options)
    pq.write_table(table, moved / "two.parquet", **options)
    one, two = (ParquetDataset(str(moved / name)) for name in ("one.parquet", "two.parquet"))
    assert one.files[0].stat().st_size == two.files[0].stat().st_size
    assert one.identity() != two.identity()


@pytest.mark.parametrize(
    "column", [pa.array([1.0, 2.0, None]), pa.array([[1.0, 2], [3, 4], None], pa.list_(pa.float64(), 2))]
)
def test_nulls_among_numbers_are_refused_with_their_row(tmp_path, column):
    pq.write_table(pa.table({"x": column}), tmp_path / "x.parquet")
    with pytest.raises(DatasetError, match=r"Column 'x' of .*x\.parquet, row group 0, holds 1 nulls .*first at row 2"):
        ParquetDataset(str(tmp_path)).read_batch(0, 1)


def test_null_inside_a_fixed_size_list(tmp_path):
    column = pa.array([[1.0, 2], [3, None]], pa.list_(pa.float64(), 2))
    pq.write_table(pa.table({"x": column}), tmp_path / "x.parquet")
    with pytest.raises(DatasetError, match="first at row 1 of the row group"):
        ParquetDataset(str(tmp_path)).read_batch(0, 1)


def test_refusals(folder):
    with pytest.raises(DatasetError, match=r"a\.parquet has no column 'txet'\. Available: 'id', 'flag'"):
        ParquetDataset(str(folder), ["txet"])
    pq.write_table(TABLE.drop_columns(["text"]), folder / "d.parquet")
    with pytest.raises(DatasetError, match=r"d\.parquet has no column 'text'"):
        ParquetDataset(str(folder))
    pq.write_table(pa.table({"id": ["a"]}), folder / "d.parquet")
    with pytest.raises(DatasetError, match=r"Column 'id' is string in .*d\.parquet, but int32 in .*a\.parquet"):
        ParquetDataset(str(folder), ["id"])
    (folder / "d.parquet").write_bytes(b"not parquet")
    with pytest.raises(DatasetError, match=r"d\.parquet cannot be read as Parquet"):
        ParquetDataset(str(folder))


def test_damage_after_opening_names_file_and_row_group(folder):
    dataset = ParquetDataset(str(folder / "a.parquet"), ["text"])
    (folder / "a.parquet").write_bytes(b"PAR1 gone")
    with pytest.raises(DatasetError, match=r"Row group 1 of .*a\.parquet cannot be read"):
        dataset.read_batch(2, 3)
