"""What stands behind models, versions, checkpoints and reported metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
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
        metadata: JSON values.
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


class Tracker(ABC):
    """Stores models and metrics.

    Building one is cheap and touches nothing; reading from one that was never written to finds nothing and
    leaves nothing behind. Many processes and threads may use the same one at once. Values are checked by the
    caller (``batchmill.client``, ``batchmill.models``): a tracker stores what it is given.
    """

    @abstractmethod
    def create_model(
        self, name: str, description: str, metadata: Mapping[str, Any], labels: Sequence[str]
    ) -> ModelRecord:
        """Register a model.

        Raises:
            ModelError: The name is taken.
        """

    @abstractmethod
    def get_model(self, name: str) -> ModelRecord:
        """Return a model.

        Raises:
            ModelError: There is none of that name; the message lists those there are.
        """

    @abstractmethod
    def list_models(self) -> list[ModelRecord]:
        """Return all models, sorted by name."""

    @abstractmethod
    def add_checkpoint(
        self, location: str, digest: str, files: Mapping[str, Any], metadata: Mapping[str, Any]
    ) -> CheckpointRecord:
        """Register a checkpoint. The same location, digest and metadata give the same checkpoint again."""

    @abstractmethod
    def get_checkpoint(self, uuid: str) -> CheckpointRecord:
        """Return a checkpoint.

        Raises:
            ModelError: There is none; the message lists those there are.
        """

    @abstractmethod
    def register_version(
        self, model_name: str, checkpoint_uuid: str, name: str, comment: str, labels: Sequence[str]
    ) -> VersionRecord:
        """Add the next version of a model. Repeating it with the same values returns the same version.

        Raises:
            ModelError: The model or checkpoint is unknown, or the checkpoint is already a version of the
                model with another name, comment or labels.
        """

    @abstractmethod
    def get_versions(self, model_name: str) -> list[VersionRecord]:
        """Return a model's versions, ascending.

        Raises:
            ModelError: There is no such model.
        """

    @abstractmethod
    def link_run(
        self, run_id: str, run_path: str, checkpoint_uuid: str, model_name: str | None, version: int | None
    ) -> None:
        """Record that a run used a checkpoint, and through it a model version where one is given. Idempotent.

        Raises:
            ModelError: The checkpoint or the version is unknown, or the version has another checkpoint.
        """

    @abstractmethod
    def report(self, record: MetricsRecord) -> None:
        """Store reported metrics, all of them or none. Repeating a report with equal values changes nothing.

        Raises:
            ModelError: One of the metrics has another value already for that run, group, step and rank.
        """

    @abstractmethod
    def iter_metrics(
        self,
        *,
        group: str | None = None,
        run_id: str | None = None,
        checkpoint_uuid: str | None = None,
        model_name: str | None = None,
        version: int | None = None,
    ) -> Iterator[MetricsRecord]:
        """Yield what is stored and matches all given filters, ordered by run, group, step and rank.

        Args:
            group: Only this group.
            run_id: Only this run.
            checkpoint_uuid: Only runs linked to this checkpoint, directly or through a model version.
            model_name: Only runs linked to a version of this model.
            version: Only runs linked to this version of ``model_name``.
        """
