"""Rows of outputs: a list holds one value per sample, whatever the values look like."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from batchmill import OutputError
from batchmill.engine.output_buffer import OutputBuffer
from batchmill.engine.output_rows import join_outputs, select_outputs


def buffered(outputs, rows):
    """What is written of outputs, as plain lists."""
    buffer = OutputBuffer(0, rows)
    buffer.add(outputs, 0, rows)
    finished = buffer.finish()
    return {name: [np.asarray(v).tolist() for v in values] for name, values in finished.columns.items()}


def outputs_of(rows):
    vectors = torch.arange(float(rows * rows)).reshape(rows, rows)
    columns = st.sampled_from(
        [
            vectors,
            vectors.numpy(),
            list(vectors),  # as many numbers in each vector as there are rows: not columns
            tuple(vectors),
            vectors.tolist(),
            [f"t{i}" for i in range(rows)],
            [{"box": i} for i in range(rows)],
            range(rows),
            pa.array(range(rows)),
        ]
    )
    return st.one_of(
        columns.filter(lambda values: not isinstance(values, pa.Array)),
        st.dictionaries(st.sampled_from("abcd"), columns, min_size=1),
    )


@given(st.integers(1, 6), st.data())
def test_pieces_joined_write_what_the_whole_writes(rows, data):
    outputs = data.draw(outputs_of(rows))
    places = sorted(data.draw(st.sets(st.integers(1, rows - 1)))) if rows > 1 else []
    pieces = list(zip([0, *places], [*places, rows], strict=True))
    selected = [select_outputs(outputs, rows, range(*piece)) for piece in pieces]
    joined = join_outputs(selected, [stop - start for start, stop in pieces])
    assert buffered(joined, rows) == buffered(outputs, rows)


@given(st.integers(1, 6), st.data())
def test_chosen_rows_are_those_of_the_whole(rows, data):
    outputs = data.draw(outputs_of(rows))
    positions = sorted(data.draw(st.sets(st.integers(0, rows - 1), min_size=1)))
    whole = buffered(outputs, rows)
    chosen = buffered(select_outputs(outputs, rows, positions), len(positions))
    assert chosen == {name: [values[position] for position in positions] for name, values in whole.items()}


def test_what_can_be_read_only_once_is_read_once():
    assert select_outputs({"y": (i * i for i in range(3))}, 3, [0, 2]) == {"y": [0, 4]}


def test_nothing_joined_is_nothing():
    assert join_outputs([None, None], [2, 1]) is None


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"y": [1, 2]}, "Column 'y' has 2 values; expected 3, one for each sample"),
        (torch.zeros(4), "What process_batch returned has 4 values; expected 3"),
        (torch.tensor(1.0), "is a single value; expected one value per sample"),
        ({"y": "abc"}, "Column 'y' is a str; expected one value per sample"),
        ({"y": 5}, "Column 'y' is a int; expected one value per sample"),
    ],
)
def test_outputs_without_a_value_per_sample_are_refused(outputs, message):
    with pytest.raises(OutputError, match=message):
        select_outputs(outputs, 3, [0])


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([{"a": [1]}, {"b": [1]}], "other columns for one piece of a batch"),
        ([{"a": [1]}, None], "is a dict|is a NoneType"),
        (
            [{"a": torch.zeros(1)}, {"a": [1]}],
            r"Column 'a' is of different types.*: Tensor, list",
        ),
        ([torch.zeros(1, 2), torch.zeros(1, 3)], "do not fit together"),
        ([[1, 2], [3]], "has 2 values; expected 1"),
    ],
)
def test_pieces_that_do_not_fit_are_refused(pieces, message):
    with pytest.raises(OutputError, match=message):
        join_outputs(pieces, [1, 1])
