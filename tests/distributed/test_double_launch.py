"""Two launchers on one run: the second is refused, or joins; with other settings it never touches the run."""

from __future__ import annotations

import dataclasses
import random
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from checker import check_complete
from job_requests import SAMPLES, job, on, run_here
from oracle import assert_doubler, doubler_metrics
from process_fixtures import linux_only
from processes import Launcher, committed_chunks, until, until_committed
from zygote import Zygote

from batchmill import AlreadyRunningError, ConfigMismatchError
from batchmill.contracts.run import RunRequest, RunResult, Selection
from batchmill.inspection import verify_run

pytestmark = linux_only

BATCHES = 41


@pytest.mark.parametrize("nproc", [1, 2])
def test_a_second_launcher_is_refused(launch: Launcher, output: Path, tmp_path: Path, nproc: int) -> None:
    gate = tmp_path / "gate"
    request = job(output, nproc=2, settings={"gate": str(gate)})
    first = launch.job(request)
    until_committed(output / "run", 1, first)
    second = launch.job(on(request, nproc))
    until(lambda: "Another launcher" in second.stderr or second.process.poll() is not None, "the refusal")
    gate.touch()
    second.finish(73)
    assert f"Another launcher is working on run {output / 'run'}" in second.stderr
    assert "join=true" in second.stderr
    first.finish(0)
    assert_doubler(check_complete(output / "run"))


def test_the_lock_falls_with_its_launcher(launch: Launcher, output: Path) -> None:
    request = job(output, nproc=2, settings={"pause": 0.05})
    first = launch.job(request)
    until_committed(output / "run", 1, first)
    first.kill_everything()
    assert run_here(request).complete
    assert_doubler(check_complete(output / "run"))


def test_a_second_launcher_may_join(launch: Launcher, output: Path, tmp_path: Path) -> None:
    journal, gate = tmp_path / "journal", tmp_path / "gate"
    request = job(output, nproc=2, settings={"pause": 0.05, "journal": str(journal), "gate": str(gate)})
    first = launch.job(request)
    until_committed(output / "run", 1, first)
    second = launch.job(dataclasses.replace(request, join=True))
    until(lambda: len({line.split()[0] for line in journal.read_text().splitlines()}) == 4, "work of all four workers")
    gate.touch()
    first.finish(0)
    second.finish(0)
    assert_doubler(check_complete(output / "run"))
    repeated = len(journal.read_text().splitlines()) - BATCHES
    assert repeated < 0.6 * BATCHES, "joining repeated the other's work instead of sharing it"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"batch_size": 7}, "batch_size: 5 in the run, 7 now"),
        ({"dataset": Selection("jobs:Values", {"n": SAMPLES + 1})}, "dataset.length: 203 in the run, 204 now"),
        ({"seed": 1}, "seed: 0 in the run, 1 now"),
        ({"processor": Selection("jobs:Doubler", {"pause": 0.5})}, "processor.pause: 0.1 in the run, 0.5 now"),
        ({"writer": Selection("jsonl")}, "writer: 'parquet' in the run, 'jsonl' now"),
    ],
)
def test_other_settings_are_refused_with_the_difference(output: Path, change: dict[str, object], told: str) -> None:
    request = job(output, settings={"pause": 0.1}, samples=SAMPLES, limit=20)
    assert run_here(request).complete
    before = snapshot(output / "run")
    with pytest.raises(ConfigMismatchError) as caught:
        run_here(dataclasses.replace(request, **change))  # type: ignore[arg-type]
    assert told in str(caught.value)
    assert caught.value.exit_code == 78
    assert snapshot(output / "run") == before


