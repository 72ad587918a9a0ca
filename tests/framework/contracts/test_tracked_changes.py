import pytest

from batchmill import CheckpointChanges, CheckpointRecord, ModelChanges, ModelRecord, VersionChanges, VersionRecord

CHECKPOINT = CheckpointRecord("u", "/w", "d", metadata={"a": 1, "b": 2})
MODEL = ModelRecord("m", "said", {"a": 1, "b": 2}, ("x",), archived=True, created="t")
VERSION = VersionRecord("m", 1, CHECKPOINT, "n", "c", "noted", ("x",), {"a": 1, "b": 2}, archived=True, created="t")


@pytest.mark.parametrize(
    ("changes", "record"), [(CheckpointChanges(), CHECKPOINT), (ModelChanges(), MODEL), (VersionChanges(), VERSION)]
)
def test_no_changes_change_nothing(changes, record):
    assert changes.apply(record) == record


@pytest.mark.parametrize(
    ("changes", "record"), [(CheckpointChanges, CHECKPOINT), (ModelChanges, MODEL), (VersionChanges, VERSION)]
)
def test_keys_are_removed_before_values_are_added(changes, record):
    changed = changes(add_metadata={"b": 3, "c": 4}, remove_metadata=("a", "b", "absent")).apply(record)
    assert changed.metadata == {"b": 3, "c": 4}
    assert record.metadata == {"a": 1, "b": 2}, "the record itself is as it was"


def test_empty_values_are_given_values():
    changed = ModelChanges(description="", labels=(), archived=False).apply(MODEL)
    assert (changed.description, changed.labels, changed.archived) == ("", (), False)
    version = VersionChanges(name="", notes="", labels=(), archived=False).apply(VERSION)
    assert (version.name, version.notes, version.labels, version.archived) == ("", "", (), False)
    assert (changed.metadata, version.metadata, version.comment) == (MODEL.metadata, VERSION.metadata, "c")
