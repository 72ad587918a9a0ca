"""What stands behind models, versions, checkpoints and reported metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from batchmill.contracts.tracked_changes import CheckpointChanges, ModelChanges, VersionChanges
from batchmill.contracts.tracked_records import CheckpointRecord, MetricsRecord, ModelRecord, RunRecord, VersionRecord

__all__ = ["CheckpointRecord", "MetricsRecord", "ModelRecord", "Tracker", "VersionRecord"]


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
    def update_model(self, name: str, changes: ModelChanges) -> ModelRecord:
        """Store what ``changes.apply`` makes of the model, and return it.

        Reading and storing are one step: of many processes that add metadata at once, none loses another's.

        Raises:
            ModelError: There is none of that name; the message lists those there are.
        """

    @abstractmethod
    def add_checkpoint(
        self, location: str, digest: str, files: Mapping[str, Any], metadata: Mapping[str, Any]
    ) -> CheckpointRecord:
        """Register a checkpoint.

        The same location, digest and metadata give the same checkpoint again, also after its metadata was changed:
        what it was registered with tells it from others.
        """

    @abstractmethod
    def get_checkpoint(self, uuid: str) -> CheckpointRecord:
        """Return a checkpoint.

        Raises:
            ModelError: There is none; the message lists those there are.
        """

    @abstractmethod
    def update_checkpoint(self, uuid: str, changes: CheckpointChanges) -> CheckpointRecord:
        """Store what ``changes.apply`` makes of the checkpoint, and return it; one step as in ``update_model``.

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
    def update_version(self, model_name: str, version: int, changes: VersionChanges) -> VersionRecord:
        """Store what ``changes.apply`` makes of the version, and return it; one step as in ``update_model``.

        Raises:
            ModelError: There is no such model or version; the message lists those there are.
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
    def list_runs(self) -> list[RunRecord]:
        """Return all runs that reported metrics or are linked to a checkpoint, sorted by id."""

    @abstractmethod
    def report(self, record: MetricsRecord) -> None:
        """Store reported metrics, all of them or none. Repeating a report with equal values changes nothing.

        Raises:
            ModelError: One of the metrics has another value already for that run, group, step and rank.
        """

    def report_all(self, records: Iterable[MetricsRecord]) -> None:
        """Store many reports. A tracker that can stores them in one step, all or none; this stores one by one.

        Raises:
            ModelError: As ``report``.
        """
        for record in records:
            self.report(record)

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
