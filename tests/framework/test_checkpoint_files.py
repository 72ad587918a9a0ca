import hashlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.checkpoint_files import FileDigest, describe_changes, digest_files, read_files
from batchmill.errors import ModelError

digests = st.builds(FileDigest, st.integers(0, 5), st.sampled_from(["aa", "bb"]))
file_sets = st.dictionaries(st.text(max_size=3), digests, max_size=4)


@given(file_sets, file_sets)
def test_digests_are_equal_exactly_where_files_are(one, other):
    assert (digest_files(one) == digest_files(other)) == (one == other) == (describe_changes(one, other) == "")


@given(file_sets)
def test_the_order_of_files_does_not_matter(files):
    assert digest_files(dict(reversed(files.items()))) == digest_files(files)


def test_the_digest_is_a_public_format():
    """Anyone can compute it; a change would orphan every registered version."""
    files = {"b": FileDigest(1, "11"), "a/c": FileDigest(0, "00")}
    assert digest_files(files) == hashlib.sha256(b'[["a/c",0,"00"],["b",1,"11"]]').hexdigest()


def test_every_file_is_read(tmp_path):
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    (tmp_path / "weights").write_bytes(b"w" * 3_000_000)
    (tmp_path / "sub" / "deep" / "x.json").write_bytes(b"{}")
    (tmp_path / ".hidden").write_bytes(b"")
    assert read_files(tmp_path) == {
        ".hidden": FileDigest(0, hashlib.sha256(b"").hexdigest()),
        "sub/deep/x.json": FileDigest(2, hashlib.sha256(b"{}").hexdigest()),
        "weights": FileDigest(3_000_000, hashlib.sha256(b"w" * 3_000_000).hexdigest()),
    }
    assert list(read_files(tmp_path)) == sorted(read_files(tmp_path))


def test_one_file_is_a_checkpoint(tmp_path):
    (tmp_path / "model.pt2").write_bytes(b"abc")
    assert read_files(tmp_path / "model.pt2") == {"model.pt2": FileDigest(3, hashlib.sha256(b"abc").hexdigest())}


def test_linked_files_are_followed_and_linked_folders_refused(tmp_path):
    blob, checkpoint = tmp_path / "blob", tmp_path / "checkpoint"
    blob.write_bytes(b"abc")
    checkpoint.mkdir()
    (checkpoint / "weights").symlink_to(blob)
    assert read_files(checkpoint)["weights"].sha256 == hashlib.sha256(b"abc").hexdigest()
    (checkpoint / "more").symlink_to(tmp_path)
    with pytest.raises(ModelError, match=r"link to a directory.*more"):
        read_files(checkpoint)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"no checkpoint at .*absent"):
        read_files(tmp_path / "absent")
    (tmp_path / "empty" / "folder").mkdir(parents=True)
    with pytest.raises(ModelError, match="empty directory"):
        read_files(tmp_path / "empty")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "weights").symlink_to(tmp_path / "absent")
    with pytest.raises(ModelError, match=r"broken/weights.*leads nowhere"):
        read_files(tmp_path / "broken")
    (tmp_path / "pipes").mkdir()
    os.mkfifo(tmp_path / "pipes" / "weights")
    with pytest.raises(ModelError, match="pipes/weights is neither a file"):
        read_files(tmp_path / "pipes")


def test_unreadable_files_are_named(tmp_path, monkeypatch):
    (tmp_path / "weights").write_bytes(b"abc")

    def refuse(*_args):
        raise PermissionError(13, "Permission denied", "the/weights")

    monkeypatch.setattr(hashlib, "file_digest", refuse)
    with pytest.raises(ModelError, match=r"Cannot read the/weights.*Permission denied"):
        read_files(tmp_path)


def test_changes_are_told_by_file():
    before = {name: FileDigest(1, "aa") for name in ("same", "gone", "longer", "other")}
    now = {"same": FileDigest(1, "aa"), "longer": FileDigest(9, "aa"), "other": FileDigest(1, "bb")}
    now["new"] = FileDigest(1, "aa")
    assert describe_changes(before, now) == (
        "gone is gone; longer has 9 bytes instead of 1; new is new; other has other contents"
    )
    many = {f"f{number:02}": FileDigest(1, "aa") for number in range(25)}
    assert describe_changes(many, {}).endswith("f09 is gone; and 15 more")
