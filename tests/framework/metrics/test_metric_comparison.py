from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.errors import ModelError
from batchmill.metrics.comparison import compare, latest_values

values = st.one_of(st.integers(), st.floats(allow_nan=False), st.text(), st.booleans(), st.lists(st.integers()))
reported = st.dictionaries(st.sampled_from("abcdef"), values)


def report(group: str, step: int, rank: int = 0, **metrics: Any) -> dict[str, Any]:
    return {"group": group, "steps_completed": step, "rank": rank, "metrics": metrics}


@given(reported, reported)
def test_exchanging_the_sides_turns_the_sign(a: dict[str, Any], b: dict[str, Any]) -> None:
    there, back = ({row.metric: row for row in compare(*sides)} for sides in ((a, b), (b, a)))
    assert set(there) == set(back) == set(a) | set(b)
    for name, row in there.items():
        other = back[name]
        assert (row.a, row.b) == (other.b, other.a)
        assert (row.difference is None) == (other.difference is None)
        if row.difference is not None:
            assert other.difference is not None
            assert row.difference == -other.difference


@given(reported)
def test_what_is_equal_has_no_difference(a: dict[str, Any]) -> None:
    assert {row.difference for row in compare(a, a)} <= {0, None}
    assert {row.relative for row in compare(a, a)} <= {0, None}


def test_every_metric_of_either_side() -> None:
    rows = compare({"x": 1, "only_a": 2, "text": "p", "flag": True}, {"x": 3, "only_b": 4, "text": "q", "flag": False})
    assert [(row.metric, row.a, row.b, row.difference) for row in rows] == [
        ("x", 1, 3, 2),
        ("only_a", 2, None, None),
        ("text", "p", "q", None),
        ("flag", True, False, None),
        ("only_b", None, 4, None),
    ]


def test_each_metric_counts_with_its_last_step() -> None:
    reports = [report("g", 20, a=2), report("g", 10, a=1, b=5), report("other", 30, a=9), report("g", 20, rank=1, c=7)]
    assert latest_values(reports, "g", "r") == {"a": 2, "b": 5, "c": 7}


def test_ranks_that_agree_and_ranks_that_do_not() -> None:
    assert latest_values([report("g", 1, 0, a=2), report("g", 1, 1, a=2)], "g", "r") == {"a": 2}
    earlier = [report("g", 1, 0, a=2), report("g", 1, 1, a=3)]
    with pytest.raises(ModelError, match=r"several values of metric 'a' in group 'g' at step 1: 2 from rank 0, 3 from"):
        latest_values(earlier, "g", "r")


def test_a_group_that_nobody_reported() -> None:
    with pytest.raises(ModelError, match=r"Run r reported no metrics in group 'g'\. Groups there: h, i\."):
        latest_values([report("i", 1, a=1), report("h", 1, a=1)], "g", "r")
    with pytest.raises(ModelError, match=r"Groups there: none\."):
        latest_values([], "g", "r")
