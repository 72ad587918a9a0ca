"""The form of what trackers store: names, labels, metadata and reported metrics."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from batchmill.errors import ModelError

LATEST = "latest"
ALL = "all"
_RESERVED_LABELS = (LATEST, ALL)
_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
_LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9._-]{0,127}")
_GROUP_FAULT = re.compile(r"[./\\\x00-\x1f\x7f]")
_GROUP_LENGTH = 100
_STEPS_LIMIT = 2**63
_NESTING_LIMIT = 32


def check_report(group: str, steps_completed: int, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics of a report as plain JSON values.

    Args:
        group: Name of the group; it becomes part of file names.
        steps_completed: Where in the run they belong, from 0.
        metrics: Metric name to value; tensors and arrays without dimensions become numbers, tuples lists.

    Raises:
        ModelError: A rule is broken; the message names the group or the metric.
    """
    if not isinstance(group, str) or not 0 < len(group) <= _GROUP_LENGTH:
        raise ModelError(f"A metric group is a name of 1 to {_GROUP_LENGTH} characters, not {group!r}.")
    if _GROUP_FAULT.search(group):
        raise ModelError(f"Metric group {group!r} must not contain '.', slashes or control characters.")
    _check_unicode(group, "The metric group")
    if isinstance(steps_completed, bool) or not isinstance(steps_completed, int):
        kind = type(steps_completed).__name__
        raise ModelError(
            f"steps_completed of group {group!r} is {steps_completed!r} ({kind}); expected an int, "
            f"for example int(...)."
        )
    if not 0 <= steps_completed < _STEPS_LIMIT:
        raise ModelError(f"steps_completed of group {group!r} is {steps_completed}; expected 0 or more.")
    if not isinstance(metrics, Mapping) or not metrics:
        raise ModelError(f"Metrics of group {group!r} are {metrics!r}; expected a dict with at least one metric.")
    plain: dict[str, Any] = {}
    for name, value in metrics.items():
        if not isinstance(name, str) or not name:
            raise ModelError(f"Group {group!r} has a metric named {name!r}; a name is a string, not an empty one.")
        _check_unicode(name, f"The name of metric {name!r}")
        plain[str(name)] = _plain(value, f"Metric {name!r} of group {group!r}", 0)
    return plain


def check_json(value: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return a mapping as plain JSON values; ``what`` names it in messages. None is allowed in it.

    Raises:
        ModelError: It holds something that JSON does not have.
    """
    if not isinstance(value, Mapping):
        raise ModelError(f"{what} is {value!r}; expected a dict.")
    plain: dict[str, Any] = _plain(value, what, 0, allow_none=True)
    return plain


def check_name(name: str) -> str:
    """Return a model's name if it has the form of one.

    Raises:
        ModelError: It has not.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or not name.strip("."):
        raise ModelError(f"A model's name has 1 to 128 letters, digits, '.', '_' or '-', unlike {name!r}.")
    return name


def check_text(text: str, what: str) -> str:
    """Return a text; ``what`` names it in messages.

    Raises:
        ModelError: It is something else, or not valid Unicode.
    """
    if not isinstance(text, str):
        raise ModelError(f"{what} is {text!r}; expected a string.")
    _check_unicode(text, what)
    return text


def check_keys(keys: Iterable[str]) -> tuple[str, ...]:
    """Return keys of metadata, each once.

    Raises:
        ModelError: They are not a list of strings.
    """
    if isinstance(keys, str):
        raise ModelError(f"keys is the string {keys!r}; expected a list of keys, for example [{keys!r}].")
    if not isinstance(keys, Iterable):
        raise ModelError(f"keys is {keys!r}; expected a list of keys.")
    return tuple(dict.fromkeys([check_text(key, "A key to remove") for key in keys]))


def check_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Return labels in their order, each once.

    Raises:
        ModelError: One has another form, or a meaning of its own.
    """
    if isinstance(labels, str):
        raise ModelError(f"labels is the string {labels!r}; expected a list of labels, for example [{labels!r}].")
    if not isinstance(labels, Iterable):
        raise ModelError(f"labels is {labels!r}; expected a list of labels.")
    given = list(labels)
    for label in given:
        if not isinstance(label, str) or not _LABEL.fullmatch(label) or label in _RESERVED_LABELS:
            raise ModelError(
                f"{label!r} cannot be a label: it starts with a letter, has only letters, digits, '.', '_' "
                f"and '-', and is not one of {', '.join(_RESERVED_LABELS)}."
            )
    return tuple(dict.fromkeys(given))


def _plain(value: Any, what: str, depth: int, allow_none: bool = False) -> Any:
    if depth > _NESTING_LIMIT:
        raise ModelError(f"{what} is nested more than {_NESTING_LIMIT} levels deep, or contains itself.")
    if value is None and allow_none:
        return None
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ModelError(f"{what} is {float(value)}; only finite numbers can be stored and compared.")
        return float(value)
    if isinstance(value, str):
        _check_unicode(value, what)
        return str(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ModelError(f"{what} has the key {key!r}; keys are strings.")
            _check_unicode(key, f"A key of {what}")
        return {str(key): _plain(item, f"{what}, at {key!r}", depth + 1, allow_none) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{what}, at [{i}]", depth + 1, allow_none) for i, item in enumerate(value)]
    expected = "a finite number, string, bool, list or dict"
    if value is None:
        raise ModelError(f"{what} is None; expected {expected}. Leave it out where there is no value.")
    advice = " Use .item() for one number or .tolist() for several." if hasattr(value, "tolist") else ""
    raise ModelError(f"{what} is a {type(value).__module__}.{type(value).__qualname__}; expected {expected}.{advice}")


def _check_unicode(text: str, what: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ModelError(f"{what} is {text!r}, which is not valid Unicode.") from None
