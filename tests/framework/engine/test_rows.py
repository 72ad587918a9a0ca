"""Laws of choosing and joining rows: taking pieces of a batch and joining them gives the batch."""

from collections import OrderedDict, namedtuple

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from batchmill import OutputError
from batchmill.engine.rows import join_rows, select_rows

Pair = namedtuple("Pair", "left right")


def same(a, b):
    if isinstance(a, torch.Tensor):
        return type(a) is type(b) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return type(a) is type(b) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a == b


def columns(rows):
    """Strategies for values with one entry per row, not all of which are tensors of as many rows."""
    return st.sampled_from(
        [
            torch.arange(rows * 3.0).reshape(rows, 3),
            torch.arange(rows) * 7,
            np.arange(rows, dtype=np.float32)[:, None],
            np.array([f"n{i}" for i in range(rows)], dtype=object),
            [f"text {i}" for i in range(rows)],
            tuple(torch.full((i % 3 + 20,), i) for i in range(rows)),
            pa.table({"x": list(range(rows))}),
        ]
    )


@st.composite
def batches(draw):
    rows = draw(st.integers(1, 9))
    leaf = columns(rows)
    nested = st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3),
            st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3).map(OrderedDict),
            st.tuples(inner, inner).map(lambda two: Pair(*two)),
            st.lists(inner, min_size=rows + 1, max_size=rows + 1),
        ),
        max_leaves=4,
    )
    return rows, draw(nested)


@st.composite
def cuts(draw, rows):
    places = sorted(draw(st.sets(st.integers(1, rows - 1)))) if rows > 1 else []
    return list(zip([0, *places], [*places, rows], strict=True))


@given(batches(), st.data())
def test_pieces_joined_are_the_batch(batch, data):
    rows, values = batch
    pieces = data.draw(cuts(rows))
    selected = [select_rows(values, rows, range(*piece)) for piece in pieces]
    assert same(join_rows(selected, [stop - start for start, stop in pieces]), values)


@given(batches(), st.data())
def test_selecting_twice_is_selecting_once(batch, data):
    rows, values = batch
    first = data.draw(st.lists(st.integers(0, rows - 1), min_size=1, max_size=12))
    second = data.draw(st.lists(st.integers(0, len(first) - 1), min_size=1, max_size=12))
    twice = select_rows(select_rows(values, rows, first), len(first), second)
    assert same(twice, select_rows(values, rows, [first[position] for position in second]))


def test_the_batch_of_torchs_default_collate_is_cut_by_rows():
    batch = [torch.arange(2.0), {"y": torch.arange(4).reshape(2, 2)}, ("a", "b")]
    found = select_rows(batch, 2, [1])
    assert same(found, [torch.tensor([1.0]), {"y": torch.tensor([[2, 3]])}, ("b",)])


def test_selected_rows_have_memory_of_their_own():
    batch = {"x": torch.zeros(4), "y": np.zeros(4)}
    chosen = select_rows(batch, 4, range(4))
    chosen["x"] += 1
    chosen["y"] += 1
    assert batch["x"].sum() == 0 and batch["y"].sum() == 0


def test_single_values_belong_to_every_row():
    batch = {"x": torch.arange(3), "task": "caption", "scale": 0.5, "size": torch.tensor(7), "none": None}
    found = select_rows(batch, 3, [2])
    assert same(found, {**batch, "x": torch.tensor([2])})
    assert same(join_rows([found, found], [1, 1])["task"], "caption")
    with pytest.raises(OutputError, match="different single values"):
        join_rows([{"scale": 1.0}, {"scale": 2.0}], [1, 1])


def test_what_may_be_columns_or_rows_is_refused_unless_known():
    batch = [torch.arange(2), torch.arange(2)]
    assert same(select_rows(batch, 2, [0]), [torch.tensor([0]), torch.tensor([0])])
    with pytest.raises(OutputError, match="of 2 tensors with 2 rows each may hold columns or rows"):
        select_rows(batch, 2, [0], columns=False)
    assert same(select_rows(batch, 2, [0], columns=True), [torch.tensor([0]), torch.tensor([0])])
    texts = ["a", "b"]
    assert select_rows(texts, 2, [1], columns=False) == ["b"]


@pytest.mark.parametrize("batch", [object(), {1, 2}, [1, 2, 3], torch.zeros(3), [torch.zeros(3)]])
def test_what_has_no_rows_is_refused(batch):
    with pytest.raises(OutputError, match=r"cannot be told apart|Expected 2 rows"):
        select_rows(batch, 2, [0])


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([torch.zeros(1), [0]], "of different types: Tensor, list"),
        ([torch.zeros(1, 2), torch.zeros(1, 3)], "do not fit together"),
        ([np.zeros((1, 2)), np.zeros((1, 3))], "do not fit together"),
        ([torch.zeros(1), torch.zeros(2)], "Expected 1 rows"),
        ([{"a": torch.zeros(1)}, {"b": torch.zeros(1)}], "different keys"),
        ([[torch.zeros(1)] * 3, [torch.zeros(1)] * 4], "different numbers of columns"),
        ([[1, 2], [3, 4]], "cannot be joined"),
        ([object(), object()], "cannot be joined"),
    ],
)
def test_pieces_that_do_not_fit_are_refused(pieces, message):
    with pytest.raises(OutputError, match=message):
        join_rows(pieces, [1, 1])


def test_record_batches_and_arrow_arrays_join():
    record = pa.record_batch({"x": [1, 2]})
    assert join_rows([record, record], [2, 2]).column("x").to_pylist() == [1, 2, 1, 2]
    assert join_rows([pa.array([1]), pa.array([2])], [1, 1]).to_pylist() == [1, 2]
