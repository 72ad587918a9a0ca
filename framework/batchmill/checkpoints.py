"""Checkpoints: files of weights that are known by the digest of their contents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from batchmill.checkpoint_files import FileDigest, describe_changes, digest_files, read_files
from batchmill.contracts.tracked_changes import CheckpointChanges
from batchmill.contracts.tracked_records import CheckpointRecord, MetricsRecord
from batchmill.contracts.tracker import Tracker
from batchmill.errors import ModelError
from batchmill.tracked_values import check_json, check_keys


class Checkpoint:
    """A directory (or file) of weights with a digest of its contents.

    Attributes:
        uuid: Its name.
        location: Absolute path.
        digest: SHA-256 over all its files, in hex.
        metadata: JSON values.
    """

    def __init__(self, tracker: Tracker, record: CheckpointRecord) -> None:
        self._tracker, self._record = tracker, record
        self.uuid = record.uuid
        self.location = record.location
        self.digest = record.digest
        self.metadata = dict(record.metadata)

    def add_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Put values into the metadata; what other keys hold stays, also what others put there meanwhile.

        Args:
            metadata: JSON values; each replaces the value that its key had.

        Raises:
            ModelError: A value is not JSON.
        """
        checked = check_json(metadata, f"The metadata of checkpoint {self.uuid}")
        self._change(CheckpointChanges(add_metadata=checked))

    def remove_metadata(self, keys: Iterable[str]) -> None:
        """Remove keys from the metadata; those that are not there do not matter.

        Raises:
            ModelError: ``keys`` is no list of strings.
        """
        self._change(CheckpointChanges(remove_metadata=check_keys(keys)))

    def _change(self, changes: CheckpointChanges) -> None:
        self.metadata = dict(self._tracker.update_checkpoint(self.uuid, changes).metadata)

    @property
    def path(self) -> Path:
        """The location as a path."""
        return Path(self.location)

    def verify(self) -> None:
        """Check that the files are those that were registered; reads all of them.

        Raises:
            ModelError: They are gone or changed; the message says which.
        """
        now = read_files(self.path)
        if digest_files(now) != self.digest:
            before = {path: FileDigest(**entry) for path, entry in self._record.files.items()}
            raise ModelError(
                f"Checkpoint {self.uuid} at {self.location} was changed since it was registered: "
                f"{describe_changes(before, now)}. Bring the old files back, or register the "
                f"present ones as a new version."
            )

    def iter_metrics(self, group: str | None = None) -> Iterator[MetricsRecord]:
        """Yield the metrics of all runs that used this checkpoint.

        Args:
            group: Only this group; None: all.
        """
        yield from self._tracker.iter_metrics(group=group, checkpoint_uuid=self.uuid)

    def get_metrics(self, group: str | None = None) -> list[MetricsRecord]:
        """Return what ``iter_metrics`` yields, as a list."""
        return list(self.iter_metrics(group))

    def __repr__(self) -> str:
        return f"Checkpoint({self.uuid!r}, location={self.location!r})"


def add_checkpoint(tracker: Tracker, location: Path | str, metadata: Mapping[str, Any]) -> Checkpoint:
    """Register a directory or file as a checkpoint, reading all of it once for its digest.

    Raises:
        ModelError: It is not there, is empty, or is a URL.
    """
    if isinstance(location, str) and "://" in location:
        raise ModelError(
            f"A checkpoint is a directory or file on this machine, but {location!r} is a URL. Download it first."
        )
    path = Path(location).expanduser().absolute()
    files = read_files(path)
    checked = check_json(metadata, "The checkpoint's metadata")
    entries = {name: asdict(file) for name, file in files.items()}
    return Checkpoint(tracker, tracker.add_checkpoint(str(path), digest_files(files), entries, checked))
