"""kill -9 at random moments, then resume with another number of workers: the same bytes as an undisturbed run.

Every trial is made from its seed alone, which a failure names. ``BATCHMILL_TRIALS`` sets how many the campaign has,
and ``BATCHMILL_FIRST_SEED`` where its seeds begin.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from checker import CheckedRun, check_complete, check_wreck
from job_requests import job, on, run_here
from oracle import assert_doubler
from process_fixtures import linux_only
from processes import Launched, Launcher
from zygote import Zygote

from batchmill.inspection import verify_run

pytestmark = linux_only

TRIALS = int(os.environ.get("BATCHMILL_TRIALS", "200"))
FIRST_SEED = int(os.environ.get("BATCHMILL_FIRST_SEED", "1000"))  # so that several processes share a campaign
SHORT_FORKED, SHORT_LAUNCHED = 46, 6  # about 200 kills of workers
REDUCED = {"pause": 0.004}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> CheckedRun:
    output = tmp_path_factory.mktemp("undisturbed")
    assert run_here(job(output, settings=REDUCED)).complete
    run = check_complete(output / "run")
    assert_doubler(run)
    return run


def assert_same(output: Path, undisturbed: CheckedRun) -> None:
    run = check_complete(output / "run")
    assert run.result_bytes == undisturbed.result_bytes
    assert_doubler(run)
    report = verify_run(str(output / "run"))
    assert report.ok and report.complete, report.problems


# --- workers that know of each other by the commit log only: cheap, so many trials ---


def forked_trial(zygote: Zygote, output: Path, seed: int, undisturbed: CheckedRun) -> int:
    """Kill random workers of random groups until some group completes the run; return how many were killed."""
    dice = random.Random(seed)
    kills = 0
    for _ in range(dice.randint(1, 3)):
        size = dice.randint(1, 4)
        pids = start_group(zygote, output, size)
        for victim in dice.sample(pids, dice.randint(1, size)):
            time.sleep(dice.uniform(0.0, 0.15))
            zygote.kill(victim)
        for pid in pids:
            zygote.kill(pid)
        kills += sum(code == -signal.SIGKILL for code in zygote.wait(*pids).values())
        if (output / "run" / "run.json").exists():
            check_wreck(output / "run")
    pids = start_group(zygote, output, dice.randint(1, 4))
    assert set(zygote.wait(*pids).values()) == {0}, zygote.logs()
    assert_same(output, undisturbed)
    return kills


def start_group(zygote: Zygote, output: Path, size: int) -> list[int]:
    request = job(output, settings=REDUCED, claims="static").to_json()
    return [
        zygote.fork("one_of", {"request": request, "rank": rank, "size": size, "patience": 0.3}) for rank in range(size)
    ]


def forked_trials(zygote: Zygote, folder: Path, seeds: range, undisturbed: CheckedRun) -> None:
    kills = 0
    for seed in seeds:
        try:
            kills += forked_trial(zygote, folder / str(seed), seed, undisturbed)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
    print(f"{len(seeds)} trials, {kills} workers killed at random")
    assert kills >= len(seeds), "too few workers were alive to be killed"


def test_workers_killed_at_random(zygote: Zygote, tmp_path: Path, undisturbed: CheckedRun) -> None:
    forked_trials(zygote, tmp_path, range(SHORT_FORKED), undisturbed)


@pytest.mark.campaign
def test_many_workers_killed_at_random(zygote: Zygote, tmp_path: Path, undisturbed: CheckedRun) -> None:
    forked_trials(zygote, tmp_path, range(FIRST_SEED, FIRST_SEED + TRIALS), undisturbed)


# --- the real launcher: each trial costs two starts of Python and torch ---


def launched_trial(launch: Launcher, output: Path, seed: int, undisturbed: CheckedRun) -> str:
    """Kill the launcher, a worker or everything at a random moment; resume on another number of workers."""
    dice = random.Random(seed)
    target = ("launcher", "worker", "everything")[seed % 3]
    nproc = dice.randint(2, 4)
    first = launch.job(on(job(output, settings={"pause": 0.02}), nproc))
    if seed % 4 == 3:  # during start-up
        time.sleep(dice.uniform(0.05, 1.5))
    else:
        wait_for_any(first, output, chunks=dice.randint(0, 20))
    strike(first, target, dice)
    if target == "worker":
        first.finish(0)
    else:
        first.wait()
    first.until_gone(2)
    if (output / "run" / "run.json").exists():
        check_wreck(output / "run")
    nproc = dice.choice([n for n in (1, 2, 3, 4) if n != nproc])
    if nproc == 1:
        assert run_here(job(output, settings={"pause": 0.02})).complete
    else:
        second = launch.job(on(job(output, settings={"pause": 0.02}), nproc))
        second.finish(0)
        second.until_gone(2)
    run = check_complete(output / "run")
    assert run.metrics == undisturbed.metrics
    assert_doubler(run)
    report = verify_run(str(output / "run"))
    assert report.ok and report.complete, report.problems
    return target


def wait_for_any(first: Launched, output: Path, chunks: int) -> None:
    from processes import committed_chunks

    deadline = time.monotonic() + 30
    while committed_chunks(output / "run") < chunks and first.process.poll() is None:
        assert time.monotonic() < deadline, f"no {chunks} chunks after 30 s\n{first.stderr}"
        time.sleep(0.005)


def strike(first: Launched, target: str, dice: random.Random) -> None:
    family = first.family()
    if target == "launcher":
        victims = [first.pid]
    elif target == "worker":
        workers = [info.pid for info in family if info.is_worker]
        victims = [dice.choice(workers)] if workers else []
    else:
        victims = [info.pid for info in family]
    for pid in victims:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


@pytest.mark.parametrize("seed", range(SHORT_LAUNCHED))
def test_the_launcher_killed_at_random(launch: Launcher, output: Path, seed: int, undisturbed: CheckedRun) -> None:
    launched_trial(launch, output, seed, undisturbed)


@pytest.mark.campaign
def test_the_launcher_killed_at_random_many_times(launch: Launcher, tmp_path: Path, undisturbed: CheckedRun) -> None:
    targets = {launched_trial(launch, tmp_path / str(seed), seed, undisturbed) for seed in range(100, 100 + TRIALS)}
    assert targets == {"launcher", "worker", "everything"}
