"""What every writer promises, with each format's own limits."""

import io
import json
import math
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import batchmill
from batchmill import INDEX_COLUMN, ChunkOutput, ConfigError, OutputError
from batchmill.plugin_manager import Catalog
from batchmill_plugins import writers
from batchmill_plugins.writers._jsonl import JsonlWriter
from batchmill_plugins.writers._nothing import NothingWriter
from batchmill_plugins.writers._parquet import ParquetWriter
from batchmill_plugins.writers._safetensors import SafetensorsWriter

DTYPES = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"]
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(
    lambda name: name not in (INDEX_COLUMN, "__metadata__")
)
TEXT = st.text(st.characters(codec="utf-8"))
INT64 = st.integers(-(2**63), 2**63 - 1)


@st.composite
def chunks(draw, dtypes=DTYPES, lists=None, finite=False):
    rows = draw(st.integers(1, 4))
    columns = {}
    for name in draw(st.lists(NAMES, unique=True, max_size=3)):
        if lists is not None and draw(st.booleans()):
            columns[name] = draw(st.lists(st.none() | lists, min_size=rows, max_size=rows))
        else:
            shape = (rows, *draw(st.lists(st.integers(0, 3), max_size=3)))
            elements = {"allow_nan": False, "allow_infinity": False} if finite else None
            dtype = np.dtype(draw(st.sampled_from(dtypes)))
            columns[name] = draw(hnp.arrays(dtype, shape, elements=elements if dtype.kind == "f" else None))
    index = draw(hnp.arrays(np.int64, rows, elements=st.integers(0, 2**62), unique=True))
    return ChunkOutput(index, columns)


def same(left, right):
    """Whether nested Python values are equal, NaN being equal to NaN."""
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left):
        return math.isnan(right)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return left == right


def assert_holds(table: pa.Table, output: ChunkOutput, dtypes: bool = True) -> None:
    assert table.column_names == [INDEX_COLUMN, *output.columns]
    assert table.schema.field(INDEX_COLUMN).type == pa.int64()
    assert table[INDEX_COLUMN].to_pylist() == output.index.tolist()
    for name, values in output.columns.items():
        column = table[name]
        if isinstance(values, np.ndarray):
            assert same(column.to_pylist(), values.tolist())
            if dtypes:
                kind = column.type
                for size in values.shape[1:]:
                    assert not pa.types.is_fixed_size_list(kind) or kind.list_size == size
                    kind = kind.value_type
                assert kind == pa.from_numpy_dtype(values.dtype)
        else:
            assert same(column.to_pylist(), values)


COLUMN_VALUES = st.sampled_from(
    [
        *(
            TEXT,
            INT64,
            st.floats(),
            st.binary(),
            st.booleans(),
            st.lists(TEXT),
            st.lists(st.lists(st.floats())),
        ),
        st.fixed_dictionaries({"a": INT64, "b": TEXT, "c": st.lists(st.floats())}),
    ]
)


@st.composite
def parquet_chunks(draw):
    return draw(chunks(lists=draw(COLUMN_VALUES)))


@given(parquet_chunks(), st.sampled_from(["none", "zstd", "snappy"]))
def test_parquet_round_trip(output, compression):
    writer = ParquetWriter(compression)
    data = writer.encode(output)
    assert_holds(writer.decode(data), output)
    assert writer.encode(output) == data


@given(chunks())
def test_safetensors_round_trip(output):
    writer = SafetensorsWriter()
    data = writer.encode(output)
    assert_holds(writer.decode(data), output)
    assert writer.encode(output) == data
    tensors = safetensors.numpy.load(data)
    for name, values in output.columns.items():
        assert tensors[name].dtype == values.dtype
        assert tensors[name].tobytes() == values.tobytes()


JSON_VALUES = st.sampled_from(
    [
        *(TEXT, INT64, st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.lists(INT64)),
        st.fixed_dictionaries({"a": INT64, "b": TEXT, "c": st.lists(TEXT)}),
    ]
)


@st.composite
def jsonl_chunks(draw):
    narrow = [dtype for dtype in DTYPES if dtype != "u8"]  # Arrow infers int64 for integers
    return draw(chunks(dtypes=narrow, lists=draw(JSON_VALUES), finite=True))


@given(jsonl_chunks())
def test_jsonl_round_trip(output):
    writer = JsonlWriter()
    data = writer.encode(output)
    assert_holds(writer.decode(data), output, dtypes=False)
    assert writer.encode(output) == data
    rows = [json.loads(line) for line in data.decode().split("\n") if line]
    assert [list(row) for row in rows] == [[INDEX_COLUMN, *output.columns]] * output.rows


