"""Numbers among metric values: exact differences, with rules for what floats leave open."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, TypeAlias

# Finite numbers are fractions; floats stand for the two infinities only.
Number: TypeAlias = Fraction | float


def exact(value: Any) -> Number | None:
    """Return a metric value as a number, or None if it is none: text, a flag, NaN, a list, a dict.

    A float is taken for the decimal number that people see, so that 0.98 is 0.01 less than 0.99 and not a little more.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, int):
        return Fraction(value)
    if math.isnan(value):
        return None
    return value if math.isinf(value) else Fraction(repr(value))


def difference(a: Number, b: Number) -> Number:
    """Return ``b - a``; 0 for equal infinities, else an infinity where one takes part."""
    if a == b:
        return Fraction(0)
    if isinstance(a, float) or isinstance(b, float):
        return math.inf if b > a else -math.inf
    return b - a


def relative_difference(a: Number, b: Number) -> Number:
    """Return ``(b - a) / |a|``.

    It is 0 where nothing changed, and infinite, with the sign of the change, from 0 and where an infinity takes part.
    """
    if a == b:
        return Fraction(0)
    if isinstance(a, float) or isinstance(b, float) or a == 0:
        return math.inf if b > a else -math.inf
    return (b - a) / abs(a)


def nearest_float(number: Number) -> float:
    """Return the nearest float, an infinity for what is beyond all floats."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def json_ready(value: Any) -> Any:
    """Return a value with infinities and NaN, which JSON has not, as the texts ``Infinity``, ``-Infinity``, ``NaN``."""
    if isinstance(value, Fraction):
        return json_ready(nearest_float(value))
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: json_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_ready(item) for item in value]
    return value
