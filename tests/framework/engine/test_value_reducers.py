import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from batchmill import Reducer, ReducerError
from batchmill.engine.reduction import ReducerSet
from batchmill.engine.serialization import canonical_json
from batchmill.engine.value_reducers import ValueReducer

numbers = st.floats(min_value=-1e200, max_value=1e200)
weights = st.floats(min_value=1e-3, max_value=1e3)


def run(chunks, *wraps):
    """Feed chunks of (value, ...) to every reducer and fold what they give, as it comes back from storage."""
    reducers = ReducerSet()
    wrapped = [reducers.wrap(reducer, name) for reducer, name in wraps]
    partials = []
    for chunk in chunks:
        for values in chunk:
            for reducer in wrapped:
                reducer.update(*values)
        partials.append(json.loads(canonical_json(reducers.take_partials())))
    return reducers.fold(partials)


chunked = st.lists(st.lists(st.tuples(numbers, weights), max_size=4), min_size=1, max_size=5)


@given(chunked, st.integers(1, 4))
def test_ready_made_reductions_do_not_depend_on_chunks(chunks, size):
    flat = [item for chunk in chunks for item in chunk]
    regrouped = [flat[i : i + size] for i in range(0, len(flat), size)] or [[]]
    wraps = [(member, member.value) for member in Reducer]
    assert run(chunks, *wraps) == run(regrouped, *wraps)


@given(chunked)
def test_ready_made_reductions_give_what_their_names_say(chunks):
    flat = [item for chunk in chunks for item in chunk]
    values = [value for value, _ in flat]
    found = run(chunks, *((member, member.value) for member in Reducer))
    assert found["sum"] == math.fsum(values)
    assert found["max"] == max(values, default=None) and found["min"] == min(values, default=None)
    if flat:
        mean = math.fsum(value * weight for value, weight in flat) / math.fsum(weight for _, weight in flat)
        assert found["avg"] == pytest.approx(mean, rel=1e-9, abs=1e-9)
    else:
        assert found["avg"] is None


def test_an_average_weighs_its_values():
    assert run([[(1.0, 3)], [(5.0, 1)]], (Reducer.AVG, "mean")) == {"mean": 2.0}
    assert run([[(1.0,)], [(5.0,)]], (Reducer.AVG, "mean")) == {"mean": 3.0}
    assert run([[(1.0, 0)]], (Reducer.AVG, "mean")) == {"mean": None}


def test_ready_made_reductions_take_tensors_of_one_element():
    values = [(torch.tensor([2.0]),), (np.float32(3),), (torch.tensor(4),)]
    assert run([values], (Reducer.SUM, "s"), (Reducer.MAX, "m")) == {"s": 9.0, "m": 4.0}


@pytest.mark.parametrize("value", [math.nan, math.inf, torch.tensor(-math.inf)])
def test_ready_made_reductions_refuse_what_is_not_finite(value):
    for member in Reducer:
        reducer = ValueReducer(member)
        with pytest.raises(ReducerError, match=f"Reducer.{member.name} was given"):
            reducer.update(value)
        assert reducer.cross_slot_reduce([reducer.per_slot_reduce()]) in (None, 0.0), "nothing was added"


@pytest.mark.parametrize(
    ("values", "largest", "smallest"),
    [
        ([0.0, -0.0], 0.0, 0.0),
        ([1, 1.0], 1, 1),
        ([True, 1.0, 0.5], 1, 0.5),
        ([2**53, 2**53 + 1], 2**53 + 1, 2**53),
        ([torch.tensor(2**53 + 1), float(2**53)], 2**53 + 1, float(2**53)),
    ],
    ids=str,
)
def test_extremes_are_the_same_in_any_order(values, largest, smallest):
    for order in (values, values[::-1]):
        found = run([[(value,)] for value in order], (Reducer.MAX, "max"), (Reducer.MIN, "min"))
        assert repr(found) == repr({"max": largest, "min": smallest})
        found = run([[(value,) for value in order]], (Reducer.MAX, "max"), (Reducer.MIN, "min"))
        assert repr(found) == repr({"max": largest, "min": smallest})


def test_sums_of_large_integers_are_exact():
    values = [(2**53 + 1,), (2**53 + 1,), (torch.tensor(2**62),), (-(2**62),), (2**63 + 1,), (-(2**63),)]
    assert run([values], (Reducer.SUM, "sum")) == {"sum": float(2**54 + 3)}
    assert run([[(2**53 + 1,)], [(2**53 + 3,)]], (Reducer.AVG, "mean")) == {"mean": float(2**53 + 2)}


@pytest.mark.parametrize("weight", [math.nan, math.inf, 1e300])
def test_an_average_refuses_weights_with_which_it_would_not_be_finite(weight):
    reducer = ValueReducer(Reducer.AVG)
    with pytest.raises(ReducerError, match=r"given 10000000000.0 with weight .*; expected finite"):
        reducer.update(1e10, weight)
    assert reducer.cross_slot_reduce([reducer.per_slot_reduce()]) is None


@given(st.lists(st.lists(st.integers(), max_size=3), min_size=1, max_size=5))
def test_a_function_sees_every_value_in_dataset_order(chunks):
    seen = []
    run([[(value,) for value in chunk] for chunk in chunks], (lambda values: seen.extend(values) or len(values), "n"))
    assert seen == [value for chunk in chunks for value in chunk]


def test_an_error_in_a_function_names_the_metric():
    with pytest.raises(ReducerError, match=r"Reducer 'ratio' .* failed: ZeroDivisionError"):
        run([[]], (lambda values: 1 / len(values), "ratio"))
