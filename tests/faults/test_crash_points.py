"""kill -9 at every change of storage and tracker, in the middle of it or right after it; then resume on 1 to 3 workers.

A crash right before a change is one right after the change before it, so only the campaign tries those as well.
"""

from __future__ import annotations

import dataclasses
import shutil
import signal
import sqlite3
from pathlib import Path

import pytest
from checker import CheckedRun, check_complete, check_wreck
from job_requests import job, run_here
from oracle import assert_doubler
from process_fixtures import linux_only
from zygote import Zygote

from batchmill.contracts.run import RunRequest, Selection
from batchmill.inspection import verify_run

pytestmark = linux_only

SAMPLES = 13  # three batches, each a chunk
MOST_CHANGES = 100

Undisturbed = tuple[CheckedRun, list[tuple[object, ...]]]


def crashing(request: RunRequest, at: int, when: str) -> RunRequest:
    settings = {"at": at, "when": when}
    return dataclasses.replace(
        request,
        storage=Selection("crashing:CrashingStorage", settings),
        tracker=Selection("crashing:CrashingTracker", settings),
    )


def small_job(output: Path) -> RunRequest:
    return job(output, processor="Everything", samples=SAMPLES, launcher=Selection("in_process"))


def ledger(output: Path) -> list[tuple[object, ...]]:
    """Return all metrics in the tracker, without their times and ranks."""
    with sqlite3.connect(output / "batchmill.sqlite") as connection:
        query = "SELECT metric_group, steps_completed, name, value FROM metric ORDER BY 1, 2, 3, 4"
        return connection.execute(query).fetchall()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    output = tmp_path_factory.mktemp("undisturbed")
    assert run_here(small_job(output)).complete
    run = check_complete(output / "run", SAMPLES)
    assert_doubler(run, extra_metrics=["blob_bytes"])
    assert run.metrics["blob_bytes"] == 3 * 220_000
    assert all("partials_file" in record for record in run.records)
    assert len(run.result["files"]) == 3
    metrics = ledger(output)
    assert len(metrics) == 3 + 3
    return run, metrics


def assert_whole(output: Path, undisturbed: Undisturbed) -> None:
    run = check_complete(output / "run", SAMPLES)
    assert run.result_bytes == undisturbed[0].result_bytes
    assert ledger(output) == undisturbed[1]
    report = verify_run(str(output / "run"))
    assert report.ok and report.complete, report.problems


def crash_everywhere(
    zygote: Zygote, folder: Path, undisturbed: Undisturbed, when: str, every_size: bool = True
) -> None:
    """Crash at one change after another; resume each wreck on one, two and three workers, or on each in turn."""
    trials = 0
    for at in range(1, MOST_CHANGES):
        wreck = folder / str(at)
        pid = zygote.fork("alone", {"request": crashing(small_job(wreck), at, when).to_json()})
        code = zygote.wait(pid)[pid]
        if code == 0:
            break
        assert code == -signal.SIGKILL, zygote.logs()
        if (wreck / "run" / "run.json").exists():
            check_wreck(wreck / "run")
        for size in (1, 2, 3) if every_size else (at % 3 + 1,):
            output = folder / f"{at}-on-{size}"
            shutil.copytree(wreck, output)
            assert set(zygote.wait(*resume(zygote, output, size)).values()) == {0}, (
                f"resume on {size} workers after a crash {when} change {at}\n{zygote.logs()}"
            )
            try:
                assert_whole(output, undisturbed)
            except AssertionError as error:
                raise AssertionError(f"resumed on {size} workers after a crash {when} change {at}: {error}") from error
            shutil.rmtree(output)
            trials += 1
    assert 20 < at < MOST_CHANGES - 1, f"the run had {at - 1} crash points"
    print(f"{at - 1} crash points {when} a change, resumed on 1 to 3 workers: {trials} trials")


def resume(zygote: Zygote, output: Path, size: int) -> list[int]:
    request = small_job(output)
    if size == 1:
        return [zygote.fork("alone", {"request": request.to_json()})]
    shared = dataclasses.replace(request, claims=Selection("static")).to_json()
    return [
        zygote.fork("one_of", {"request": shared, "rank": rank, "size": size, "patience": 0.5}) for rank in range(size)
    ]


def test_one_crash_after_every_change(zygote: Zygote, tmp_path: Path, undisturbed: Undisturbed) -> None:
    crash_everywhere(zygote, tmp_path, undisturbed, "after")


def test_one_crash_within_every_change(zygote: Zygote, tmp_path: Path, undisturbed: Undisturbed) -> None:
    crash_everywhere(zygote, tmp_path, undisturbed, "torn", every_size=False)


@pytest.mark.campaign
@pytest.mark.parametrize("when", ["before", "torn"])
def test_one_crash_at_every_change_on_every_number_of_workers(
    zygote: Zygote, tmp_path: Path, undisturbed: Undisturbed, when: str
) -> None:
    crash_everywhere(zygote, tmp_path, undisturbed, when)


@pytest.mark.parametrize("when", ["before", "torn", "after"])
def test_a_crash_in_every_incarnation(zygote: Zygote, output: Path, undisturbed: Undisturbed, when: str) -> None:
    """Each incarnation gets eight changes far; that is enough for the run to end."""
    request = small_job(output)
    for incarnation in range(1, 20):  # noqa: B007 - its last value is asserted
        pid = zygote.fork("alone", {"request": crashing(request, 9, when).to_json()})
        code = zygote.wait(pid)[pid]
        if code == 0:
            break
        assert code == -signal.SIGKILL, zygote.logs()
    assert 2 < incarnation < 19
    assert_whole(output, undisturbed)
