"""A sweep over the versions of a model is killed at random and started again: finished runs are not done again.

``BATCHMILL_TRIALS`` sets how many sweeps the campaign has.
"""

from __future__ import annotations

import json
import os
import random
import signal
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from process_fixtures import linux_only
from processes import Launched, Launcher, until

from batchmill import client

pytestmark = linux_only

TRIALS = int(os.environ.get("BATCHMILL_TRIALS", "2"))
JOB = """
    import time
    import batchmill

    class Scaled(batchmill.TorchBatchProcessor):
        def __init__(self, context, pause: float = 0.0):
            self.pause = pause
            self.factor = float(context.checkpoint.read_text())
            self.mean = context.wrap_reducer(batchmill.Reducer.AVG, name="mean")
            with open("built.txt", "a") as file:
                file.write(f"{context.model_version.version}\\n")

        def process_batch(self, batch, batch_idx):
            time.sleep(self.pause)
            y = batch["x"].double() * self.factor
            self.mean.update(y.mean().item())
            return {"y": y}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The working directory of what ``launch`` starts, with a job and its data."""
    folder = tmp_path / "processes"
    folder.mkdir()
    (folder / "scaled_job.py").write_text(textwrap.dedent(JOB))
    (folder / "data.jsonl").write_text("".join(f'{{"x": {number}}}\n' for number in range(60)))
    return folder


def register(folder: Path, versions: int) -> None:
    try:
        client.connect(str(folder / "runs"))
        model = client.create_model("scaled")
        for number in range(1, versions + 1):
            (folder / f"weights-{number}").write_text(f"{number}")
            model.register_version(folder / f"weights-{number}")
    finally:
        client.disconnect()


def sweep(launch: Launcher, *overrides: str) -> Launched:
    return launch(
        *("-m", "batchmill", "run", "-m", "--json", "model.name=scaled", "model.version=all"),
        *("+processor.name=scaled_job:Scaled", "allow_import=true", "dataset=jsonl", "dataset.path=data.jsonl"),
        *("batch_size=4", "checkpoint_interval=1", "launcher=in_process", "callbacks=[]", *overrides),
    )


def finished(folder: Path) -> dict[str, tuple[int, int]]:
    """Return each complete run with what changes when its result is written anew."""
    found = {path.parent.name: path.parent / "result.json" for path in (folder / "runs").glob("all-*/_SUCCESS")}
    return {name: (path.stat().st_ino, path.stat().st_mtime_ns) for name, path in found.items()}


def metrics(done: Launched) -> dict[str, Any]:
    done.finish(0, seconds=120)
    told = json.loads(done.stdout)
    return {job["overrides"]["model.version"]: job["result"]["metrics"] for job in told["jobs"]}


def built(folder: Path) -> list[int]:
    """Return the versions whose processor was built since the last call, in order."""
    file = folder / "built.txt"
    versions = [int(line) for line in file.read_text().split()] if file.exists() else []
    file.unlink(missing_ok=True)
    return versions


def expected(versions: int) -> dict[str, Any]:
    return {str(version): {"mean": pytest.approx(29.5 * version)} for version in range(1, versions + 1)}


def test_a_killed_sweep_goes_on_with_what_is_missing(launch: Launcher, folder: Path) -> None:
    register(folder, 3)
    first = sweep(launch, "sweep.name=all", "+processor.pause=0.02")
    until(lambda: len(finished(folder)) >= 1 and built(folder)[-1:] == [2], "the second run")
    first.signal(signal.SIGKILL)
    first.wait()
    before = finished(folder)
    assert "all-version-1" in before and "all-version-3" not in before
    built(folder)

    again = metrics(sweep(launch, "sweep.name=all", "+processor.pause=0.02"))
    assert again == expected(3)
    assert built(folder) == [2, 3], "the first was not done again"
    after = finished(folder)
    assert sorted(after) == ["all-version-1", "all-version-2", "all-version-3"]
    assert {name: after[name] for name in before} == before

    assert metrics(sweep(launch, "sweep.name=all", "+processor.pause=0.02")) == again
    assert built(folder) == [] and finished(folder) == after

    other = sweep(launch, "sweep.name=all", "+processor.pause=0.02", "batch_size=5")
    other.finish(78)
    assert "batch_size: 4 in the run, 5 now" in other.stderr


@pytest.mark.campaign
def test_many_versions_killed_at_random(launch: Launcher, folder: Path) -> None:
    """Twenty versions, five kills each time: twenty complete runs and the table of an undisturbed sweep."""
    register(folder, 20)
    for seed in range(TRIALS):
        dice, kills = random.Random(seed), 0
        name = f"sweep.name=s{seed}"
        while kills < 5:
            going = sweep(launch, "+processor.pause=0.01", name)
            time.sleep(dice.uniform(0.5, 6.0))
            if going.process.poll() is None:
                kills += 1
            going.signal(signal.SIGKILL)
            going.wait()
        assert metrics(sweep(launch, "+processor.pause=0.01", name)) == expected(20), f"seed {seed}"
        assert len(list((folder / "runs").glob(f"s{seed}-*/_SUCCESS"))) == 20
