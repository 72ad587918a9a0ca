"""Formats of a run's part files: Parquet, JSON lines, safetensors, or nothing at all."""

from __future__ import annotations

from dataclasses import dataclass

import batchmill


@dataclass
class ParquetSettings:
    """Settings of ``writer=parquet``.

    Attributes:
        compression: none, snappy, zstd, lz4, gzip or brotli. Model outputs are mostly floats, which hardly
            shrink and cost time to compress; for text, zstd is worth it.
    """

    compression: str = "none"


@dataclass
class JsonlSettings:
    """Settings of ``writer=jsonl``: none."""


@dataclass
class SafetensorsSettings:
    """Settings of ``writer=safetensors``: none."""


@dataclass
class NoneSettings:
    """Settings of ``writer=none``: none."""


@batchmill.hookimpl
def register_components(registry: batchmill.ComponentRegistry) -> None:
    """Register the first-party writers."""
    registry.add(
        batchmill.Kind.WRITER,
        "parquet",
        "batchmill_plugins.writers._parquet:ParquetWriter",
        schema=ParquetSettings,
        summary="Parquet; tensors become fixed-size lists, read by any Parquet tool.",
    )
    registry.add(
        batchmill.Kind.WRITER,
        "jsonl",
        "batchmill_plugins.writers._jsonl:JsonlWriter",
        schema=JsonlSettings,
        summary="One JSON object per sample and line; for people and small outputs.",
    )
    registry.add(
        batchmill.Kind.WRITER,
        "safetensors",
        "batchmill_plugins.writers._safetensors:SafetensorsWriter",
        schema=SafetensorsSettings,
        summary="One tensor per column; numbers only, loads without copying.",
    )
    registry.add(
        batchmill.Kind.WRITER,
        "none",
        "batchmill_plugins.writers._nothing:NothingWriter",
        schema=NoneSettings,
        summary="Writes no outputs; metrics are still kept.",
    )