SAMPLE = ChunkOutput(
    np.array([3, 5]),
    {"score": np.array([0.5, 1.5], np.float32), "image": np.arange(24, dtype=np.int16).reshape(2, 2, 3, 2)},
)
TEXTS = ChunkOutput(np.array([3, 5]), {"text": ["a", None], "tags": [{"k": [1, 2]}, {"k": []}]})


@pytest.mark.parametrize("writer", [ParquetWriter(), JsonlWriter(), SafetensorsWriter()])
def test_chunk_without_rows_or_columns(writer):
    empty = ChunkOutput(np.empty(0, np.int64), {"x": np.empty((0, 2, 3), np.float32)})
    table = writer.decode(writer.encode(empty))
    assert table.num_rows == 0
    assert table.schema.field(INDEX_COLUMN).type == pa.int64()
    only_index = ChunkOutput(np.array([7]), {})
    assert writer.decode(writer.encode(only_index)).to_pydict() == {INDEX_COLUMN: [7]}


@pytest.mark.parametrize("writer", [ParquetWriter(), JsonlWriter(), SafetensorsWriter()])
def test_strides_and_byte_order_do_not_matter(writer):
    plain = np.arange(12, dtype=np.float32).reshape(2, 6)
    odd = np.asfortranarray(plain.astype(">f4"))
    expected = writer.encode(ChunkOutput(SAMPLE.index, {"x": plain}))
    assert writer.encode(ChunkOutput(SAMPLE.index, {"x": odd})) == expected


@pytest.mark.parametrize("name", ["ParquetWriter", "JsonlWriter", "SafetensorsWriter"])
def test_other_processes_write_the_same_bytes(name):
    # Another hash seed: no byte may depend on the order of a set or of a hash map.
    module = {"ParquetWriter": "_parquet", "JsonlWriter": "_jsonl", "SafetensorsWriter": "_safetensors"}[name]
    script = (
        "import hashlib, numpy as np\n"
        "from batchmill import ChunkOutput\n"
        f"from batchmill_plugins.writers.{module} import {name}\n"
        "columns = {c: np.arange(6, dtype=np.float32).reshape(2, 3) for c in 'zyxabc'}\n"
        f"print(hashlib.sha256({name}().encode(ChunkOutput(np.array([3, 5]), columns))).hexdigest())\n"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in "12"
    }
    assert len(digests) == 1
    assert len(digests.pop()) == 65


def test_parquet_is_read_by_plain_tools(tmp_path):
    path = tmp_path / "part.parquet"
    path.write_bytes(ParquetWriter().encode(ChunkOutput(SAMPLE.index, {**SAMPLE.columns, **TEXTS.columns})))
    table = pq.read_table(path)
    assert table.column_names == ["_index", "score", "image", "text", "tags"]
    assert table["_index"].to_pylist() == [3, 5]
    assert table["text"].to_pylist() == ["a", None]
    shape = json.loads(table.schema.field("image").metadata[b"batchmill.shape"])
    flat = table["image"].combine_chunks().flatten().to_numpy()
    assert np.array_equal(flat.reshape(2, *shape), SAMPLE.columns["image"])


def test_parquet_layout():
    columns = {"score": SAMPLE.columns["score"], "text": ["a", "a"], "emb": np.ones((2, 4), np.float32)}
    file = pq.ParquetFile(io.BytesIO(ParquetWriter("zstd").encode(ChunkOutput(SAMPLE.index, columns))))
    assert file.num_row_groups == 1
    group = file.metadata.row_group(0)
    found = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert list(found) == ["_index", "score", "text", "emb.list.element"]
    for path, uses_dictionary, has_statistics in (
        ("_index", False, True),
        ("score", False, False),
        ("text", True, True),
        ("emb.list.element", False, False),
    ):
        assert ("RLE_DICTIONARY" in found[path].encodings) is uses_dictionary, path
        assert (found[path].statistics is not None) is has_statistics, path
        assert found[path].compression == "ZSTD"
    kind = file.schema_arrow.field("emb").type
    assert kind == pa.list_(pa.field("element", pa.float32()), 4)


