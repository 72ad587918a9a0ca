"""The part of ``TrackerSuite`` that is about registering again, and about changing what was registered."""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from batchmill.contracts.tracked_changes import CheckpointChanges, ModelChanges, VersionChanges
from batchmill.contracts.tracked_records import CheckpointRecord
from batchmill.contracts.tracker import Tracker
from batchmill.errors import ModelError

FILES = {
    "weights.safetensors": {"bytes": 3, "sha256": "ab" * 32},
    "config/a.json": {"bytes": 0, "sha256": ""},
}


class TrackerChangesSuite(ABC):
    """Tests that ``TrackerSuite`` has too: take that one."""

    @abstractmethod
    def make_tracker(self, tmp_path: Path) -> Tracker:
        """Return an empty tracker of its own for each ``tmp_path``, and the same one for the same path."""

    def test_changes_of_a_model_are_stored(self, tmp_path: Path) -> None:
        """Those that are given, and nothing else; other models stay as they are."""
        tracker = self.make_tracker(tmp_path)
        first = tracker.create_model("m", "said", {"a": 1, "b": [2]}, ["x"])
        other = tracker.create_model("other", "said", {"a": 1}, ["x"])
        assert tracker.update_model("m", ModelChanges()) == first
        for changes in (
            ModelChanges(description=""),
            ModelChanges(labels=("y", "z")),
            ModelChanges(labels=()),
            ModelChanges(archived=True),
            ModelChanges(archived=False),
            ModelChanges(add_metadata={"a": None, "ü": {"c": 1.5}}, remove_metadata=("b", "absent")),
        ):
            expected = changes.apply(tracker.get_model("m"))
            assert expected != tracker.get_model("m")
            assert tracker.update_model("m", changes) == expected
            assert self.make_tracker(tmp_path).get_model("m") == expected
        assert tracker.get_model("m").metadata == {"a": None, "ü": {"c": 1.5}}
        assert tracker.list_models() == [tracker.get_model("m"), other]

    def test_changes_of_a_version_are_stored(self, tmp_path: Path) -> None:
        """Those that are given, and nothing else; other versions stay as they are."""
        tracker = self.make_tracker(tmp_path)
        one, two = self.make_checkpoints(tracker, 2)
        for name in ("m", "other"):
            tracker.create_model(name, "", {}, [])
            for checkpoint in (one, two):
                tracker.register_version(name, checkpoint.uuid, "n", "c", ["l"])
        first, second = tracker.get_versions("m")
        others = tracker.get_versions("other")
        for changes in (
            VersionChanges(name="best"),
            VersionChanges(notes="two\nlines"),
            VersionChanges(labels=("production",)),
            VersionChanges(archived=True),
            VersionChanges(archived=False, add_metadata={"a": [1]}),
            VersionChanges(remove_metadata=("a",)),
        ):
            before = tracker.get_versions("m")[1]
            expected = changes.apply(before)
            assert expected != before
            assert tracker.update_version("m", 2, changes) == expected
            assert self.make_tracker(tmp_path).get_versions("m") == [first, expected]
        assert expected.checkpoint == second.checkpoint
        assert tracker.get_versions("other") == others
        with pytest.raises(ModelError, match=r"'m' has no version 3.*Available: 1, 2"):
            tracker.update_version("m", 3, VersionChanges(archived=True))

    def test_registering_a_version_again_changes_nothing(self, tmp_path: Path) -> None:
        """With other values it is an error that names the version."""
        tracker = self.make_tracker(tmp_path)
        (checkpoint,) = self.make_checkpoints(tracker, 1)
        tracker.create_model("m", "", {}, [])
        first = tracker.register_version("m", checkpoint.uuid, "n", "c", ["l"])
        assert tracker.register_version("m", checkpoint.uuid, "n", "c", ["l"]) == first
        for other in (("x", "c", ["l"]), ("n", "x", ["l"]), ("n", "c", [])):
            with pytest.raises(ModelError, match="version 1 of model 'm' already"):
                tracker.register_version("m", checkpoint.uuid, *other)
        assert tracker.get_versions("m") == [first]

    def test_a_changed_version_is_still_the_one_that_was_registered(self, tmp_path: Path) -> None:
        """A script that registers it runs again, whatever was changed since."""
        tracker = self.make_tracker(tmp_path)
        (checkpoint,) = self.make_checkpoints(tracker, 1)
        tracker.create_model("m", "", {}, [])
        tracker.register_version("m", checkpoint.uuid, "n", "c", ["new"])
        tracker.update_version("m", 1, VersionChanges(name="x", labels=("old",)))
        changed = tracker.update_version("m", 1, VersionChanges(labels=("production",), notes="noted"))
        assert tracker.register_version("m", checkpoint.uuid, "n", "c", ["new"]) == changed
        assert tracker.register_version("m", checkpoint.uuid, "x", "c", ["production"]) == changed
        with pytest.raises(ModelError, match="version 1 of model 'm' already"):
            tracker.register_version("m", checkpoint.uuid, "n", "c", ["old"])
        assert tracker.get_versions("m") == [changed]

    def test_a_changed_checkpoint_is_still_the_one_that_was_added(self, tmp_path: Path) -> None:
        """It keeps what it was registered with as its name, and may come to look like another."""
        tracker = self.make_tracker(tmp_path)
        first = tracker.add_checkpoint("/weights/1", "d1", FILES, {"epoch": 1})
        other = tracker.add_checkpoint("/weights/1", "d1", FILES, {"epoch": 2})
        tracker.create_model("m", "", {}, [])
        tracker.register_version("m", first.uuid, "", "", [])
        changes = CheckpointChanges(add_metadata={"epoch": 2})
        changed = tracker.update_checkpoint(first.uuid, changes)
        assert changed == changes.apply(first)
        assert changed.metadata == other.metadata
        assert self.make_tracker(tmp_path).get_checkpoint(first.uuid) == changed
        assert tracker.get_versions("m")[0].checkpoint == changed
        assert tracker.add_checkpoint("/weights/1", "d1", FILES, {"epoch": 1}) == changed
        assert tracker.add_checkpoint("/weights/1", "d1", FILES, {"epoch": 2}) == other
        emptied = tracker.update_checkpoint(first.uuid, CheckpointChanges(remove_metadata=("epoch",)))
        assert emptied.metadata == tracker.get_checkpoint(first.uuid).metadata == {}

    def test_metadata_that_many_add_at_once_is_all_there(self, tmp_path: Path) -> None:
        """Each thread adds its own keys to the same model, version and checkpoint."""
        tracker = self.make_tracker(tmp_path)
        (checkpoint,) = self.make_checkpoints(tracker, 1)
        tracker.create_model("m", "", {}, [])
        tracker.register_version("m", checkpoint.uuid, "", "", [])

        def add(key: str) -> None:
            mine = self.make_tracker(tmp_path)
            mine.update_model("m", ModelChanges(add_metadata={key: 1}))
            mine.update_version("m", 1, VersionChanges(add_metadata={key: 2}))
            mine.update_checkpoint(checkpoint.uuid, CheckpointChanges(add_metadata={key: 3}))

        keys = [f"key{number}" for number in range(16)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(add, keys))
        (version,) = tracker.get_versions("m")
        assert tracker.get_model("m").metadata == dict.fromkeys(keys, 1)
        assert version.metadata == dict.fromkeys(keys, 2)
        assert version.checkpoint.metadata == dict.fromkeys(keys, 3)

    def make_checkpoints(self, tracker: Tracker, count: int) -> list[CheckpointRecord]:
        """Register checkpoints."""
        return [tracker.add_checkpoint(f"/weights/{number}", f"d{number}", FILES, {}) for number in range(count)]
