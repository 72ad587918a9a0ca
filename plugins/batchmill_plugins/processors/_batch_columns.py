"""From a batch to a module's inputs, and from what it returns to named columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from batchmill import ConfigError


def select_inputs(batch: Any, names: Sequence[str]) -> list[Any]:
    """Return what a module is called with.

    Args:
        batch: A mapping of columns, a tuple or list, or a tensor.
        names: Columns, in the order of the module's arguments; empty for a mapping's first tensor, a tuple's first
            item, or the tensor itself.

    Raises:
        ConfigError: The batch has no such column, or no tensor.
    """
    if names:
        columns = _as_mapping(batch, f"processor.inputs={list(names)}")
        return [_column(columns, name, "processor.inputs") for name in names]
    if isinstance(batch, Mapping):
        for value in batch.values():
            if isinstance(value, torch.Tensor):
                return [value]
        raise ConfigError(
            f"The batch has no tensor to give to the module, only {_kinds(batch)}. Name what it takes with "
            f"processor.inputs."
        )
    return [batch[0]] if isinstance(batch, (tuple, list)) and batch else [batch]


def name_outputs(result: Any, output: str) -> dict[str, Any]:
    """Return what a module returned as columns.

    Args:
        result: A tensor; a mapping, whose keys become column names; or a tuple or list, whose items become
            ``<output>_0``, ``<output>_1``, ...
        output: Name for a tensor.

    Raises:
        ConfigError: It is none of these.
    """
    if isinstance(result, torch.Tensor):
        return {output: result}
    if isinstance(result, Mapping):
        return {str(key): value for key, value in result.items()}
    if isinstance(result, (tuple, list)):
        return {f"{output}_{place}": value for place, value in enumerate(result)}
    raise ConfigError(
        f"The module returned a {type(result).__name__}; expected a tensor, a mapping from column name to tensor, or a "
        f"tuple of tensors. Wrap it in a builder that returns one of them."
    )


def keep_columns(columns: dict[str, Any], batch: Any, names: Sequence[str]) -> dict[str, Any]:
    """Return columns with copies of the batch's columns ``names`` added.

    Raises:
        ConfigError: The batch has no such column, or the module returned one of that name.
    """
    if not names:
        return columns
    source = _as_mapping(batch, f"processor.keep={list(names)}")
    for name in names:
        if name in columns:
            raise ConfigError(
                f"processor.keep names {name!r}, but the module's output has a column of that name. Available: "
                f"{', '.join(map(repr, columns))}. Choose another processor.output, or keep less."
            )
    return {**columns, **{name: _column(source, name, "processor.keep") for name in names}}


def _as_mapping(batch: Any, key: str) -> Mapping[str, Any]:
    if isinstance(batch, Mapping):
        return batch
    raise ConfigError(
        f"{key} names columns, but the dataset's batches are a {type(batch).__name__}; expected a mapping from column "
        f"name to values. Use a dataset with named columns, or leave the setting empty."
    )


def _column(columns: Mapping[str, Any], name: str, key: str) -> Any:
    if name not in columns:
        raise ConfigError(f"{key} names {name!r}, which the batch has not. Available: {_kinds(columns)}.")
    return columns[name]


def _kinds(columns: Mapping[str, Any]) -> str:
    return ", ".join(f"{name!r} ({type(value).__name__})" for name, value in columns.items()) or "nothing"
