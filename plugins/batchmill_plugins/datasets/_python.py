"""The dataset that any Python code defines, selected by its registered name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch.utils.data import IterableDataset

from batchmill import ConfigError


def build_dataset(target: Callable[..., Any], args: Mapping[str, Any]) -> Any:
    """Return what a dataset class or function builds.

    Args:
        target: The class or function.
        args: Keyword arguments for it.

    Raises:
        ConfigError: The arguments do not fit its signature, or what it builds is no map-style dataset.
    """
    name = getattr(target, "__qualname__", repr(target))
    signature = inspect.signature(target)
    try:
        signature.bind(**args)
    except TypeError as error:
        raise ConfigError(
            f"dataset.args does not fit {name}{signature}: {error}. Given: {', '.join(args) or 'nothing'}."
        ) from None
    dataset = target(**args)
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise ConfigError(
            f"{name} built a {type(dataset).__name__}, which is no map-style dataset; expected an object "
            f"with __len__() and __getitem__(index)."
        )
    return dataset
