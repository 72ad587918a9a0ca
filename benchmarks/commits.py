"""W8: what one commit costs, against the system calls that no durable commit can do without."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path

from batchmill.engine.assembly import Assembler, open_storage
from batchmill.engine.commit_log import ChunkDraft, CommitLog
from batchmill.plugin_manager import get_catalog
from benchmarks.measure import Goal, Outcome, Spent, interleave, timed

PART_BYTES = 256 * 1024
COMMIT_SECONDS = 0.002
WITH_PART = "commit of a record and a part of 256 KiB"
BY_HAND = "the same of 256 KiB, then of a record, by hand"


def w8(short: bool) -> Outcome:
    """Commits of a record alone and with a part of 256 KiB, one after the other, in one thread."""
    commits = 3 if short else 200
    part = secrets.token_bytes(PART_BYTES)
    timings = interleave(
        {
            "write, fsync, link, fsync folder": lambda: by_hand(commits, None),
            "commit of a record": lambda: by_log(commits, None),
            BY_HAND: lambda: by_hand(commits, part),
            WITH_PART: lambda: by_log(commits, part),
        },
        repeats=1 if short else 7,
        warm_up=not short,
    )
    each = timings[WITH_PART].median / commits
    goal = Goal(f"a commit with a part takes less than {COMMIT_SECONDS * 1000:.0f} ms", each < COMMIT_SECONDS)
    return Outcome("W8", f"{commits} commits", timings, commits, [goal])


def by_hand(commits: int, part: bytes | None) -> Spent:
    """Return what it takes for durable, exclusive files of a record's size, each after its part if there is one."""
    with tempfile.TemporaryDirectory() as name:
        folder, parts = Path(name) / "commits", Path(name) / "parts"
        folder.mkdir()
        parts.mkdir()

        def work() -> None:
            for number in range(commits):
                if part is not None:
                    (parts / str(number)).mkdir()
                    create(parts / str(number), 0, part)
                    sync(parts)
                create(folder, number, b"x" * 400)

        return timed(work)


def create(folder: Path, number: int, data: bytes) -> None:
    """Create one file durably and exclusively."""
    staged = folder / f"{number}.tmp"
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    os.write(descriptor, data)
    os.fsync(descriptor)
    os.close(descriptor)
    os.link(staged, folder / f"{number}.json")
    os.unlink(staged)
    sync(folder)


def sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def by_log(commits: int, part: bytes | None) -> Spent:
    """Return what it takes for commits through Batchmill's commit log."""
    with tempfile.TemporaryDirectory() as name:
        storage = open_storage(Assembler(get_catalog().registry), f"{name}/run")
        log = CommitLog(storage, commits)

        def work() -> None:
            for chunk in range(commits):
                attempt = secrets.token_hex(16)
                log.commit(ChunkDraft(chunk, chunk, chunk + 1, attempt, part, "bin", 0 if part is None else 1))

        return timed(work)
