"""What a tracker stores and returns: models, versions, checkpoints, runs and their metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ModelRecord:
    """A registered model.

    Attributes:
        name: Unique name: letters, digits, ``.``, ``_`` and ``-``.
        description: Free text.
        metadata: JSON values.
        labels: Words to find it by.
        archived: Whether it is out of use.
        created: When it was registered, ISO 8601 in UTC.
    """

    name: str
    description: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    archived: bool = False
    created: str = ""


@dataclass(frozen=True)
class CheckpointRecord:
    """A checkpoint: a directory (or one file) whose contents are known by their digest.

    Attributes:
        uuid: Its name, made by the tracker.
        location: Absolute path of the directory or file.
        digest: SHA-256 over ``files``, see ``batchmill.checkpoint_files``.
        files: Every file's relative path (with ``/``) to its ``{"bytes": int, "sha256": hex}``.
        metadata: JSON values, as they are now.
        created: When it was registered, ISO 8601 in UTC.
    """

    uuid: str
    location: str
    digest: str
    files: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""


@dataclass(frozen=True)
class VersionRecord:
    """One version of a model.

    Attributes:
        model_name: The model.
        version: Its number, from 1.
        checkpoint: The files behind it.
        name: Free short name for people.
        comment: What was said when it was registered.
        notes: What was noted since.
        labels: Words to find it by, for example ``production``.
        metadata: JSON values.
        archived: Whether it is out of use; an archived version is never the latest.
        created: When it was registered, ISO 8601 in UTC.
    """

    model_name: str
    version: int
    checkpoint: CheckpointRecord
    name: str = ""
    comment: str = ""
    notes: str = ""
    labels: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    archived: bool = False
    created: str = ""


@dataclass(frozen=True)
class MetricsRecord:
    """The metrics of one run, group, step and rank, from one or several reports.

    Attributes:
        run_id: The run that reported them.
        group: Name of the group, for example ``validation``.
        steps_completed: Where in the run they belong.
        metrics: Metric name to JSON value.
        end_time: When they were (last) reported, ISO 8601 in UTC.
        rank: The worker that reported them.
    """

    run_id: str
    group: str
    steps_completed: int
    metrics: Mapping[str, Any]
    end_time: str
    rank: int = 0


@dataclass(frozen=True)
class RunLink:
    """What one run used.

    Attributes:
        checkpoint_uuid: The checkpoint.
        model_name: The model, where the run named a version of one.
        version: The version's number, likewise.
    """

    checkpoint_uuid: str
    model_name: str | None = None
    version: int | None = None


@dataclass(frozen=True)
class RunRecord:
    """A run that reported metrics or used a checkpoint.

    Attributes:
        run_id: Its name.
        run_path: Its directory or URL; None where it was never linked to a checkpoint, so that nobody told.
        links: What it used: checkpoints without a version first, then versions by model and number.
    """

    run_id: str
    run_path: str | None = None
    links: tuple[RunLink, ...] = ()
