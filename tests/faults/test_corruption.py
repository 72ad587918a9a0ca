"""Every kind of file of a run, damaged in every way: ``verify`` finds all of it, ``repair`` puts it right.

``BATCHMILL_TRIALS`` sets how many damages of each kind the campaign tries.
"""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from checker import CheckedRun, check_complete
from damage import DAMAGES, KINDS, damages_of, files_of
from job_requests import job, run_here
from process_fixtures import linux_only

from batchmill import CorruptRunError, RunNotFoundError
from batchmill.contracts.run import RunRequest, Selection
from batchmill.inspection import verify_run
from batchmill.repair import DAMAGED, repair_run

pytestmark = linux_only

SAMPLES = 13  # three batches, each a chunk
TRIALS = int(os.environ.get("BATCHMILL_TRIALS", "400"))


def small_job(output: Path, **changes: object) -> RunRequest:
    changes = {"processor": "Reporting", "samples": SAMPLES, "data": {"shift": 0}, **changes}
    return job(output, launcher=Selection("in_process"), **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A whole run and one with other settings; not to be changed."""
    made = []
    for number in range(2):
        output = tmp_path_factory.mktemp("runs")
        assert run_here(small_job(output, seed=number, data={"shift": number})).complete
        check_complete(output / "run", SAMPLES)
        made.append(output / "run")
    for kind in KINDS:
        assert len(files_of(made[0], kind)) == len(files_of(made[1], kind)) > 0, kind
    return made[0], made[1]


@pytest.fixture(scope="module")
def whole(runs: tuple[Path, Path]) -> CheckedRun:
    return check_complete(runs[0], SAMPLES)


def is_found(run: Path) -> bool:
    try:
        return not verify_run(str(run)).ok
    except (CorruptRunError, RunNotFoundError):
        return True


def found_trials(runs: tuple[Path, Path], folder: Path, kind: str, seeds: range) -> Counter[str]:
    """Damage one file after another and look whether it is found; return how many of which damage were tried."""
    tried: Counter[str] = Counter()
    copy, names = Path(shutil.copytree(runs[0], folder / "copy")), damages_of(kind)
    for seed in seeds:
        dice = random.Random(seed)
        name = names[seed % len(names)]
        before = {file: file.read_bytes() for each in KINDS for file in files_of(copy, each)}
        victim = dice.choice(files_of(copy, kind))
        DAMAGES[name](victim, copy, runs[1], dice)
        changed = [file for file, data in before.items() if file.read_bytes() != data]
        if changed:
            tried[name] += 1
            assert is_found(copy), f"seed {seed}: {kind} {victim.name} {name} was not found"
        for file in changed:
            file.write_bytes(before[file])
    assert not is_found(copy)
    return tried


@pytest.mark.parametrize("kind", KINDS)
def test_every_damage_is_found(runs: tuple[Path, Path], tmp_path: Path, kind: str) -> None:
    tried = found_trials(runs, tmp_path, kind, range(40))
    print(f"{kind}: {sum(tried.values())} damages, all found: {dict(tried)}")
    assert set(tried) == set(damages_of(kind))


@pytest.mark.campaign
@pytest.mark.parametrize("kind", KINDS)
def test_every_one_of_many_damages_is_found(runs: tuple[Path, Path], tmp_path: Path, kind: str) -> None:
    tried = found_trials(runs, tmp_path, kind, range(1000, 1000 + TRIALS))
    print(f"{kind}: {sum(tried.values())} damages, all found: {dict(tried)}")


def repair_trial(runs: tuple[Path, Path], output: Path, kind: str, name: str, seed: int, whole: CheckedRun) -> None:
    """Damage a run, repair it, and compare it with what it was; start it anew where only that helps."""
    dice = random.Random(seed)
    copy = Path(shutil.copytree(runs[0], output / "run"))
    before = {file: file.read_bytes() for each in KINDS for file in files_of(copy, each)}
    DAMAGES[name](dice.choice(files_of(copy, kind)), copy, runs[1], dice)
    damaged = {file: file.read_bytes() for file in before if file.read_bytes() != before[file]}
    request = small_job(output)
    try:
        report = repair_run(str(copy))
        while report.exit_code:  # run.json was bad, so the run is started anew, which may meet other damage
            assert report.exit_code == 75 and "Start the run again" in str(report.advice)
            with suppress(CorruptRunError):
                run_here(request)
            report = repair_run(str(copy))
    except Exception as error:
        raise AssertionError(f"{kind} {name}, seed {seed}: {error}") from error
    run = check_complete(copy, SAMPLES)
    assert run.result_bytes == whole.result_bytes
    assert verify_run(str(copy)).ok
    kept = [file.read_bytes() for file in (copy / DAMAGED).rglob("*") if file.is_file()]
    assert all(data in kept for data in damaged.values()), "something bad was not kept"


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in damages_of(kind)])
def test_every_damage_is_repaired(
    runs: tuple[Path, Path], output: Path, whole: CheckedRun, kind: str, name: str
) -> None:
    repair_trial(runs, output, kind, name, 1, whole)


@pytest.mark.campaign
def test_many_damages_are_repaired(runs: tuple[Path, Path], tmp_path: Path, whole: CheckedRun) -> None:
    for seed in range(TRIALS):
        kind = list(KINDS)[seed % len(KINDS)]
        name = random.Random(seed).choice(damages_of(kind))
        repair_trial(runs, tmp_path / str(seed), kind, name, seed, whole)
    print(f"{TRIALS} damaged runs repaired, byte for byte")


# --- damage that is met before the run is complete ---


@pytest.mark.parametrize("name", DAMAGES)
def test_a_bad_record_is_found_before_there_is_a_result(
    runs: tuple[Path, Path], output: Path, whole: CheckedRun, name: str
) -> None:
    copy = Path(shutil.copytree(runs[0], output / "run"))
    (copy / "_SUCCESS").unlink()
    (copy / "result.json").unlink()
    victim = files_of(copy, "commit record")[1]
    DAMAGES[name](victim, copy, runs[1], random.Random(2))
    with pytest.raises(CorruptRunError, match=r"commits/0000000\d\.json is (damaged|the record of)") as caught:
        run_here(small_job(output))
    assert caught.value.exit_code == 65
    assert not (copy / "result.json").exists()
    report = repair_run(str(copy))
    assert report.exit_code == 0 and report.complete
    assert check_complete(copy, SAMPLES).result_bytes == whole.result_bytes
