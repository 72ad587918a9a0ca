"""Checking arguments from config against the signature of what they are for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from batchmill import ConfigError


def check_arguments(target: Callable[..., Any], positional: int, args: Mapping[str, Any], key: str) -> None:
    """Raise ConfigError if a callable does not take these arguments, before any of its code runs.

    Args:
        target: The callable.
        positional: How many arguments it gets by position besides.
        args: Keyword arguments from config.
        key: Where they stand in config, for the message.
    """
    try:
        signature = inspect.signature(target)
    except ValueError:  # written in C, without a signature: the call itself will tell
        return
    try:
        signature.bind(*[None] * positional, **args)
    except TypeError as error:
        name = getattr(target, "__qualname__", repr(target))
        given = ", ".join(args) or "nothing"
        raise ConfigError(f"{key} does not fit {name}{signature}: {error}. Given: {given}.") from None
