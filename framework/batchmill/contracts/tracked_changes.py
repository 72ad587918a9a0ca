"""What is changed of models, versions and checkpoints after they were registered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from batchmill.contracts.tracked_records import CheckpointRecord, ModelRecord, VersionRecord


@dataclass(frozen=True)
class MetadataChanges:
    """Keys to remove from metadata, and then values to put there.

    Attributes:
        add_metadata: JSON values; each replaces the value that its key had.
        remove_metadata: Keys; those that are not there do not matter.
    """

    add_metadata: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    remove_metadata: tuple[str, ...] = field(default=(), kw_only=True)

    def merged(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Return metadata as it is afterwards."""
        kept = {key: value for key, value in metadata.items() if key not in self.remove_metadata}
        return {**kept, **self.add_metadata}


@dataclass(frozen=True)
class CheckpointChanges(MetadataChanges):
    """What to change of a checkpoint."""

    def apply(self, record: CheckpointRecord) -> CheckpointRecord:
        """Return the checkpoint as it is afterwards."""
        return replace(record, metadata=self.merged(record.metadata))


@dataclass(frozen=True)
class ModelChanges(MetadataChanges):
    """What to change of a model; None leaves a value as it is.

    Attributes:
        description: Free text.
        labels: All labels that it has afterwards.
        archived: Whether it is out of use.
    """

    description: str | None = None
    labels: tuple[str, ...] | None = None
    archived: bool | None = None

    def apply(self, record: ModelRecord) -> ModelRecord:
        """Return the model as it is afterwards."""
        given = _given(description=self.description, labels=self.labels, archived=self.archived)
        return replace(record, metadata=self.merged(record.metadata), **given)


@dataclass(frozen=True)
class VersionChanges(MetadataChanges):
    """What to change of a model version; None leaves a value as it is.

    Attributes:
        name: Short name for people.
        notes: What is noted about it.
        labels: All labels that it has afterwards.
        archived: Whether it is out of use.
    """

    name: str | None = None
    notes: str | None = None
    labels: tuple[str, ...] | None = None
    archived: bool | None = None

    def apply(self, record: VersionRecord) -> VersionRecord:
        """Return the version as it is afterwards."""
        given = _given(name=self.name, notes=self.notes, labels=self.labels, archived=self.archived)
        return replace(record, metadata=self.merged(record.metadata), **given)


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
