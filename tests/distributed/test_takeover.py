"""Workers that know of each other by the commit log only: some never start, some die, and nobody hangs."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from checker import check_complete
from job_requests import INTERVAL, job
from oracle import assert_doubler
from process_fixtures import linux_only
from processes import committed_chunks, until
from zygote import Zygote

pytestmark = linux_only

PATIENCE = 1.0
LOOK_INTERVAL = 0.5


def start(zygote: Zygote, output: Path, rank: int, size: int, **changes: object) -> int:
    request = job(output, **changes).to_json()  # type: ignore[arg-type]
    arguments = {"rank": rank, "size": size, "patience": PATIENCE, "look": LOOK_INTERVAL}
    return zygote.fork("one_of", {"request": request, **arguments})


@pytest.mark.parametrize("claims", ["static", "dynamic"])
def test_a_rank_that_never_starts_costs_one_wait(zygote: Zygote, output: Path, claims: str) -> None:
    began = time.monotonic()
    pids = [start(zygote, output, rank, 3, claims=claims) for rank in (0, 2)]
    assert set(zygote.wait(*pids).values()) == {0}, zygote.logs()
    assert time.monotonic() - began < 3 * PATIENCE, "each chunk of the missing rank was waited for anew"
    assert_doubler(check_complete(output / "run"))


def test_one_rank_of_three_does_it_all_after_one_wait(zygote: Zygote, output: Path) -> None:
    began = time.monotonic()
    pid = start(zygote, output, 1, 3, claims="static")
    assert zygote.wait(pid)[pid] == 0, zygote.logs()
    assert time.monotonic() - began < 3 * PATIENCE
    assert_doubler(check_complete(output / "run"))


def test_a_rank_that_dies_is_replaced_by_the_others(zygote: Zygote, output: Path) -> None:
    pids = [start(zygote, output, rank, 3, settings={"pause": 0.02}, claims="static") for rank in range(3)]
    until(lambda: committed_chunks(output / "run") >= 4, "some chunks")
    zygote.kill(pids[1])
    codes = zygote.wait(*pids)
    assert codes == {pids[0]: 0, pids[1]: -signal.SIGKILL, pids[2]: 0}, zygote.logs()
    assert_doubler(check_complete(output / "run"))


def test_a_stopped_rank_finds_its_chunks_done_when_it_wakes(zygote: Zygote, output: Path, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    settings = {"pause": 0.02, "journal": str(journal)}
    pids = [start(zygote, output, rank, 2, settings=settings, claims="static") for rank in range(2)]
    until(lambda: committed_chunks(output / "run") >= 2, "some chunks")
    os.kill(pids[0], signal.SIGSTOP)
    assert zygote.wait(pids[1])[pids[1]] == 0, zygote.logs()
    result, batches = (output / "run" / "result.json").read_bytes(), batches_of(pids[0], journal)
    assert len(batches) < 10, "it was stopped too late for this test"
    time.sleep(LOOK_INTERVAL)
    os.kill(pids[0], signal.SIGCONT)
    assert zygote.wait(pids[0])[pids[0]] == 0, zygote.logs()
    repeated = batches_of(pids[0], journal)[len(batches) :]
    assert len(repeated) <= INTERVAL, f"it went on with chunks that were committed long ago: {repeated}"
    run = check_complete(output / "run")
    assert run.result_bytes == result
    assert_doubler(run)


def batches_of(pid: int, journal: Path) -> list[int]:
    """Return the batches that a process began, in order."""
    lines = [line.split() for line in journal.read_text().splitlines()]
    return [int(batch) for worker, batch in lines if int(worker) == pid]
