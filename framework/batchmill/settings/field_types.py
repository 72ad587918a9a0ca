"""Types of schema fields: what they are, what they are called, and what config can hold of them."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Collection, Iterable, Mapping, MutableMapping, MutableSequence, Sequence
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_MAPPINGS = (dict, Mapping, MutableMapping)
_LISTS = (list, Sequence, MutableSequence, Iterable, Collection)
_UNIONS = (Union, types.UnionType)


def field_types(schema: Any) -> dict[str, Any]:
    """Return a dataclass's field types, resolved where they can be and ``Any`` where they cannot.

    Names imported only under ``TYPE_CHECKING`` cannot be resolved; such settings are then unchecked.
    """
    if not dataclasses.is_dataclass(schema):
        return {}
    try:
        hints = get_type_hints(schema)
    except (NameError, TypeError):
        hints = {}
    return {field.name: hints.get(field.name, Any) for field in dataclasses.fields(schema)}


def choices(hint: Any) -> tuple[Any, ...] | None:
    """Return the values that a ``Literal`` type allows, or None for any other type."""
    hint = without_none(hint)
    return get_args(hint) if get_origin(hint) is Literal else None


def is_mapping(hint: Any) -> bool:
    """Return whether a type is a mapping with free keys."""
    hint = without_none(hint)
    return (get_origin(hint) or hint) in _MAPPINGS


def without_none(hint: Any) -> Any:
    """Return ``T`` for ``T | None``, and any other type as it is."""
    if get_origin(hint) in _UNIONS:
        rest = [argument for argument in get_args(hint) if argument is not type(None)]
        return rest[0] if len(rest) == 1 else hint
    return hint


def storable(hint: Any) -> Any:
    """Return the nearest type that OmegaConf can hold; the values of a ``Literal`` are checked elsewhere."""
    origin, arguments = get_origin(hint) or hint, get_args(hint)
    if hint is object:
        return Any
    if origin is Literal:
        kinds = {type(value) for value in arguments}
        return kinds.pop() if len(kinds) == 1 else Any
    if origin in _MAPPINGS:
        key, value = arguments if arguments else (str, Any)
        return types.GenericAlias(dict, (key, storable(value)))
    if origin in _LISTS:
        return types.GenericAlias(list, (storable(arguments[0]) if arguments else Any,))
    if origin in _UNIONS:
        inner = [storable(argument) for argument in arguments]
        return Any if Any in inner else Union[tuple(inner)]  # noqa: UP007 - built from values
    return hint


def type_name(hint: Any) -> str:
    """Return a type in words: ``int``, ``str or null``, ``list of str``, ``one of a, b``, ``mapping``."""
    origin, arguments = get_origin(hint) or hint, get_args(hint)
    if origin in _UNIONS:
        names = [type_name(argument) for argument in arguments if argument is not type(None)]
        return " or ".join([*names, "null"] if len(names) < len(arguments) else names)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in _MAPPINGS or dataclasses.is_dataclass(hint):
        return "mapping"
    if origin in _LISTS:
        return f"list of {type_name(arguments[0])}" if arguments else "list"
    if hint in (Any, object):
        return "anything"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return f"one of {', '.join(member.name for member in hint)}"
    return str(getattr(hint, "__name__", hint))
