import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.errors import ConfigError, ModelError
from batchmill.metrics.comparison import compare
from batchmill.metrics.conditions import OPERATORS, Condition, Subject, judge, parse_condition

INF = math.inf
names = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    st.sampled_from(["B.x", "B.", '"', "a<b", " a ", "a>=", "%", "B.B.x", "top-5 accuracy", "\n", '"a"']),
)
limits = st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**9), max_value=10**9)
conditions = st.builds(Condition, names, st.sampled_from(Subject), st.sampled_from(sorted(OPERATORS)), limits)


@given(conditions)
def test_a_condition_reads_as_it_was_written(condition: Condition) -> None:
    assert parse_condition(str(condition)) == condition


@given(st.text(alphabet='aB."<>=%1-+e \t'))
def test_any_text_is_a_condition_or_an_error_that_teaches(text: str) -> None:
    try:
        condition = parse_condition(text)
    except ConfigError as error:
        assert "condition" in str(error)
    else:
        assert parse_condition(str(condition)) == condition


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("accuracy<-0.01", ("accuracy", Subject.DIFFERENCE, "<", "-0.01")),
        (" loss > 5 % ", ("loss", Subject.RELATIVE, ">", "5")),
        ("B.accuracy<=0.9", ("accuracy", Subject.VALUE, "<=", "0.9")),
        ("B.B.x>1", ("B.x", Subject.VALUE, ">", "1")),
        ('"B.x">=1e-3', ("B.x", Subject.DIFFERENCE, ">=", "0.001")),
        ('B."a b">+.5', ("a b", Subject.VALUE, ">", "0.5")),
        ("a<b<2.", ("a<b", Subject.DIFFERENCE, "<", "2")),
        ("top-5 accuracy<0", ("top-5 accuracy", Subject.DIFFERENCE, "<", "0")),
        ("Baccuracy<0", ("Baccuracy", Subject.DIFFERENCE, "<", "0")),
    ],
)
def test_forms(text: str, expected: tuple[str, Subject, str, str]) -> None:
    metric, subject, sign, limit = expected
    assert parse_condition(text) == Condition(metric, subject, sign, Decimal(limit))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "has no comparison"),
        ("accuracy", "has no comparison"),
        ("accuracy=0.9", "has no comparison"),
        ("accuracy<", "compares with ''"),
        ("accuracy<x", "compares with 'x'"),
        ("accuracy<nan", "compares with 'nan'"),
        ("accuracy<inf", "compares with 'inf'"),
        ("accuracy<1_0", "compares with '1_0'"),
        ("accuracy<0x1", "compares with '0x1'"),
        ("accuracy<٣", "is no number"),
        ("accuracy<1e9999", "is no number"),
        ("accuracy<" + "9" * 5000, "is no number"),
        ("accuracy<5%%", "compares with '5%'"),
        ("accuracy<__import__('os')", "is no number"),
        ("<0.1", "names no metric"),
        ("B.<0.1", "names no metric"),
        ('""<0.1', "names no metric"),
        ('"a<0.1', "quoted name that cannot be read"),
        ("B.accuracy<90%", "has no percentage"),
    ],
)
def test_what_is_refused(text: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_condition(text)
    assert fault in str(caught.value)


def holds(text: str, a: Any, b: Any) -> bool:
    (outcome,) = judge([parse_condition(text)], compare({"m": a}, {"m": b}))
    return outcome.holds


@pytest.mark.parametrize(
    ("text", "a", "b", "expected"),
    [
        ("m<-0.01", 0.99, 0.98, False),  # as floats it would hold: 0.98 - 0.99 is a little less than -0.01
        ("m<=-0.01", 0.99, 0.98, True),
        ("m<-0.01", 0.99, 0.9799, True),
        ("m>5%", 2.0, 2.1, False),
        ("m>=5%", 2.0, 2.1, True),
        ("m>5%", -2.0, -1.8, True),
        ("m>5%", 0, 0, False),
        ("m>5%", 0, 1e-9, True),
        ("B.m<0.9", 0.5, 0.89, True),
        ("B.m<0.9", 0.5, 0.9, False),
        ("m>0", 2**70, 2**70 + 1, True),
        ("m>0", INF, INF, False),
        ("m<0", INF, INF, False),
        ("m>1e300", 1.0, INF, True),
        ("m<-1e300", INF, 1.0, True),
        ("m>1e99%", 1.0, INF, True),
        ("B.m>1", INF, INF, True),
        ("B.m<1", 0, -INF, True),
    ],
)
def test_when_a_condition_holds(text: str, a: Any, b: Any, expected: bool) -> None:
    assert holds(text, a, b) is expected


@given(st.floats(allow_nan=False), st.floats(allow_nan=False), limits)
def test_each_condition_holds_or_its_opposite(a: float, b: float, limit: Decimal) -> None:
    rows = compare({"m": a}, {"m": b})
    for subject in Subject:
        less, least, more, most = judge([Condition("m", subject, sign, limit) for sign in ("<", ">=", ">", "<=")], rows)
        assert less.holds != least.holds
        assert more.holds != most.holds
        assert not (less.holds and more.holds)
        assert less.beyond >= 0


def test_by_how_much() -> None:
    rows = compare({"m": 0.9}, {"m": 0.7})
    change, share, own = judge([parse_condition(text) for text in ("m<-0.05", "m<-50%", "B.m<1")], rows)
    assert [float(outcome.beyond) for outcome in (change, share, own)] == [0.15, 0.5 - 2 / 9, 0.3]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "acuracy<0",
            "A has no such metric and B has no such metric. Did you mean 'accuracy'? Numbers in both: accuracy.",
        ),
        ("only_a<0", "B has no such metric."),
        ("only_b<0", "A has no such metric."),
        ("B.only_a<0", "B has no such metric. Did you mean 'only_b'? Numbers in B: accuracy, only_b."),
        ("name<0", "in A it is a text, not a number and in B it is a text, not a number"),
        ("flag<0", "in A it is a flag"),
        ("matrix<0", "in B it is a list, not a number"),
        ("odd<0", "in B it is a NaN, not a number"),
    ],
)
def test_what_cannot_be_judged_is_an_error(text: str, fault: str) -> None:
    a = {"accuracy": 1, "only_a": 1, "name": "p", "flag": True, "matrix": [[1]], "odd": 1.0}
    b = {"accuracy": 1, "only_b": 1, "name": "q", "flag": True, "matrix": [[1]], "odd": math.nan}
    with pytest.raises(ModelError) as caught:
        judge([parse_condition("accuracy<0"), parse_condition(text)], compare(a, b))
    assert fault in str(caught.value)


def test_bs_own_value_needs_no_a() -> None:
    (outcome,) = judge([parse_condition("B.new<0.9")], compare({}, {"new": 0.8}))
    assert outcome.holds
