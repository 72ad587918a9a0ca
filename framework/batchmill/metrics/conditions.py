"""Conditions such as ``accuracy<-0.01``, under which a comparison fails: read, written and judged."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from typing import Any

from batchmill.errors import ConfigError, ModelError, did_you_mean
from batchmill.metrics.comparison import Compared
from batchmill.metrics.numbers import Number, difference, exact

OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_VALUE_PREFIX = "B."
# The last operator is the one meant: a number has none, a metric's name may have some.
_FORM = re.compile(r"(?P<metric>.*)(?P<operator><=|>=|<|>)(?P<limit>[^<>]*)", re.DOTALL)
# Bounded, so that no text can stand for a number of a million digits.
_NUMBER = re.compile(r"[+-]?(?:\d{1,50}(?:\.\d{0,50})?|\.\d{1,50})(?:[eE][+-]?\d{1,3})?", re.ASCII)
_BARE_NAME = re.compile(r'(?!B\.)[^\s"<>](?:[^"<>]*[^\s"<>])?', re.DOTALL)
_EXPECTED = (
    "expected METRIC OP NUMBER for the difference B - A, METRIC OP NUMBER% for the relative difference, or "
    "B.METRIC OP NUMBER for B's own value, with OP one of < <= > >=; for example 'accuracy<-0.01', 'loss>5%', "
    "'B.accuracy<0.9'. A name that begins with 'B.' goes in double quotes"
)


class Subject(Enum):
    """What of a metric a condition looks at."""

    DIFFERENCE = "B - A"
    RELATIVE = "relative difference"
    VALUE = "B"


@dataclass(frozen=True)
class Condition:
    """A condition on one metric.

    Attributes:
        metric: The metric.
        subject: What of it is compared.
        operator: ``<``, ``<=``, ``>`` or ``>=``.
        limit: What it is compared with; in percent for a relative difference.
    """

    metric: str
    subject: Subject
    operator: str
    limit: Decimal

    def __str__(self) -> str:
        """Return it in the form that ``parse_condition`` reads."""
        name = self.metric if _BARE_NAME.fullmatch(self.metric) else json.dumps(self.metric)
        prefix = _VALUE_PREFIX if self.subject is Subject.VALUE else ""
        unit = "%" if self.subject is Subject.RELATIVE else ""
        return f"{prefix}{name}{self.operator}{self.limit}{unit}"

    @property
    def threshold(self) -> Fraction:
        """The limit, not in percent."""
        return Fraction(self.limit) / (100 if self.subject is Subject.RELATIVE else 1)


@dataclass(frozen=True)
class Outcome:
    """What became of a condition.

    Attributes:
        condition: The condition.
        measured: What was compared with its limit.
        holds: Whether it holds, which is a failure.
        beyond: By how much it passes the limit, 0 or more; how far it is away from it if it does not hold.
    """

    condition: Condition
    measured: Number
    holds: bool
    beyond: Number


def parse_condition(text: str) -> Condition:
    """Return the condition that a text means.

    Raises:
        ConfigError: It has not the form of one.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise ConfigError(f"The condition {text!r} has no comparison: {_EXPECTED}.")
    name, limit = found["metric"].strip(), found["limit"].strip()
    subject = Subject.DIFFERENCE
    if name.startswith(_VALUE_PREFIX):
        subject, name = Subject.VALUE, name.removeprefix(_VALUE_PREFIX).strip()
    if limit.endswith("%"):
        if subject is Subject.VALUE:
            raise ConfigError(f"The condition {text!r} compares B's own value, which has no percentage: {_EXPECTED}.")
        subject, limit = Subject.RELATIVE, limit.removesuffix("%").strip()
    if not _NUMBER.fullmatch(limit):
        raise ConfigError(f"The condition {text!r} compares with {limit!r}, which is no number: {_EXPECTED}.")
    return Condition(_unquoted(name, text), subject, found["operator"], Decimal(limit))


def judge(conditions: Sequence[Condition], rows: Sequence[Compared]) -> list[Outcome]:
    """Return what becomes of conditions, in their order.

    Raises:
        ModelError: A metric that a condition needs is missing or not a number, in A or in B.
    """
    by_name = {row.metric: row for row in rows}
    return [_judge(condition, by_name) for condition in conditions]


def _judge(condition: Condition, rows: Mapping[str, Compared]) -> Outcome:
    row = rows.get(condition.metric)
    measured = _measured(condition.subject, row) if row is not None else None
    if measured is None:
        raise _not_comparable(condition, row, rows)
    holds = OPERATORS[condition.operator](measured, condition.threshold)
    distance = difference(condition.threshold, measured)
    return Outcome(condition, measured, holds, distance if distance >= 0 else -distance)


def _measured(subject: Subject, row: Compared) -> Number | None:
    if subject is Subject.VALUE:
        return exact(row.b)
    return row.relative if subject is Subject.RELATIVE else row.difference


def _not_comparable(condition: Condition, row: Compared | None, rows: Mapping[str, Compared]) -> ModelError:
    needed = ["b"] if condition.subject is Subject.VALUE else ["a", "b"]
    usable = [name for name, other in rows.items() if all(exact(getattr(other, side)) is not None for side in needed)]
    problems = []
    for side in needed:
        value = getattr(row, side, None)
        if value is None:
            problems.append(f"{side.upper()} has no such metric")
        elif exact(value) is None:
            problems.append(f"in {side.upper()} it is a {_kind(value)}, not a number")
    where = "both" if len(needed) == 2 else "B"
    return ModelError(
        f"The condition {str(condition)!r} cannot be judged: {' and '.join(problems)}."
        f"{did_you_mean(condition.metric, usable)} Numbers in {where}: {', '.join(usable) or 'none'}."
    )


def _kind(value: Any) -> str:
    if isinstance(value, float):
        return "NaN"
    return {bool: "flag", str: "text", list: "list", dict: "dict"}.get(type(value), type(value).__name__)


def _unquoted(name: str, text: str) -> str:
    if name.startswith('"'):
        try:
            name = json.loads(name)
        except ValueError as error:
            raise ConfigError(f"The condition {text!r} has a quoted name that cannot be read ({error}).") from error
    if not name:
        raise ConfigError(f"The condition {text!r} names no metric: {_EXPECTED}.")
    return name
