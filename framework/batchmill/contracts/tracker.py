"""What stands behind models, versions, checkpoints and reported metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ModelRecord:
    """A registered model."""

    name: str
    description: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    archived: bool = False


@dataclass(frozen=True)
class CheckpointRecord:
    """A checkpoint: a directory (or file) with a digest of its contents, found by its uuid."""

    uuid: str
    location: str
    digest: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class VersionRecord:
    """One version of a model; versions are numbered from 1."""

    model_name: str
    version: int
    checkpoint: CheckpointRecord
    name: str = ""
    comment: str = ""
    notes: str = ""
    labels: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    archived: bool = False


@dataclass(frozen=True)
class MetricsRecord:
    """Metrics that a run reported once: one group at one step."""

    run_id: str
    group: str
    steps_completed: int
    metrics: Mapping[str, Any]
    end_time: str
    rank: int = 0


class Tracker(ABC):
    """Stores models and metrics. Every writing call is idempotent, so that a resumed run may repeat it."""

    @abstractmethod
    def create_model(self, name: str, description: str, metadata: Mapping[str, Any], labels: Sequence[str]) -> ModelRecord:
        """Register a model. Raises ModelError if the name is taken or not of the form ``[A-Za-z0-9._-]``."""

    @abstractmethod
    def get_model(self, name: str) -> ModelRecord:
        """Return a model. Raises ModelError, with the available names, if there is none."""

    @abstractmethod
    def list_models(self) -> list[ModelRecord]:
        """Return all models, sorted by name."""

    @abstractmethod
    def add_checkpoint(self, location: str, metadata: Mapping[str, Any]) -> CheckpointRecord:
        """Register a directory or file as a checkpoint, with a digest of its contents."""

    @abstractmethod
    def get_checkpoint(self, uuid: str) -> CheckpointRecord:
        """Return a checkpoint. Raises ModelError if there is none."""

    @abstractmethod
    def register_version(self, model_name: str, checkpoint_uuid: str, name: str, comment: str, labels: Sequence[str]) -> VersionRecord:
        """Add the next version of a model."""

    @abstractmethod
    def get_versions(self, model_name: str) -> list[VersionRecord]:
        """Return a model's versions, ascending."""

    @abstractmethod
    def link_run(self, run_id: str, run_path: str, checkpoint_uuid: str, model_name: str | None, version: int | None) -> None:
        """Record that a run used a checkpoint (and through it a model version)."""

    @abstractmethod
    def report(self, record: MetricsRecord) -> None:
        """Store reported metrics. Raises ModelError if the group and step already hold one of the keys with
        another value for that run and rank.
        """

    @abstractmethod
    def iter_metrics(
        self, *, group: str | None = None, run_id: str | None = None, checkpoint_uuid: str | None = None,
        model_name: str | None = None, version: int | None = None,
    ) -> Iterator[MetricsRecord]:
        """Yield stored metrics that match all given filters, ordered by run, group, step and rank."""
