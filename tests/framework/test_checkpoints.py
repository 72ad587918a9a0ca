from pathlib import Path

import pytest

from batchmill.checkpoints import Checkpoint, add_checkpoint
from batchmill.errors import ModelError
from batchmill_plugins.trackers._sqlite import SqliteTracker


@pytest.fixture
def tracker(tmp_path):
    return SqliteTracker(str(tmp_path / "runs"))


@pytest.fixture
def make_weights(tmp_path):
    def make(name, data=b"weights"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "weights.safetensors").write_bytes(data)
        (folder / "config.json").write_bytes(b"{}")
        return folder

    return make


def test_a_checkpoint_remembers_an_absolute_place(tracker, make_weights, monkeypatch):
    folder = make_weights("w")
    monkeypatch.chdir(folder.parent)
    checkpoint = add_checkpoint(tracker, "w", {"epoch": 3})
    monkeypatch.chdir("/")
    found = Checkpoint(tracker, tracker.get_checkpoint(checkpoint.uuid))
    assert Path(found.location) == found.path == folder
    assert (found.uuid, found.digest, found.metadata) == (checkpoint.uuid, checkpoint.digest, {"epoch": 3})
    found.verify()
    assert checkpoint.uuid in repr(found) and "/w" in repr(found)


def test_the_digest_depends_on_contents_not_on_place(tracker, make_weights):
    one, same = add_checkpoint(tracker, make_weights("1"), {}), add_checkpoint(tracker, make_weights("2"), {})
    other = add_checkpoint(tracker, make_weights("3", b"other"), {})
    assert one.digest == same.digest != other.digest
    assert len({one.uuid, same.uuid, other.uuid}) == 3


def test_changed_files_are_refused_with_what_changed(tracker, make_weights):
    folder = make_weights("1")
    checkpoint = add_checkpoint(tracker, folder, {})
    (folder / "weights.safetensors").write_bytes(b"weightz")
    (folder / "config.json").unlink()
    (folder / "extra").write_bytes(b"")
    with pytest.raises(ModelError) as caught:
        checkpoint.verify()
    message = str(caught.value)
    for part in (checkpoint.uuid, str(folder), "config.json is gone", "extra is new"):
        assert part in message
    assert "weights.safetensors has other contents" in message
    make_weights("1")
    (folder / "extra").unlink()
    checkpoint.verify()


def test_files_that_are_gone_are_refused(tracker, make_weights):
    folder = make_weights("1")
    checkpoint = add_checkpoint(tracker, folder, {})
    for file in folder.iterdir():
        file.unlink()
    with pytest.raises(ModelError, match="empty directory"):
        checkpoint.verify()
    folder.rmdir()
    with pytest.raises(ModelError, match="no checkpoint at"):
        checkpoint.verify()


def test_touching_and_renaming_within_the_place_do_and_do_not_matter(tracker, make_weights):
    folder = make_weights("1")
    checkpoint = add_checkpoint(tracker, folder, {})
    (folder / "weights.safetensors").touch()
    checkpoint.verify()
    (folder / "config.json").rename(folder / "settings.json")
    with pytest.raises(ModelError, match=r"config\.json is gone; settings\.json is new"):
        checkpoint.verify()


def test_its_metadata_is_changed_and_shown(tracker, make_weights):
    checkpoint = add_checkpoint(tracker, make_weights("1"), {"epoch": 1, "lr": 0.1})
    checkpoint.add_metadata({"epoch": 2, "notes": {"a": None}})
    checkpoint.remove_metadata(["lr", "absent"])
    expected = {"epoch": 2, "notes": {"a": None}}
    assert checkpoint.metadata == Checkpoint(tracker, tracker.get_checkpoint(checkpoint.uuid)).metadata == expected
    again = add_checkpoint(tracker, make_weights("1"), {"epoch": 1, "lr": 0.1})
    assert (again.uuid, again.metadata) == (checkpoint.uuid, expected)
    checkpoint.verify()


@pytest.mark.parametrize(
    ("method", "argument", "message"),
    [("add_metadata", {1: 2}, "keys are strings"), ("remove_metadata", "epoch", "expected a list of keys")],
)
def test_what_cannot_be_metadata_is_refused(tracker, make_weights, method, argument, message):
    checkpoint = add_checkpoint(tracker, make_weights("1"), {"epoch": 1})
    with pytest.raises(ModelError, match=message):
        getattr(checkpoint, method)(argument)
    assert checkpoint.metadata == tracker.get_checkpoint(checkpoint.uuid).metadata == {"epoch": 1}
