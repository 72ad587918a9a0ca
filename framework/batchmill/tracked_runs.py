"""Runs as the tracker knows them: what they used and what they reported."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from batchmill.checkpoints import Checkpoint
from batchmill.contracts.tracked_records import MetricsRecord, RunRecord
from batchmill.contracts.tracker import Tracker
from batchmill.errors import ModelError, did_you_mean
from batchmill.models import Model, ModelVersion

_LISTED = 10


class TrackedRun:
    """A run that reported metrics or used a checkpoint.

    Attributes:
        run_id: Its name.
        path: Its directory or URL; None for a run that was never linked to a checkpoint, whose place the tracker was
            not told.
    """

    def __init__(self, tracker: Tracker, record: RunRecord) -> None:
        self._tracker, self._record = tracker, record
        self.run_id = record.run_id
        self.path = record.run_path

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """The checkpoints that it used, directly or through a model version."""
        uuids = dict.fromkeys(link.checkpoint_uuid for link in self._record.links)
        return [Checkpoint(self._tracker, self._tracker.get_checkpoint(uuid)) for uuid in uuids]

    @property
    def model_versions(self) -> list[ModelVersion]:
        """The model versions that it used."""
        return [
            Model(self._tracker, self._tracker.get_model(link.model_name)).get_version(link.version)
            for link in self._record.links
            if link.model_name is not None and link.version is not None
        ]

    def iter_metrics(self, group: str | None = None) -> Iterator[MetricsRecord]:
        """Yield the metrics that it reported.

        Args:
            group: Only this group; None: all.
        """
        yield from self._tracker.iter_metrics(group=group, run_id=self.run_id)

    def get_metrics(self, group: str | None = None) -> list[MetricsRecord]:
        """Return what ``iter_metrics`` yields, as a list."""
        return list(self.iter_metrics(group))

    def __repr__(self) -> str:
        return f"TrackedRun({self.run_id!r}, path={self.path!r})"


def find_run(records: Sequence[RunRecord], run: str | Path) -> RunRecord:
    """Return the run that an id, a directory or a URL means.

    Args:
        records: All runs that the tracker knows.
        run: The id; or the place of the run, whose last part is the id of one whose place is not known.

    Raises:
        ModelError: There is none; the message lists those there are.
    """
    if not isinstance(run, str | Path):
        raise ModelError(f"A run is found by its id, directory or URL, but {run!r} was given.")
    given = str(run)
    ids = {record.run_id: record for record in records}
    if given in ids:
        return ids[given]
    if "/" in given.rstrip("/"):
        place = _absolute(given)
        for record in records:
            if record.run_path is not None and _absolute(record.run_path) == place:
                return record
        unplaced = ids.get(place.rpartition("/")[2])
        if unplaced is not None and unplaced.run_path is None:
            return unplaced
    shown = ", ".join(list(ids)[-_LISTED:]) + (", and earlier ones" if len(ids) > _LISTED else "")
    name = given.rstrip("/").rpartition("/")[2]
    raise ModelError(
        f"The tracker knows no run {given!r}.{did_you_mean(name, ids)} Available: {shown or 'none'}. It knows runs "
        f"that reported metrics or used a model. `batchmill ls --output OUTPUT --rebuild` tells it again of those "
        f"that are there."
    )


def _absolute(place: str) -> str:
    return place.rstrip("/") if "://" in place else os.path.abspath(place)
