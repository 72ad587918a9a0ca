"""Where runs live: a POSIX folder, the process's memory, or an object store (S3, Google Cloud, Azure)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import batchmill


@dataclass
class LocalSettings:
    """Settings of ``storage=local``; the folder is the run's ``output``.

    Attributes:
        mode: Who may enter a new run's folder: ``private``, its owner alone; ``umask``, whom the umask lets; ``auto``,
            its owner, except where ``output`` is a folder that a group may write to. Files follow their run's folder.
    """

    mode: Literal["auto", "private", "umask"] = batchmill.setting(fingerprint=False, default="auto")


@dataclass
class MemorySettings:
    """Settings of ``storage=memory``: none; the tree is named by ``output``, as ``memory://name``."""


@dataclass
class ObjectStoreSettings:
    """Settings of ``storage=object_store``: none; endpoint and credentials come from the environment."""


@batchmill.hookimpl
def register_components(registry: batchmill.ComponentRegistry) -> None:
    """Register the first-party storage components; their aliases are the URL schemes they serve."""
    registry.add(
        batchmill.Kind.STORAGE,
        "local",
        "batchmill_plugins.storage._local:LocalStorage",
        schema=LocalSettings,
        aliases=("file",),
        summary="A folder on a POSIX file system, with every object fsynced.",
    )
    registry.add(
        batchmill.Kind.STORAGE,
        "memory",
        "batchmill_plugins.storage._memory:MemoryStorage",
        schema=MemorySettings,
        summary="The memory of this process (memory://name); for tests and notebooks, one worker process.",
    )
    registry.add(
        batchmill.Kind.STORAGE,
        "object_store",
        "batchmill_plugins.storage._object_store:ObjectStorage",
        schema=ObjectStoreSettings,
        aliases=("s3", "s3a", "gs", "az", "abfs"),
        summary="S3 and compatible stores, Google Cloud Storage and Azure Blob Storage.",
    )
