"""Stopped by signals while user code does not come back: the process leaves in time, and nothing is lost."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from checker import check_complete, check_wreck
from job_requests import BATCH, INTERVAL, SAMPLES
from oracle import assert_doubler
from process_fixtures import linux_only
from processes import SUPPORT, Launcher, until

pytestmark = linux_only

STUCK = """
import signal, sys, time
import batchmill
from jobs import Doubler, Values

class Stuck(Doubler):
    def process_batch(self, batch, batch_idx):
        if batch_idx == 7 and sys.argv[2] == "stuck":
            print("stuck", flush=True)
            signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))  # as inside a call that nothing interrupts
            time.sleep(60)
        return super().process_batch(batch, batch_idx)

result = batchmill.torch_batch_process(
    Stuck, Values({samples}), batch_size={batch}, checkpoint_interval={interval}, output=sys.argv[1], run_id="run"
)
sys.exit(result.exit_code)
"""


@pytest.mark.parametrize(
    ("number", "environment"), [(signal.SIGTERM, {}), (signal.SIGUSR1, {"RANK": "0", "WORLD_SIZE": "1"})]
)
def test_a_worker_that_is_stuck_leaves_in_time(
    launch: Launcher, output: Path, number: signal.Signals, environment: dict[str, str]
) -> None:
    """In a script of its own, and as a rank that somebody started."""
    source = STUCK.format(samples=SAMPLES, batch=BATCH, interval=INTERVAL)
    environment = {**environment, "PYTHONPATH": str(SUPPORT)}
    worker = launch("-c", source, str(output), "stuck", BATCHMILL_GRACE="1.5", **environment)
    until(lambda: "stuck" in worker.stdout, "the call that does not return")
    began = time.monotonic()
    worker.signal(number)  # which a thread of the process takes, as the main one blocks it
    worker.finish(75, seconds=20)
    assert 1.4 < time.monotonic() - began < 6
    assert f"received {number.name}, and the work in progress has not come to its end within 1.5 s" in worker.stderr
    worker.until_gone(2)
    _, records = check_wreck(output / "run")
    assert 0 < len(records) < 21
    launch("-c", source, str(output), "free", **environment).finish(0)
    run = check_complete(output / "run", SAMPLES)
    assert_doubler(run)
    assert {chunk: run.records[chunk] for chunk in records} == records
