from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from batchmill import OutputError
from batchmill.engine.output_buffer import OutputBuffer

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6).filter(lambda name: name != "_index")
array_dtypes = st.sampled_from(["?", "i1", "i4", "i8", "u1", "f2", "f4", "f8"])
samples = st.one_of(st.none(), st.text(max_size=3), st.integers(), st.lists(st.floats(allow_nan=False), max_size=2))


@st.composite
def chunks(draw):
    """Batches of one chunk: (start, stop, columns or None), each column an array, a tensor or a list."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    kinds = {}
    for name in draw(st.lists(names, min_size=1, max_size=3, unique=True)):
        kind = draw(st.sampled_from(["array", "tensor", "list"]))
        kinds[name] = (kind, draw(array_dtypes), draw(hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3)))
    start, batches = draw(st.integers(0, 100)), []
    for size in sizes:
        columns = None
        if draw(st.booleans()):
            columns = {}
            for name, (kind, dtype, shape) in kinds.items():
                if kind == "list":
                    columns[name] = draw(st.lists(samples, min_size=size, max_size=size))
                else:
                    array = draw(hnp.arrays(dtype, (size, *shape)))
                    columns[name] = torch.from_numpy(array.copy()) if kind == "tensor" else array
        batches.append((start, start + size, columns))
        start += size
    return kinds, batches


@given(chunks())
def test_every_row_returned_is_kept_in_order_with_its_index(chunk):
    kinds, batches = chunk
    buffer = OutputBuffer(batches[0][0], batches[-1][1])
    for start, stop, columns in batches:
        if columns is not None:
            buffer.add(columns, start, stop)
    found = buffer.finish()
    written = [batch for batch in batches if batch[2] is not None]
    if not written:
        assert found is None
        return
    assert found.index.dtype == np.int64
    assert found.index.tolist() == [i for start, stop, _ in written for i in range(start, stop)]
    assert list(found.columns) == list(kinds) and found.rows == len(found.index)
    for name, (kind, dtype, shape) in kinds.items():
        values = found.columns[name]
        if kind == "list":
            assert values == [value for _, _, columns in written for value in columns[name]]
        else:
            assert values.dtype == np.dtype(dtype) and values.shape == (found.rows, *shape)
            assert values.flags["C_CONTIGUOUS"]
            expected = np.concatenate([np.asarray(columns[name]) for _, _, columns in written])
            assert values.tobytes() == expected.tobytes()


def filled(outputs, rows=3, start=0):
    buffer = OutputBuffer(start, start + rows)
    buffer.add(outputs, start, start + rows)
    return buffer.finish()


def test_a_processor_may_reuse_its_memory():
    tensor, items = torch.zeros(2), ["a", "b"]
    buffer = OutputBuffer(0, 4)
    buffer.add({"t": tensor, "s": items}, 0, 2)
    tensor += 1
    items[:] = ["c", "d"]
    buffer.add({"t": tensor, "s": items}, 2, 4)
    tensor += 1
    items.clear()
    found = buffer.finish()
    assert found.columns["t"].tolist() == [0, 0, 1, 1]
    assert found.columns["s"] == ["a", "b", "c", "d"]


def test_values_of_uneven_size_are_copied_too():
    memory, array = torch.zeros(6), np.zeros(2)
    buffer = OutputBuffer(0, 2)
    buffer.add({"t": [memory[:2], memory[2:5]], "a": [array, None]}, 0, 2)
    memory += 1
    array += 1
    found = buffer.finish().columns
    assert [item.tolist() for item in found["t"]] == [[0, 0], [0, 0, 0]]
    assert found["a"][0].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        (torch.tensor([1, 2, 3]), {"output": [1, 2, 3]}),
        (np.array([1.5, 2.5, 3.5]), {"output": [1.5, 2.5, 3.5]}),
        (["a", "b", "c"], {"output": ["a", "b", "c"]}),
        (("a", None, 3), {"output": ["a", None, 3]}),
        (range(3), {"output": [0, 1, 2]}),
        ([{"x": 1, "y": "a"}, {"y": "b", "x": 2}, {"x": 3, "y": "c"}], {"x": [1, 2, 3], "y": ["a", "b", "c"]}),
        ({"x": (value for value in "abc")}, {"x": ["a", "b", "c"]}),
        ({"x": [torch.tensor(1), torch.tensor(2), torch.tensor(3)]}, {"x": [1, 2, 3]}),
        ({"x": np.array(["a", "b", "c"])}, {"x": ["a", "b", "c"]}),
        ({"x": torch.ones(3, requires_grad=True)}, {"x": [1.0, 1.0, 1.0]}),
        ({"x": torch.tensor([1 + 1j, 2, 3]).conj()}, {"x": [1 - 1j, 2, 3]}),
        ({"x": torch.arange(6).reshape(2, 3).T}, {"x": [[0, 3], [1, 4], [2, 5]]}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_processor_may_return(outputs, expected):
    found = filled(outputs).columns
    assert {name: list(map(_plain, values)) for name, values in found.items()} == expected


def _plain(value):
    return value.tolist() if hasattr(value, "tolist") else value


def test_bfloat16_arrives_as_float32():
    found = filled({"x": torch.tensor([1.5, -2.0, 3.25], dtype=torch.bfloat16)}).columns["x"]
    assert found.dtype == np.float32 and found.tolist() == [1.5, -2.0, 3.25]


def test_lists_of_tensors_of_equal_shape_become_one_array_and_others_stay_apart():
    even = filled({"x": [torch.ones(2), torch.zeros(2), torch.ones(2)]}).columns["x"]
    assert isinstance(even, np.ndarray) and even.shape == (3, 2)
    uneven = filled({"x": [torch.ones(1), torch.zeros(2), torch.tensor(7)]}).columns["x"]
    assert isinstance(uneven, list) and [_plain(item) for item in uneven] == [[1], [0, 0], 7]


class Pair(NamedTuple):
    score: torch.Tensor
    label: list


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"x": [1, 2]}, r"Column 'x' has 2 values for samples 0\.\.2; expected 3, one for each sample"),
        ({"x": torch.ones(4, 2)}, "Column 'x' has 4 values"),
        ({"loss": torch.tensor(0.5)}, "Column 'loss' has 1 values for samples"),
        ({"loss": 0.5}, r"Column 'loss' is a float for samples 0\.\.2; expected one value per sample"),
        ({"loss": None}, "Column 'loss' is a NoneType"),
        ({"label": "cat"}, "Column 'label' is a str"),
        ({"label": b"cat"}, "Column 'label' is a bytes"),
        ({"x": {"a": 1, "b": 2, "c": 3}}, "Column 'x' is a dict"),
        ({"x": {1, 2, 3}}, "Column 'x' is a set"),
        ({"x": torch.eye(3).to_sparse()}, "Column 'x' cannot be copied"),
        ({"x": torch.ones(3).to(torch.float8_e5m2)}, "Column 'x' cannot be copied"),
        ({}, "returned an empty mapping for samples"),
        ({1: [1, 2, 3]}, "returned a column named 1 for"),
        ({"": [1, 2, 3]}, "returned a column named ''"),
        ({"_index": [1, 2, 3]}, "'_index', which is the sample's index"),
        ([{"a": 1}, {"b": 1}, {"a": 1}], r"Row 1 of samples 0\.\.2 has keys 'b', the first row has 'a'"),
        ("abc", "process_batch returned a str for samples"),
        (3, "process_batch returned a int for samples"),
        pytest.param(object(), "process_batch returned a object for samples", id="object"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_cannot_be_rows_is_refused_with_the_column_and_the_samples(outputs, message):
    with pytest.raises(OutputError, match=message):
        filled(outputs)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"x": [1]}, {"x": [1], "y": [1]}, r"returned columns 'x', 'y' for samples 1\.\.1, but 'x' before"),
        ({"x": [1], "y": [1]}, {"x": [1]}, r"returned columns 'x' for samples 1\.\.1, but 'x', 'y' before"),
        ({"x": torch.ones(1)}, {"x": [1.0]}, "Column 'x' is a list for samples"),
        ({"x": [1.0]}, {"x": torch.ones(1)}, "Column 'x' is an array for samples"),
        ({"x": torch.ones(1)}, {"x": torch.ones(1).double()}, r"Column 'x' holds float64 .* but float32"),
        ({"x": torch.ones(1, 2)}, {"x": torch.ones(1, 3)}, r"shape \(3,\) a sample .* shape \(2,\)"),
    ],
)
def test_columns_may_not_change_within_a_chunk(first, second, message):
    buffer = OutputBuffer(0, 2)
    buffer.add(first, 0, 1)
    with pytest.raises(OutputError, match=message):
        buffer.add(second, 1, 2)


def test_nothing_returned_is_nothing_written():
    assert OutputBuffer(0, 5).finish() is None


def test_rows_may_have_no_width():
    assert filled({"x": torch.empty(3, 0)}).columns["x"].shape == (3, 0)


def test_a_tuple_with_names_is_a_sequence_like_any_other():
    with pytest.raises(OutputError, match="has 2 values"):
        filled(Pair(torch.ones(3), ["a", "b", "c"]))
