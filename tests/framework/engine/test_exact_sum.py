import itertools
import json
import math
import random
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from batchmill.engine import exact_sum
from batchmill.engine.exact_sum import ExactSum

# Small enough that math.fsum's own intermediate sums cannot overflow.
summable = st.floats(min_value=-1e300, max_value=1e300)
finite = st.floats(allow_nan=False, allow_infinity=False)


def sum_of(values) -> ExactSum:
    total = ExactSum()
    total.add(values)
    return total


@given(st.lists(summable))
def test_equals_fsum(values):
    assert sum_of(values).value() == math.fsum(values)


@given(st.lists(finite), st.lists(st.integers(0, 60)), st.randoms(use_true_random=False))
def test_any_split_order_and_merge_gives_the_same_state(values, cuts, rng):
    shuffled = list(values)
    rng.shuffle(shuffled)
    edges = [0, *sorted(min(cut, len(values)) for cut in cuts), len(values)]
    parts = [sum_of(shuffled[a:b]) for a, b in itertools.pairwise(edges)]
    rng.shuffle(parts)
    while len(parts) > 1:  # merge in a random tree, through the stored form
        other = parts.pop(rng.randrange(len(parts)))
        rng.choice(parts).merge(ExactSum.from_state(json.loads(json.dumps(other.state()))))
    assert parts[0].state() == sum_of(values).state()


@given(st.lists(finite, min_size=1))
def test_state_and_mean_are_exact(values):
    exact = sum(map(Fraction, values), Fraction(0))
    total = sum_of(values)
    state = total.state()
    assert Fraction(int(state["mantissa"], 16)) * Fraction(2) ** state["exponent"] == exact
    assert state["count"] == total.count == len(values)
    mean = exact / len(values)
    assert total.mean() == mean.numerator / mean.denominator


@given(
    hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64]),
        hnp.array_shapes(min_side=0, max_dims=3),
        elements={"allow_nan": False, "allow_infinity": False},
    )
)
def test_narrow_floats_of_any_shape(array):
    exact = sum((Fraction(float(value)) for value in array.reshape(-1)), Fraction(0))
    expected = ExactSum()
    expected.add([float(value) for value in array.reshape(-1)])
    assert sum_of(array).state() == expected.state()
    assert (
        Fraction(int(sum_of(array).state()["mantissa"], 16)) * Fraction(2) ** sum_of(array).state()["exponent"] == exact
    )


@given(
    hnp.arrays(
        st.sampled_from(["?", "i1", "u2", "i4", "u4", "i8", "u8", ">i8", ">f4"]),
        hnp.array_shapes(),
        elements=None,
    ).filter(lambda a: a.dtype.kind != "f" or np.isfinite(a).all())
)
def test_integers_and_foreign_byte_orders(array):
    expected = sum((Fraction(value) for value in array.reshape(-1).tolist()), Fraction(0))
    state = sum_of(array).state()
    assert Fraction(int(state["mantissa"], 16)) * Fraction(2) ** state["exponent"] == expected
    assert state["count"] == array.size


def test_integers_beyond_float_precision_are_exact():
    total = sum_of([2**53 + 1])
    total.add([-(2**53)])
    assert total.value() == 1.0


def test_large_array_is_exact_across_blocks_and_emptied_bins(monkeypatch):
    values = np.random.default_rng(0).lognormal(0, 30, 100_000) * np.random.default_rng(1).choice([-1, 1], 100_000)
    monkeypatch.setattr(exact_sum, "_PENDING_LIMIT", 40_000)
    assert sum_of(values).value() == math.fsum(values)


def test_bins_stay_exact_at_their_limit():
    # One binade, largest mantissa: the bins' totals are as large as they can get for this many values.
    largest, smallest = np.nextafter(2.0, 1.0), np.nextafter(-2.0, -1.0)
    for value in (largest, smallest, 1 + 2.0**-52):
        total = sum_of(np.full(300_000, value))
        state = total.state()
        assert Fraction(int(state["mantissa"], 16)) * Fraction(2) ** state["exponent"] == Fraction(value) * 300_000
    # The proof for the full limit: both halves of any mantissa fit float64's 53 bits that many times.
    assert exact_sum._PENDING_LIMIT * 2**exact_sum._HIGH_BITS <= 2**53
    assert exact_sum._PENDING_LIMIT * 2**exact_sum._LOW_BITS <= 2**53


def test_extremes():
    tiny, huge = 5e-324, 1.7976931348623157e308
    assert sum_of([tiny]).value() == tiny
    assert sum_of([tiny, -tiny]).state() == {"count": 2, "mantissa": "0", "exponent": 0}
    assert sum_of([huge, tiny, -huge]).value() == tiny
    assert sum_of([huge, huge]).mean() == huge
    assert sum_of([]).value() == 0.0
    assert sum_of([]).mean() is None
    with pytest.raises(OverflowError, match="beyond the largest float64"):
        sum_of([huge, huge]).value()


def test_tensors():
    values = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert sum_of(values).value() == math.fsum(values.flatten().tolist())
    half = values.to(torch.bfloat16)
    assert sum_of(half).value() == math.fsum(half.flatten().tolist())
    assert sum_of(torch.tensor(2.5)).value() == 2.5
    assert sum_of(2.5).count == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, math.nan], r"at \[1\] of shape \[2\] is nan"),
        (
            np.array([[0, 1], [2, -math.inf]], np.float32),
            r"at \[1, 1\] of shape \[2, 2\] is -inf",
        ),
        (math.inf, r"at \[0\] of shape \[1\] is inf"),
        (["a"], "dtype <U1"),
        ([None], "dtype object"),
        ([1j], "dtype complex128"),
    ],
)
def test_what_cannot_be_added_is_refused_whole(values, message):
    total = sum_of([1.0])
    with pytest.raises(ValueError, match=message):
        total.add(values)
    assert total.state() == sum_of([1.0]).state()


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"count": 1, "mantissa": "zz", "exponent": 0},
        {"count": 1, "mantissa": 3, "exponent": 0},
        {"count": -1, "mantissa": "1", "exponent": 0},
        {"count": 1, "mantissa": "1", "exponent": -2000},
    ],
)
def test_foreign_state_is_refused(state):
    with pytest.raises(ValueError, match="ExactSum"):
        ExactSum.from_state(state)


def test_merge_leaves_the_other_alone_and_may_be_with_itself():
    one, other = sum_of([0.1]), sum_of([0.2])
    before = other.state()
    one.merge(other)
    assert other.state() == before
    one.merge(one)
    assert one.state() == sum_of([0.1, 0.2, 0.1, 0.2]).state()
    assert repr(sum_of([0.5])) == "ExactSum(value=0.5, count=1)"


def test_worker_counts_and_shuffled_merges_agree_bit_for_bit():
    values = np.random.default_rng(5).lognormal(0, 10, 20_000)
    states = []
    for workers in (1, 2, 3, 5, 8, 13):
        parts = [sum_of(values[rank::workers]) for rank in range(workers)]
        random.Random(workers).shuffle(parts)
        for part in parts[1:]:
            parts[0].merge(part)
        states.append(parts[0].state())
    assert all(state == states[0] for state in states)
    assert ExactSum.from_state(states[0]).value() == math.fsum(values)
