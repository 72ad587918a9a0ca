"""What a run leaves is its owner's alone, is created under names nobody can foresee, and follows no link."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

import batchmill
from batchmill.contracts.run import Selection
from batchmill.errors import StorageError
from batchmill_plugins.storage import _new_files
from batchmill_plugins.storage._local import LocalStorage


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """The umask that hides nothing."""
    before = os.umask(0)
    yield
    os.umask(before)


class Everything(batchmill.TorchBatchProcessor):
    def __init__(self, context: batchmill.TorchBatchProcessorContext) -> None:
        self.context = context
        self.blobs = context.wrap_reducer(lambda values: len(values), "blobs")

    def process_batch(self, batch: list[torch.Tensor], batch_idx: int) -> dict[str, object]:
        self.blobs.update(b"x" * 300_000)  # too large for the commit record
        self.context.report_metrics("mine", batch_idx, {"x": 1})
        return {"x": batch[0]}

    def on_checkpoint_start(self) -> None:
        with self.context.upload_path() as folder:
            (folder / "notes.txt").write_text("secret enough")


def run(output: Path, writer: str, **changes: object) -> batchmill.RunResult:
    data = TensorDataset(torch.arange(6.0))
    return batchmill.torch_batch_process(
        Everything, data, batch_size=2, checkpoint_interval=1, output=output, run_id="x", writer=writer, **changes
    )


@pytest.mark.parametrize("writer", ["parquet", "jsonl", "safetensors"])
def test_everything_that_a_run_writes_is_private(tmp_path: Path, writer: str) -> None:
    assert run(tmp_path / "runs", writer).complete
    folders = [tmp_path / "runs" / "x", *(path for path in (tmp_path / "runs" / "x").rglob("*") if path.is_dir())]
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}
    assert {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in files if path.stat().st_mode & 0o077} == {}
    names = {path.name for path in files}
    assert {"run.json", "result.json", "_SUCCESS", "notes.txt", "batchmill.sqlite"} <= names
    assert any(name.endswith(".partials.json") for name in names) and any("lock" in name for name in names)


def test_a_group_may_share_its_runs_and_their_ledger(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs").chmod(0o2770)
    os.umask(0o007)
    assert run(tmp_path / "runs", "parquet").complete
    modes = {stat.S_IMODE(path.stat().st_mode) & 0o777 for path in (tmp_path / "runs").rglob("*")}
    assert modes == {0o770, 0o660}


@pytest.mark.parametrize("nameless", [True, False])
def test_every_file_is_created_under_a_new_name_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nameless: bool
) -> None:
    """Exclusively, without following links, under 128 random bits: nobody can put something there before."""
    if not nameless:
        monkeypatch.delattr(os, "O_TMPFILE")
    opened: list[tuple[str, int]] = []
    known = os.open

    def spy(path: str, flags: int, *rest: int, **more: int) -> int:
        opened.append((str(path), flags))
        return known(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", spy)
    storage = LocalStorage(str(tmp_path / "run"))
    for i in range(3):
        storage.put(f"a/{i}", b"x")
        storage.put_if_absent(f"b/{i}", b"x")
    with storage.lock("c"):
        pass
    created = [(Path(path).name, flags) for path, flags in opened if flags & os.O_CREAT]
    temporary = [(name, flags) for name, flags in created if name.endswith(".tmp")]
    assert len(temporary) == len({name for name, _ in temporary}) == (3 if nameless else 6)
    if nameless:
        assert len([name for name, flags in opened if flags & os.O_TMPFILE == os.O_TMPFILE]) == 3
    assert all(len(name) == 37 and flags & os.O_EXCL and flags & os.O_NOFOLLOW for name, flags in temporary)
    assert [name for name, _ in created if not name.endswith(".tmp")] == [".c.batchmill-lock"]
    assert all(flags & os.O_NOFOLLOW for _, flags in created)


def test_a_link_in_the_place_of_a_temporary_file_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if somebody had foreseen the name."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    storage = LocalStorage(str(tmp_path / "run"))
    storage.put("a", b"1")
    monkeypatch.setattr(_new_files.secrets, "token_hex", lambda n: "0" * 32)
    (tmp_path / "run" / f".{'0' * 32}.tmp").symlink_to(victim)
    with pytest.raises(StorageError, match="EEXIST"):
        storage.put("b", b"2")
    assert victim.read_text() == "precious" and not (tmp_path / "run" / "b").exists()


@pytest.mark.parametrize("name", ["a", ".a.batchmill-lock"])
def test_a_link_in_the_place_of_a_file_or_lock_is_not_followed(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    storage = LocalStorage(str(tmp_path / "run"))
    storage.put("other", b"1")
    (tmp_path / "run" / name).symlink_to(victim)
    if name == "a":
        for act in (lambda: storage.put("a", b"2"), lambda: storage.put_if_absent("a", b"2"), lambda: storage.get("a")):
            with pytest.raises(StorageError, match="not a regular file"):
                act()
        assert not storage.exists("a") and [info.path for info in storage.list()] == ["other"]
        storage.delete("a")  # removes the link, not what it leads to
        assert not (tmp_path / "run" / "a").is_symlink()
    else:
        with pytest.raises(StorageError, match=r"ELOOP"), storage.lock("a"):
            pass
    assert victim.read_text() == "precious" and stat.S_IMODE(victim.stat().st_mode) == 0o666


def test_a_ledger_is_never_created_through_a_link(tmp_path: Path) -> None:
    """The exclusive creation fails on a dangling link, and SQLite is not asked to make what it leads to."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "batchmill.sqlite").symlink_to(tmp_path / "elsewhere.sqlite")
    with pytest.raises(StorageError, match="is a link that leads nowhere"):
        run(tmp_path / "runs", "parquet", tracker=Selection("sqlite"))
    assert not (tmp_path / "elsewhere.sqlite").exists()
