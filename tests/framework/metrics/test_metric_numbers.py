import json
import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from batchmill.metrics.numbers import Number, difference, exact, json_ready, nearest_float, relative_difference

INF = math.inf
numbers = st.one_of(st.integers(), st.floats(allow_nan=False)).map(exact)
finite = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False)).map(exact)


@pytest.mark.parametrize("value", ["1", True, False, None, math.nan, [1], {"a": 1}])
def test_what_is_no_number(value: Any) -> None:
    assert exact(value) is None


def test_floats_are_the_decimals_that_people_see() -> None:
    a, b = exact(0.99), exact(0.98)
    assert a is not None
    assert b is not None
    assert difference(a, b) == Fraction("-0.01")
    assert difference(a, b) != Fraction(0.98 - 0.99)


@given(numbers, numbers)
def test_the_difference_is_antisymmetric(a: Number, b: Number) -> None:
    assert difference(a, b) == -difference(b, a)
    assert (difference(a, b) > 0) == (b > a)


@given(finite, finite)
def test_the_difference_leads_from_one_to_the_other(a: Fraction, b: Fraction) -> None:
    assert a + difference(a, b) == b


@given(numbers, numbers)
def test_the_relative_difference_has_the_sign_of_the_change(a: Number, b: Number) -> None:
    share = relative_difference(a, b)
    assert (share > 0, share == 0) == (b > a, a == b)
    assert relative_difference(-a, -b) == -share


@given(finite, finite, st.fractions(min_value=Fraction(1, 1000)))
def test_the_relative_difference_knows_no_unit(a: Fraction, b: Fraction, unit: Fraction) -> None:
    assume(a != 0)
    assert relative_difference(a * unit, b * unit) == relative_difference(a, b)
    assert a + abs(a) * relative_difference(a, b) == b


@pytest.mark.parametrize(
    ("a", "b", "change", "share"),
    [
        (INF, INF, 0, 0),
        (-INF, -INF, 0, 0),
        (-INF, INF, INF, INF),
        (INF, -INF, -INF, -INF),
        (1.0, INF, INF, INF),
        (INF, 1.0, -INF, -INF),
        (-INF, 1.0, INF, INF),
        (0, 0.0, 0, 0),
        (0, 3, 3, INF),
        (0.0, -3, -3, -INF),
        (-2, -3, -1, -0.5),
        (1e308, -1e308, -2 * Fraction("1e308"), -2),
    ],
)
def test_what_floats_leave_open(a: float, b: float, change: Number, share: Number) -> None:
    first, second = exact(a), exact(b)
    assert first is not None
    assert second is not None
    assert (difference(first, second), relative_difference(first, second)) == (change, share)


def test_the_nearest_float() -> None:
    assert nearest_float(Fraction(10) ** 400) == INF
    assert nearest_float(-(Fraction(10) ** 400)) == -INF
    assert (nearest_float(Fraction(1, 10)), nearest_float(INF)) == (0.1, INF)


def test_json_has_no_infinities() -> None:
    ready = json_ready({"a": [INF, -INF, (math.nan, 1)], "b": Fraction(1, 2), "c": Fraction(10) ** 400, "d": True})
    text = json.dumps(ready, allow_nan=False)
    assert json.loads(text) == {
        "a": ["Infinity", "-Infinity", ["NaN", 1]],
        "b": 0.5,
        "c": "Infinity",
        "d": True,
    }
    assert float(ready["a"][0]) == INF
