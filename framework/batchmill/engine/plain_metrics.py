"""Metrics as plain JSON values, checked: what reducers return becomes what ``result.json`` holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from batchmill.errors import ReducerError


def plain_metric(name: str, value: Any) -> Any:
    """Return a metric as a plain JSON value; tensors, arrays and numpy scalars become numbers and lists.

    Raises:
        ReducerError: The value is not JSON, or not finite; the message names the metric.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, str):
        return _checked_text(name, value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ReducerError(f"Metric {name!r} is {value}; expected a finite number, or None where there is none.")
        return value
    if isinstance(value, (list, tuple)):
        return [plain_metric(name, item) for item in value]
    if isinstance(value, dict):
        return {key: plain_metric(name, item) for key, item in with_text_keys(name, value).items()}
    raise ReducerError(f"Metric {name!r} is a {type(value).__name__}; expected a JSON value.")


def with_text_keys(name: str, values: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a dict whose keys are the texts of the given ones.

    Raises:
        ReducerError: Two keys have the same text, or a text is not valid Unicode; the message names the metric.
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        text = _checked_text(name, str(key))
        if text in found:
            raise ReducerError(f"Metric {name!r} has two keys that are both written {text!r}.")
        found[text] = value
    return found


def _checked_text(name: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ReducerError(f"Metric {name!r} holds {text!r}, which is not valid Unicode.") from error
    return text