def test_parquet_ragged_arrays_and_tensors_keep_their_dtype():
    values = [torch.tensor([1.5]), np.array([2.5, 3.5], np.float32)]
    writer = ParquetWriter()
    table = writer.decode(writer.encode(ChunkOutput(SAMPLE.index, {"x": values})))
    assert table["x"].type.value_type == pa.float32()
    assert table["x"].to_pylist() == [[1.5], [2.5, 3.5]]
    nested = [torch.ones(1, 2, dtype=torch.bfloat16), np.zeros((2, 2))]
    table = writer.decode(writer.encode(ChunkOutput(SAMPLE.index, {"x": nested})))
    assert table["x"].to_pylist() == [[[1.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]]


def test_jsonl_bytes():
    output = ChunkOutput(np.array([3, 5]), {"é": ["ü", None], "x": np.array([[1, 2], [3, 4]])})
    assert JsonlWriter().encode(output).decode() == (
        '{"_index":3,"é":"ü","x":[1,2]}\n{"_index":5,"é":null,"x":[3,4]}\n'
    )
    mixed = ChunkOutput(np.array([0]), {"x": [{"t": (np.float32(0.5), torch.tensor([1, 2]))}]})
    assert JsonlWriter().encode(mixed) == b'{"_index":0,"x":{"t":[0.5,[1,2]]}}\n'


def test_none_writes_nothing():
    writer = NothingWriter()
    assert writer.extension == ""
    assert writer.encode(SAMPLE) == b""
    assert writer.decode(b"").to_pydict() == {INDEX_COLUMN: []}


def encode(writer, values, rows=2):
    writer.encode(ChunkOutput(np.arange(40, 40 + rows), {"odd": values}))


@pytest.mark.parametrize(
    ("writer", "values", "message"),
    [
        (JsonlWriter(), np.array([0.0, math.nan]), "'odd' holds nan, .* for sample 41"),
        (JsonlWriter(), np.array([[0.0, 1], [2, -math.inf]]), "'odd' holds -inf, .* for sample 41"),
        (JsonlWriter(), [{"a": [math.nan]}, 0], "'odd' holds nan, .* for sample 40"),
        (JsonlWriter(), ["a", b"b"], "'odd' holds a value of type bytes.* for sample 41"),
        (JsonlWriter(), [0, {"a": {1: 2}}], "key 1 of type int; expected strings, for sample 41"),
        (JsonlWriter(), [0, {"a"}], "a set has no order.* for sample 41"),
        (JsonlWriter(), [0, ["\ud800"]], "lone surrogate.* for sample 41"),
        (ParquetWriter(), [1, "a"], "'odd' cannot be stored as an Arrow column: .*same type"),
        (ParquetWriter(), [{}, {}], "'odd' holds dicts without any key"),
        (ParquetWriter(), [[{"a": {}}], []], "'odd' holds dicts without any key"),
        (ParquetWriter(), [{1: 2}, {}], "key 1 of type int; expected strings"),
        (ParquetWriter(), [{"a", "b"}, set()], "a set has no order"),
        (ParquetWriter(), ["\ud800", ""], "'odd' cannot be stored"),
        (ParquetWriter(), [2**70, 0], "'odd' cannot be stored"),
        (ParquetWriter(), [object(), 0], "'odd' cannot be stored"),
        (ParquetWriter(), np.array([1j, 2]), "'odd' holds complex128"),
        (
            SafetensorsWriter(),
            ["a", None],
            r"'odd' holds Python values \(NoneType, str\).*writer=parquet or jsonl",
        ),
        (SafetensorsWriter(), np.array(["a", "b"]), r"'odd' holds Python values \(str\)"),
        (SafetensorsWriter(), np.array([1j, 2]), "'odd' holds complex128"),
        (ParquetWriter(), np.zeros(3), "'odd' has 3 values; expected 2"),
        (JsonlWriter(), [1], "'odd' has 1 values; expected 2"),
    ],
)
def test_refusals_name_the_column(writer, values, message):
    with pytest.raises(OutputError, match=message):
        encode(writer, values)


@pytest.mark.parametrize("writer", [ParquetWriter(), JsonlWriter(), SafetensorsWriter()])
def test_reserved_names_are_refused(writer):
    with pytest.raises(OutputError, match="'_index', which is reserved"):
        writer.encode(ChunkOutput(np.array([0]), {INDEX_COLUMN: [0]}))
    if isinstance(writer, SafetensorsWriter):
        with pytest.raises(OutputError, match=r"'__metadata__'.* rename it"):
            writer.encode(ChunkOutput(np.array([0]), {"__metadata__": np.zeros(1)}))


def test_jsonl_that_arrow_cannot_hold_says_so_when_decoded():
    data = JsonlWriter().encode(ChunkOutput(np.array([0, 1]), {"odd": [1, "a"]}))
    with pytest.raises(OutputError, match="'odd' cannot be stored as an Arrow column"):
        JsonlWriter().decode(data)


def test_unknown_compression():
    with pytest.raises(ConfigError, match="'zip'; expected one of none, snappy, zstd"):
        ParquetWriter("zip")


def test_registered_under_their_names():
    catalog = Catalog()
    catalog.register(writers, "writers")
    names = catalog.registry.names(batchmill.Kind.WRITER)
    assert names == ["jsonl", "none", "parquet", "safetensors"]
    extensions = {}
    for name in names:
        component = catalog.registry.get(batchmill.Kind.WRITER, name)
        writer = component.load()(**vars(component.schema()))
        assert isinstance(writer, batchmill.Writer)
        extensions[name] = writer.extension
    assert extensions == {"jsonl": "jsonl", "none": "", "parquet": "parquet", "safetensors": "safetensors"}
