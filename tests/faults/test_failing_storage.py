"""Storage that fails 1, 5 or 20 % of all calls, before or after it did what was asked: the result is the same.

``BATCHMILL_TRIALS`` sets how many trials the campaign has.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from pathlib import Path

import pytest
from checker import CheckedRun, check_complete, check_wreck
from failing import FAULTS, faults_told
from job_requests import job, run_here
from process_fixtures import linux_only
from processes import Launcher
from zygote import Zygote

from batchmill.contracts.run import RunRequest, Selection

pytestmark = linux_only

SAMPLES = 43  # nine batches
SHARES = (0.01, 0.05, 0.2)
SHORT = 18
TRIALS = int(os.environ.get("BATCHMILL_TRIALS", "600"))


def request(output: Path, **changes: object) -> RunRequest:
    return job(output, processor="Reporting", samples=SAMPLES, checkpoint_interval=1, claims="static", **changes)  # type: ignore[arg-type]


def failing(output: Path, **settings: object) -> RunRequest:
    return dataclasses.replace(request(output), storage=Selection("failing:FailingStorage", settings))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> CheckedRun:
    output = tmp_path_factory.mktemp("undisturbed")
    assert run_here(request(output)).complete
    return check_complete(output / "run", SAMPLES)


def trial(zygote: Zygote, output: Path, seed: int, undisturbed: CheckedRun) -> tuple[Counter[str], int]:
    """Run on one to three workers until it is complete; return the faults injected and how many launches gave up."""
    share, size = SHARES[seed % 3], 1 + seed // 3 % 3
    told = output / "faults"
    output.mkdir(parents=True)
    gave_up = 0
    for launch in range(20):
        flaky = failing(output, share=share, seed=100 * seed + launch, hang=0.5, told=str(told)).to_json()
        arguments = [{"request": flaky, "rank": rank, "size": size, "delay": 0.002} for rank in range(size)]
        pids = [zygote.fork("on_failing_storage", each) for each in arguments]
        codes = set(zygote.wait(*pids).values())
        assert codes <= {0, 74}, f"{codes}\n{zygote.logs()}"
        if (output / "run" / "run.json").exists():
            check_wreck(output / "run")
        if codes == {0}:
            break
        gave_up += 1
    else:
        raise AssertionError("20 launches were not enough")
    run = check_complete(output / "run", SAMPLES)
    assert run.result_bytes == undisturbed.result_bytes
    return faults_told(told), gave_up


def trials(zygote: Zygote, folder: Path, seeds: range, undisturbed: CheckedRun) -> Counter[str]:
    faults: Counter[str] = Counter()
    gave_up = 0
    for seed in seeds:
        try:
            injected, left = trial(zygote, folder / str(seed), seed, undisturbed)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        faults += injected
        gave_up += left
    kinds = Counter(line.split(" ", 1)[1] if not line.startswith("look up") else line[8:] for line in faults.elements())
    print(f"{len(seeds)} trials, {faults.total()} calls failed ({dict(kinds)}), {gave_up} launches gave up with 74")
    return kinds


def test_storage_that_fails_now_and_then(zygote: Zygote, tmp_path: Path, undisturbed: CheckedRun) -> None:
    kinds = trials(zygote, tmp_path, range(SHORT), undisturbed)
    assert set(kinds) == {*FAULTS, "412", "hang"}, "not every fault was injected"


@pytest.mark.campaign
def test_storage_that_fails_often(zygote: Zygote, tmp_path: Path, undisturbed: CheckedRun) -> None:
    trials(zygote, tmp_path, range(1000, 1000 + TRIALS), undisturbed)


@pytest.mark.parametrize("broken", ["put", "create", "get", "list", "sync"])
def test_storage_that_never_answers_ends_the_run_and_a_resume_goes_on(
    zygote: Zygote, output: Path, undisturbed: CheckedRun, broken: str
) -> None:
    arguments = {"request": failing(output, broken=broken).to_json(), "rank": 0, "size": 1, "delay": 0.002}
    pid = zygote.fork("on_failing_storage", arguments)
    assert zygote.wait(pid)[pid] == 74, zygote.logs()
    told = zygote.last_log()
    assert f"Could not {broken}" in told and "503 Service Unavailable" in told and "Traceback" not in told
    pid = zygote.fork("alone", {"request": request(output).to_json()})
    assert zygote.wait(pid)[pid] == 0, zygote.logs()
    assert check_complete(output / "run", SAMPLES).result_bytes == undisturbed.result_bytes


def test_storage_that_fails_under_the_launcher(launch: Launcher, output: Path, undisturbed: CheckedRun) -> None:
    told = output / "faults"
    output.mkdir()
    flaky = failing(output, share=0.05, seed=1, told=str(told))
    flaky = dataclasses.replace(flaky, claims=Selection("dynamic"), launcher=Selection("local", {"nproc": 2}))
    launch.job(flaky).finish(0)
    assert faults_told(told).total() > 0
    assert check_complete(output / "run", SAMPLES).result_bytes == undisturbed.result_bytes
