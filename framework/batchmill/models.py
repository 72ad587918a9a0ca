"""Models and their versions: what a run used, and the metrics that runs reported about it."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from batchmill.checkpoints import Checkpoint, add_checkpoint
from batchmill.contracts.tracked_changes import ModelChanges, VersionChanges
from batchmill.contracts.tracked_records import MetricsRecord, ModelRecord, VersionRecord
from batchmill.contracts.tracker import Tracker
from batchmill.errors import ModelError, did_you_mean
from batchmill.tracked_values import LATEST, check_json, check_keys, check_labels, check_report, check_text

__all__ = ["Checkpoint", "Model", "ModelVersion", "add_checkpoint", "check_report", "find_version"]


class ModelVersion:
    """One version of a model.

    Attributes:
        model_name: The model.
        version: Its number, from 1.
        name: Short name for people.
        comment: What was said when it was registered.
        notes: What was noted since.
        labels: Words to find it by.
        metadata: JSON values.
        archived: Whether it is out of use.
        checkpoint: The files behind it.
    """

    def __init__(self, tracker: Tracker, record: VersionRecord) -> None:
        self._tracker = tracker
        self._show(record)

    def _show(self, record: VersionRecord) -> None:
        self.model_name = record.model_name
        self.version = record.version
        self.name = record.name
        self.comment = record.comment
        self.notes = record.notes
        self.labels = record.labels
        self.metadata = dict(record.metadata)
        self.archived = record.archived
        self.checkpoint = Checkpoint(self._tracker, record.checkpoint)

    @property
    def path(self) -> Path:
        """Where its files lie."""
        return self.checkpoint.path

    def set_name(self, name: str) -> None:
        """Give it another short name.

        Raises:
            ModelError: It is no text.
        """
        self._change(VersionChanges(name=check_text(name, f"The name of {self}")))

    def set_notes(self, notes: str) -> None:
        """Replace its notes.

        Raises:
            ModelError: They are no text.
        """
        self._change(VersionChanges(notes=check_text(notes, f"The notes of {self}")))

    def set_labels(self, labels: Iterable[str]) -> None:
        """Replace its labels.

        A label finds a version as long as no other version that is not archived has it too.

        Raises:
            ModelError: One has not the form of a label.
        """
        self._change(VersionChanges(labels=check_labels(labels)))

    def add_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Put values into the metadata; what other keys hold stays, also what others put there meanwhile.

        Args:
            metadata: JSON values; each replaces the value that its key had.

        Raises:
            ModelError: A value is not JSON.
        """
        self._change(VersionChanges(add_metadata=check_json(metadata, f"The metadata of {self}")))

    def remove_metadata(self, keys: Iterable[str]) -> None:
        """Remove keys from the metadata; those that are not there do not matter.

        Raises:
            ModelError: ``keys`` is no list of strings.
        """
        self._change(VersionChanges(remove_metadata=check_keys(keys)))

    def archive(self) -> None:
        """Take it out of use: it is found by its number only, and is never the latest."""
        self._change(VersionChanges(archived=True))

    def unarchive(self) -> None:
        """Take it into use again."""
        self._change(VersionChanges(archived=False))

    def _change(self, changes: VersionChanges) -> None:
        self._show(self._tracker.update_version(self.model_name, self.version, changes))

    def iter_metrics(self, group: str | None = None) -> Iterator[MetricsRecord]:
        """Yield the metrics of all runs that used this version.

        Args:
            group: Only this group; None: all.
        """
        yield from self._tracker.iter_metrics(group=group, model_name=self.model_name, version=self.version)

    def get_metrics(self, group: str | None = None) -> list[MetricsRecord]:
        """Return what ``iter_metrics`` yields, as a list."""
        return list(self.iter_metrics(group))

    def __repr__(self) -> str:
        return f"ModelVersion({self.model_name!r}, {self.version})"


