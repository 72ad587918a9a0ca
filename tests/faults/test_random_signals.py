"""SIGTERM, SIGUSR1, Ctrl-C and Ctrl-C twice at random moments: the run drains, says 75, and a resume ends it.

Every trial is made from its seed alone. ``BATCHMILL_TRIALS`` sets how many the campaign has.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from checker import CheckedRun, check_complete, check_wreck
from job_requests import job, run_here
from oracle import assert_doubler
from process_fixtures import linux_only
from processes import until
from zygote import Zygote

pytestmark = linux_only

SHORT = 20
TRIALS = int(os.environ.get("BATCHMILL_TRIALS", "400"))
SLOW = {"pause": 0.008}
SIGNALS = {
    "TERM": [signal.SIGTERM],
    "USR1": [signal.SIGUSR1],
    "INT": [signal.SIGINT],
    "INT twice": [signal.SIGINT, signal.SIGINT],
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> CheckedRun:
    output = tmp_path_factory.mktemp("undisturbed")
    assert run_here(job(output, settings=SLOW)).complete
    return check_complete(output / "run")


def trial(zygote: Zygote, output: Path, seed: int, undisturbed: CheckedRun) -> tuple[str, float]:
    """Stop a run at a random moment and resume it; return how it ended and the seconds that this took."""
    dice = random.Random(seed)
    name = list(SIGNALS)[seed % len(SIGNALS)]
    pid = zygote.fork("alone", {"request": job(output, settings=SLOW).to_json()})
    until((output / "run" / "run.json").exists, "the run to be open", pause=0.002)
    time.sleep(dice.uniform(0, 0.35))
    began = time.monotonic()
    for number in SIGNALS[name]:
        if zygote.poll(pid) is None:
            os.kill(pid, number)
            time.sleep(dice.uniform(0, 0.02))
    code = zygote.wait(pid, seconds=10)[pid]
    took = time.monotonic() - began
    assert code in (0, 75), f"{name}: {code}\n{zygote.last_log()}"
    assert "Traceback" not in zygote.last_log()
    _, committed = check_wreck(output / "run")
    assert (output / "run" / "result.json").exists() == (code == 0)
    pid = zygote.fork("alone", {"request": job(output, settings=SLOW).to_json()})
    assert zygote.wait(pid)[pid] == 0, zygote.logs()
    run = check_complete(output / "run")
    assert run.result_bytes == undisturbed.result_bytes
    assert {chunk: run.records[chunk] for chunk in committed} == committed
    assert_doubler(run)
    return f"{name}: {code}", took


def trials(zygote: Zygote, folder: Path, seeds: range, undisturbed: CheckedRun) -> Counter[str]:
    ends: Counter[str] = Counter()
    longest = 0.0
    for seed in seeds:
        try:
            end, took = trial(zygote, folder / str(seed), seed, undisturbed)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        ends[end] += 1
        longest = max(longest, took)
    print(f"{len(seeds)} runs stopped by signals at random moments: {dict(ends)}; the longest took {longest:.2f} s")
    return ends


def test_signals_at_random_moments(zygote: Zygote, tmp_path: Path, undisturbed: CheckedRun) -> None:
    ends = trials(zygote, tmp_path, range(SHORT), undisturbed)
    assert {f"{name}: 75" for name in SIGNALS} <= set(ends), "a signal never came in time"


@pytest.mark.campaign
def test_many_signals_at_random_moments(zygote: Zygote, tmp_path: Path, undisturbed: CheckedRun) -> None:
    trials(zygote, tmp_path, range(1000, 1000 + TRIALS), undisturbed)