def test_other_settings_never_touch_a_run_that_goes_on(launch: Launcher, output: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    request = job(output, nproc=2, settings={"gate": str(gate)})
    first = launch.job(request)
    until_committed(output / "run", 1, first)
    second = launch.job(dataclasses.replace(request, seed=9, join=True))
    second.finish(78)
    assert "seed: 0 in the run, 9 now" in second.stderr
    gate.touch()
    first.finish(0)
    assert_doubler(check_complete(output / "run"))


# --- races for the same chunks ---


def test_two_runs_that_race_agree_on_one_attempt_for_each_chunk(output: Path) -> None:
    """Every attempt gives other numbers; each chunk shows those of one attempt, and nothing of the other is left."""
    request = job(output, processor="Random", settings={"pause": 0.01}, join=True)
    results: list[RunResult] = []
    ready = threading.Barrier(2)

    def race() -> None:
        ready.wait()
        results.append(run_here(request))

    threads = [threading.Thread(target=race) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [result.complete for result in results] == [True, True]
    run = check_complete(output / "run", SAMPLES)
    assert run.metrics == doubler_metrics(SAMPLES, 5, 2)
    attempts = run.column("attempt")
    for record in run.records:
        for start in range(record["start"], record["stop"], 5):
            stop = min(start + 5, record["stop"])
            assert len(set(attempts[start:stop])) == 1, "a batch has rows of two attempts"
    report = verify_run(str(output / "run"))
    assert report.ok, report.problems


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, bytes]:
    """Return ``result.json`` of an undisturbed run, for each of two fingerprints."""
    found = {}
    for shift in (0, 1):
        output = tmp_path_factory.mktemp("undisturbed")
        assert run_here(racing(output, shift)).complete
        found[shift] = check_complete(output / "run").result_bytes
    assert found[0] != found[1]
    return found


def racing(output: Path, shift: int = 0, join: bool = False) -> RunRequest:
    return job(output, samples=63, settings={"pause": 0.004}, data={"shift": shift}, join=join)


def race(zygote: Zygote, output: Path, seed: int, undisturbed: dict[int, bytes]) -> list[int]:
    """Start two to four launchers at the same moment; return their exit codes."""
    dice = random.Random(seed)
    kind = ("plain", "join", "mixed")[seed % 3]
    shifts = [dice.randrange(2) if kind == "mixed" else 0 for _ in range(dice.randint(2, 4))]
    at = time.monotonic() + 0.05
    requests = [racing(output, shift, join=kind == "join").to_json() for shift in shifts]
    pids = [zygote.fork("alone_at", {"request": each, "at": at + dice.uniform(0, 0.01)}) for each in requests]
    codes = list(zygote.wait(*pids).values())
    run = check_complete(output / "run", 63)
    (winner,) = [shift for shift, data in undisturbed.items() if data == run.result_bytes]
    for shift, code in zip(shifts, codes, strict=True):
        allowed = {0} if kind == "join" else {0, 73}
        assert code in (allowed if shift == winner else {78}), f"{kind} {shifts}: {codes}\n{zygote.logs()}"
    assert 0 in codes
    return codes


def races(zygote: Zygote, folder: Path, seeds: range, undisturbed: dict[int, bytes]) -> Counter[int]:
    codes: Counter[int] = Counter()
    for seed in seeds:
        try:
            codes.update(race(zygote, folder / str(seed), seed, undisturbed))
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
    print(f"{len(seeds)} races of {codes.total()} launchers; exit codes {dict(codes)}")
    return codes


def test_launchers_that_start_at_the_same_moment(zygote: Zygote, tmp_path: Path, undisturbed: dict[int, bytes]) -> None:
    assert set(races(zygote, tmp_path, range(24), undisturbed)) == {0, 73, 78}


@pytest.mark.campaign
def test_many_launchers_that_start_at_the_same_moment(
    zygote: Zygote, tmp_path: Path, undisturbed: dict[int, bytes]
) -> None:
    races(zygote, tmp_path, range(1000, 1500), undisturbed)


def test_a_second_launch_in_the_same_process_is_refused_too(output: Path) -> None:
    request = job(output, settings={"pause": 0.05})
    first = threading.Thread(target=run_here, args=(request,))
    first.start()
    while committed_chunks(output / "run") < 1:
        assert first.is_alive()
    with pytest.raises(AlreadyRunningError):
        run_here(request)
    first.join(60)
    assert_doubler(check_complete(output / "run"))


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder with its bytes."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
