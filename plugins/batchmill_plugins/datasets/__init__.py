"""Datasets that are read by range: tensors in a file, Parquet, JSON lines, and any dataset written in Python."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import batchmill


@dataclass
class TensorsSettings:
    """Settings of ``dataset=tensors``.

    Attributes:
        path: A .safetensors, .npz or .npy file; not part of the run's fingerprint, for its contents are.
        columns: Names of the tensors to read; empty for all of them.
    """

    path: str = batchmill.setting(fingerprint=False)
    columns: list[str] = field(default_factory=list)


@dataclass
class ParquetSettings:
    """Settings of ``dataset=parquet``.

    Attributes:
        path: A file, a folder (its .parquet files, sorted by name) or a glob pattern.
        columns: Names of the columns to read; empty for all of them.
    """

    path: str = batchmill.setting(fingerprint=False)
    columns: list[str] = field(default_factory=list)


@dataclass
class JsonlSettings:
    """Settings of ``dataset=jsonl``.

    Attributes:
        path: A file, a folder (its .jsonl files, sorted by name) or a glob pattern.
        columns: Keys to read from each row; empty for those of the first row, which all rows must then have.
        dtypes: Column to torch dtype (``float32``, ``int64``, ...), for columns that become tensors other
            than the first row's number tells, and for lists of numbers, which are otherwise left as lists.
    """

    path: str = batchmill.setting(fingerprint=False)
    columns: list[str] = field(default_factory=list)
    dtypes: dict[str, str] = field(default_factory=dict)


@dataclass
class PythonSettings:
    """Settings of ``dataset=python``.

    Attributes:
        target: Name of a registered dataset, or ``module:attribute`` of a class or function where imports are
            allowed.
        args: Keyword arguments to build it with.
    """

    target: str = batchmill.setting(resolve=batchmill.Kind.DATASET)
    args: dict[str, Any] = field(default_factory=dict)


@batchmill.hookimpl
def register_components(registry: batchmill.ComponentRegistry) -> None:
    """Register the first-party datasets."""
    registry.add(
        batchmill.Kind.DATASET,
        "tensors",
        "batchmill_plugins.datasets._tensors:TensorsDataset",
        schema=TensorsSettings,
        summary="Named tensors of a .safetensors, .npz or .npy file, mapped into memory and sliced.",
    )
    registry.add(
        batchmill.Kind.DATASET,
        "parquet",
        "batchmill_plugins.datasets._parquet:ParquetDataset",
        schema=ParquetSettings,
        summary="Rows of Parquet files, read by row group.",
    )
    registry.add(
        batchmill.Kind.DATASET,
        "jsonl",
        "batchmill_plugins.datasets._jsonl:JsonlDataset",
        schema=JsonlSettings,
        summary="Rows of JSON-lines files, found by an index of line offsets.",
    )
    registry.add(
        batchmill.Kind.DATASET,
        "python",
        "batchmill_plugins.datasets._python:build_dataset",
        schema=PythonSettings,
        summary="Any map-style PyTorch dataset, by its registered name.",
    )
