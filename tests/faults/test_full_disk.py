"""No space left: exit code 74, nothing committed is lost, nothing half-written is left, and a resume goes on."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from checker import CheckedRun, check_complete, check_wreck
from job_requests import job, run_here
from process_fixtures import linux_only
from zygote import Zygote

from batchmill.contracts.run import RunRequest, Selection

pytestmark = linux_only

SAMPLES = 13  # three batches, each a chunk with a file of partials of some 300 KB
MOST_WRITES = 100
KIB = 1024


def small_job(output: Path) -> RunRequest:
    return job(output, processor="Everything", samples=SAMPLES, launcher=Selection("in_process"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> CheckedRun:
    output = tmp_path_factory.mktemp("undisturbed")
    assert run_here(small_job(output)).complete
    return check_complete(output / "run", SAMPLES)


def check_stopped(run: Path, code: int, told: str, zygote: Zygote) -> int:
    """Assert that a run gave up in order; return how many chunks are committed."""
    assert code == 74, f"{code}: {zygote.logs()}"
    last = zygote.last_log()
    assert told in last, last
    assert "Traceback" not in last
    assert [str(file) for file in run.rglob("*.tmp")] == [], "something half-written is left"
    for file in (run / "parts").glob("*/*"):
        assert hashlib.sha256(file.read_bytes()).hexdigest().startswith(file.name.partition(".")[0]), file
    return len(check_wreck(run)[1]) if (run / "run.json").exists() else 0


def check_resumed(zygote: Zygote, output: Path, undisturbed: CheckedRun) -> None:
    committed = check_wreck(output / "run")[1] if (output / "run" / "run.json").exists() else {}
    pid = zygote.fork("alone", {"request": small_job(output).to_json()})
    assert zygote.wait(pid)[pid] == 0, zygote.logs()
    run = check_complete(output / "run", SAMPLES)
    assert run.result_bytes == undisturbed.result_bytes
    assert {chunk: run.records[chunk] for chunk in committed} == committed


def test_every_write_may_find_the_disk_full(zygote: Zygote, tmp_path: Path, undisturbed: CheckedRun) -> None:
    seen = set()
    for first in range(1, MOST_WRITES):
        output = tmp_path / str(first)
        arguments = {"request": small_job(output).to_json(), "first": first, "last": 10**6, "patience": 0.0}
        pid = zygote.fork("running_out_of_space", arguments)
        code = zygote.wait(pid)[pid]
        if code == 0:
            break
        seen.add(check_stopped(output / "run", code, "No space left on device (ENOSPC)", zygote))
        check_resumed(zygote, output, undisturbed)
    assert 10 < first < MOST_WRITES - 1
    assert seen == {0, 1, 2, 3}
    print(f"{first - 1} writes, each the first to find the disk full")


def test_space_that_comes_back_in_time_costs_nothing(zygote: Zygote, output: Path, undisturbed: CheckedRun) -> None:
    arguments = {"request": small_job(output).to_json(), "first": 6, "last": 25, "patience": 10.0}
    pid = zygote.fork("running_out_of_space", arguments)
    assert zygote.wait(pid)[pid] == 0, zygote.logs()
    assert check_complete(output / "run", SAMPLES).result_bytes == undisturbed.result_bytes


@pytest.mark.parametrize("limit", [2 * KIB, 30 * KIB, 100 * KIB, 290 * KIB, 320 * KIB])
def test_files_may_not_grow_beyond_a_limit(zygote: Zygote, output: Path, undisturbed: CheckedRun, limit: int) -> None:
    pid = zygote.fork("with_small_files", {"request": small_job(output).to_json(), "limit": limit})
    code = zygote.wait(pid)[pid]
    if limit < 290 * KIB:  # what the tracker says of it is SQLite's own
        check_stopped(output / "run", code, "" if limit < 100 * KIB else f"the {limit:,} bytes allowed", zygote)
    check_resumed(zygote, output, undisturbed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    if shutil.which("mount") is None or mount(folder, "size=64k").returncode:
        pytest.skip("mounting a small tmpfs is not allowed here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def mount(folder: Path, options: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False
    )


@pytest.mark.parametrize("size", range(64, 1600, 256))
def test_a_small_disk(zygote: Zygote, small_disk: Path, undisturbed: CheckedRun, size: int) -> None:
    fill_and_resume(zygote, small_disk, undisturbed, size)


@pytest.mark.campaign
@pytest.mark.parametrize("size", range(64, 1600, 64))
def test_a_small_disk_of_any_size(zygote: Zygote, small_disk: Path, undisturbed: CheckedRun, size: int) -> None:
    fill_and_resume(zygote, small_disk, undisturbed, size)


def fill_and_resume(zygote: Zygote, disk: Path, undisturbed: CheckedRun, size: int) -> None:
    assert mount(disk, f"remount,size={size}k").returncode == 0
    pid = zygote.fork("on_a_full_disk", {"request": small_job(disk).to_json()})
    code = zygote.wait(pid)[pid]
    if code:
        check_stopped(disk / "run", code, "", zygote)
    assert mount(disk, "remount,size=8m").returncode == 0
    check_resumed(zygote, disk, undisturbed)