class Model:
    """A registered model and its versions.

    Attributes:
        name: Its name.
        description: Free text.
        metadata: JSON values.
        labels: Words to find it by.
        archived: Whether it is out of use.
    """

    def __init__(self, tracker: Tracker, record: ModelRecord) -> None:
        self._tracker = tracker
        self._show(record)

    def _show(self, record: ModelRecord) -> None:
        self.name = record.name
        self.description = record.description
        self.metadata = dict(record.metadata)
        self.labels = record.labels
        self.archived = record.archived

    def set_description(self, description: str) -> None:
        """Replace its description.

        Raises:
            ModelError: It is no text.
        """
        self._change(ModelChanges(description=check_text(description, f"The description of model {self.name!r}")))

    def set_labels(self, labels: Iterable[str]) -> None:
        """Replace its labels.

        Raises:
            ModelError: One has not the form of a label.
        """
        self._change(ModelChanges(labels=check_labels(labels)))

    def add_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Put values into the metadata; what other keys hold stays, also what others put there meanwhile.

        Args:
            metadata: JSON values; each replaces the value that its key had.

        Raises:
            ModelError: A value is not JSON.
        """
        self._change(ModelChanges(add_metadata=check_json(metadata, f"The metadata of model {self.name!r}")))

    def remove_metadata(self, keys: Iterable[str]) -> None:
        """Remove keys from the metadata; those that are not there do not matter.

        Raises:
            ModelError: ``keys`` is no list of strings.
        """
        self._change(ModelChanges(remove_metadata=check_keys(keys)))

    def archive(self) -> None:
        """Mark it as out of use; its versions stay as they are."""
        self._change(ModelChanges(archived=True))

    def unarchive(self) -> None:
        """Take it into use again."""
        self._change(ModelChanges(archived=False))

    def _change(self, changes: ModelChanges) -> None:
        self._show(self._tracker.update_model(self.name, changes))

    def get_version(self, version: int | str = -1) -> ModelVersion:
        """Return one version.

        Args:
            version: A number from 1; -1 or ``"latest"`` for the highest that is not archived; or a label,
                which only one version that is not archived may carry.

        Raises:
            ModelError: There is no such version, or the label does not say which.
        """
        record = find_version(self._tracker.get_versions(self.name), self.name, version)
        return ModelVersion(self._tracker, record)

    def list_versions(self) -> list[ModelVersion]:
        """Return all versions, ascending, archived ones too."""
        return [ModelVersion(self._tracker, record) for record in self._tracker.get_versions(self.name)]

    def get_versions(self) -> list[ModelVersion]:
        """Return the same as ``list_versions``, under the seed's older name."""
        return self.list_versions()

    def register_version(
        self,
        checkpoint: Checkpoint | Path | str,
        *,
        name: str = "",
        comment: str = "",
        labels: Iterable[str] = (),
    ) -> ModelVersion:
        """Add the next version. Registering the same checkpoint again returns the version that it is.

        Args:
            checkpoint: A checkpoint or its uuid, or the path of a directory or file, which becomes one.
            name: Short name for people.
            comment: What to say about it.
            labels: Words to find it by; ``latest`` and ``all`` have a meaning already.

        Raises:
            ModelError: There is no such checkpoint, or a label has not the form of one.
        """
        checked = check_labels(labels)
        if isinstance(checkpoint, str) and _is_uuid(checkpoint):
            checkpoint_uuid = checkpoint
        elif isinstance(checkpoint, Checkpoint):
            checkpoint_uuid = checkpoint.uuid
        else:
            checkpoint_uuid = add_checkpoint(self._tracker, checkpoint, {}).uuid
        record = self._tracker.register_version(self.name, checkpoint_uuid, name, comment, checked)
        return ModelVersion(self._tracker, record)

    def __repr__(self) -> str:
        return f"Model({self.name!r})"


def find_version(versions: list[VersionRecord], model_name: str, version: int | str) -> VersionRecord:
    """Return the version that a number, ``latest`` or a label means; see ``Model.get_version``.

    Raises:
        ModelError: None or several do.
    """
    if not versions:
        raise ModelError(
            f"Model {model_name!r} has no versions yet. Add one: client.get_model({model_name!r})"
            f".register_version(PATH)."
        )
    current = [record for record in versions if not record.archived]
    if version in (-1, LATEST):
        if not current:
            raise ModelError(f"All versions of model {model_name!r} are archived. Ask for one by its number.")
        return max(current, key=lambda record: record.version)
    number = int(version) if isinstance(version, str) and version.isascii() and version.isdigit() else version
    if isinstance(number, str):
        found = [record for record in current if number in record.labels]
        if len(found) > 1:
            several = ", ".join(str(record.version) for record in found)
            raise ModelError(
                f"Label {number!r} is on several versions of model {model_name!r}: {several}. Ask for one by number."
            )
    else:
        found = [record for record in versions if record.version == number]
    if not found:
        labels = {label for record in current for label in record.labels}
        hint = did_you_mean(number, labels | {LATEST}) if isinstance(number, str) else ""
        raise ModelError(
            f"Model {model_name!r} has no version {version!r}.{hint} Available: {_describe_versions(versions)}."
        )
    return found[0]


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def _describe_versions(versions: list[VersionRecord]) -> str:
    described = []
    for record in versions:
        extras = ", ".join([*record.labels, *(["archived"] if record.archived else [])])
        described.append(f"{record.version} ({extras})" if extras else f"{record.version}")
    return ", ".join(described)
