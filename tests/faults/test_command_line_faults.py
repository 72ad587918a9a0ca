"""The whole way from the command line: run, kill, resume on another number of workers, verify."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from checker import check_complete, check_wreck
from job_requests import SAMPLES
from oracle import assert_doubler
from process_fixtures import linux_only
from processes import Launched, Launcher, until_committed

pytestmark = linux_only


def run(launch: Launcher, output: Path, nproc: int, *overrides: str, pause: float = 0.05) -> Launched:
    return launch(
        *("-m", "batchmill", "run", "+processor.name=jobs:Doubler", f"+processor.pause={pause}"),
        *("+dataset.name=jobs:Values", f"+dataset.n={SAMPLES}", "allow_import=true", "device=cpu"),
        *("batch_size=5", "checkpoint_interval=2", f"output={output}", "run_id=night", f"launcher.nproc={nproc}"),
        *overrides,
    )


def batchmill(launch: Launcher, *arguments: str) -> Launched:
    return launch("-m", "batchmill", *arguments)


@pytest.mark.parametrize("target", ["launcher", "everything"])
def test_killed_resumed_on_other_workers_and_verified(launch: Launcher, output: Path, target: str) -> None:
    first = run(launch, output, 3)
    until_committed(output / "night", 4, first)
    for pid in [first.pid] if target == "launcher" else [info.pid for info in first.family()]:
        os.kill(pid, signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    first.until_gone(2)
    _, records = check_wreck(output / "night")
    assert 4 <= len(records) < 21
    unfinished = batchmill(launch, "show", str(output / "night"), "--json")
    unfinished.finish(0)
    assert json.loads(unfinished.stdout)["state"] == "incomplete"

    batchmill(launch, "resume", str(output / "night"), "--nproc", "2").finish(0)
    assert_doubler(check_complete(output / "night", SAMPLES))
    verified = batchmill(launch, "verify", str(output / "night"), "--json")
    verified.finish(0)
    report = json.loads(verified.stdout)
    assert report["ok"] and report["complete"] and report["samples"] == SAMPLES


@pytest.mark.parametrize(("nproc", "number"), [(1, signal.SIGINT), (2, signal.SIGTERM)])
def test_preempted_and_started_again(launch: Launcher, output: Path, nproc: int, number: signal.Signals) -> None:
    first = run(launch, output, nproc)
    until_committed(output / "night", 3, first)
    first.signal(number)
    first.finish(75)
    assert "Traceback" not in first.stderr + first.stdout
    assert "batchmill resume" in first.stderr + first.stdout
    check_wreck(output / "night")
    run(launch, output, 1).finish(0)
    assert_doubler(check_complete(output / "night", SAMPLES))


def test_exit_codes_tell_what_happened(launch: Launcher, output: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    first = run(launch, output, 2, f"+processor.gate={gate}")
    until_committed(output / "night", 1, first)
    second = run(launch, output, 1, f"+processor.gate={gate}")
    second.finish(73)
    assert "Another launcher is working on run" in second.stderr and "Traceback" not in second.stderr
    other = run(launch, output, 1, f"+processor.gate={gate}", "seed=5")
    other.finish(78)
    assert "seed: 0 in the run, 5 now" in other.stderr and "Traceback" not in other.stderr
    gate.touch()
    first.finish(0)
    assert_doubler(check_complete(output / "night", SAMPLES))

    failing = run(
        launch, output, 2, "processor.name=jobs:Fails", "+processor.batch=9", "run_id=failing", "on_error=fail"
    )
    failing.finish(70)
    assert "process_batch failed on batch 9 (samples 45..49): ZeroDivisionError: the user's own bug" in failing.stderr
    assert "in trip_over" in failing.stderr
