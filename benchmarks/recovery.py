"""W9 and W10: how long it takes to go on, after a run of many records and after a worker's death."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

import batchmill
from batchmill.engine.serialization import seal
from benchmarks.measure import Case, Goal, Outcome, Spent, Timing, interleave

RECORDS = 100_000
RESUME_SECONDS = 2.0
WORKERS = 4
RETAKEN_SECONDS = 1.0
_BATCH_SECONDS = 0.2

_MODULE = f"""
import os
import time

import torch
import batchmill


class Data(torch.utils.data.Dataset):
    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        return index


class Slow(batchmill.TorchBatchProcessor):
    def __init__(self, context):
        pass

    def process_batch(self, batch, batch_idx):
        with open("journal", "a") as file:
            file.write(f"{{os.getpid()}} {{batch_idx}} {{time.monotonic()}}\\n")
        time.sleep({_BATCH_SECONDS})
"""


# --- W9 ---


class FirstBatch(batchmill.TorchBatchProcessor):
    """Notes when the first batch comes."""

    began = 0.0

    def __init__(self, context: batchmill.TorchBatchProcessorContext) -> None:
        type(self).began = 0.0

    def process_batch(self, batch: Any, batch_idx: int) -> None:
        """Process nothing."""
        if not self.began:
            type(self).began = time.perf_counter()


class StopAtOnce:
    """Stops a run after one chunk."""

    @batchmill.hookimpl
    def should_stop(self) -> str:
        """Return the reason."""
        return "one chunk is enough"


def w9(short: bool) -> Outcome:
    """From the call to the first batch: of a new run, and of one that has 100,000 commit records."""
    records, repeats = (50, 1) if short else (RECORDS, 3)
    dataset = torch.utils.data.TensorDataset(torch.zeros(records + repeats + 5, 1))
    with tempfile.TemporaryDirectory() as name:
        resumed = request(dataset, f"{name}/resumed")
        write_records(resumed, records)
        fresh = iter(range(100))
        cases: dict[str, Case] = {
            "a new run": lambda: first_batch(request(dataset, f"{name}/{next(fresh)}")),
            f"a run with {records:,} commit records": lambda: first_batch(resumed),
        }
        timings = interleave(cases, repeats, warm_up=not short)
    slowest = timings[f"a run with {records:,} commit records"].median
    goal = Goal(f"a resume reaches its first new batch within {RESUME_SECONDS} s", slowest < RESUME_SECONDS)
    return Outcome(
        "W9", "from the call to the first batch, in a process that has imported everything", timings, None, [goal]
    )


def request(dataset: Any, output: str) -> batchmill.RunRequest:
    """Return a run of chunks of one sample, which stops after the first."""
    return batchmill.RunRequest(
        processor=batchmill.Selection("", instance=FirstBatch),
        dataset=batchmill.Selection("", instance=dataset),
        writer=batchmill.Selection("none"),
        callbacks={"stop": batchmill.Selection("", instance=StopAtOnce())},
        output=output,
        run_id="run",
        batch_size=1,
        checkpoint_interval=1,
        device="cpu",
    )


def write_records(given: batchmill.RunRequest, records: int) -> None:
    """Begin a run and write so many commit records, as its workers would have."""
    batchmill.run(given)
    commits = Path(given.output) / "run" / "commits"
    record = json.loads((commits / "00000000.json").read_bytes())
    del record["sha256"]
    for chunk in range(1, records):
        data = seal({**record, "chunk": chunk, "start": chunk, "stop": chunk + 1})
        (commits / f"{chunk:08d}.json").write_bytes(data)


def first_batch(given: batchmill.RunRequest) -> Spent:
    """Return the time to the first batch."""
    cpu, start = time.process_time(), time.perf_counter()
    batchmill.run(given)
    if not FirstBatch.began:
        raise AssertionError("the run had no batch left")
    return Spent(FirstBatch.began - start, time.process_time() - cpu)


# --- W10 ---


@dataclass(frozen=True)
class Begun:
    """A batch that a worker began."""

    pid: int
    batch: int
    at: float


def w10(short: bool) -> Outcome:
    """Four workers, one of them killed in a batch: when another begins that batch, and whether the rest waited."""
    found = [killed_worker(12 if short else 40) for _ in range(1 if short else 5)]
    base = [one["undisturbed"] for one in found]
    timings = {
        name: Timing(
            seconds := [one[key] for one in found],
            ratios := [value / of for value, of in zip(seconds, base, strict=True)],
            ratios,
        )
        for name, key in (
            (f"a batch of {_BATCH_SECONDS} s", "undisturbed"),
            ("longest time between two batches of the others", "others"),
            ("from the kill until another begins its batch", "retaken"),
        )
    }
    worst = max(one["retaken"] for one in found)
    goal = Goal(f"the killed worker's batch is begun again within {RETAKEN_SECONDS} s", worst <= RETAKEN_SECONDS)
    return Outcome("W10", f"one of {WORKERS} workers killed", timings, None, [goal])


def killed_worker(batches: int) -> Mapping[str, float]:
    """Run four workers, kill one and return what the journal tells, in seconds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "recovery_job.py").write_text(_MODULE)
        arguments = ["allow_import=true", "+processor.name=recovery_job:Slow", "+dataset.name=recovery_job:Data"]
        arguments += [f"+dataset.n={batches}", "batch_size=1", "checkpoint_interval=1", "writer=none", "callbacks=[]"]
        run = subprocess.Popen(
            [sys.executable, "-m", "batchmill", "run", *arguments, f"launcher.nproc={WORKERS}", "run_id=run"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([name, os.environ.get("PYTHONPATH", "")])},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            until_all_work(folder / "journal", run)
            victim = journal(folder / "journal")[-1]
            time.sleep(_BATCH_SECONDS / 2)
            killed = time.monotonic()
            os.kill(victim.pid, signal.SIGKILL)
            if run.wait(120) != 0:
                raise AssertionError(f"the run ended with {run.returncode}")
        finally:
            run.kill()
            run.wait()
        begun = journal(folder / "journal")
    again = [one for one in begun if one.batch == victim.batch and one.pid != victim.pid]
    others = [gap for pid in {one.pid for one in begun} - {victim.pid} for gap in gaps(begun, pid, killed)]
    undisturbed = [gap for pid in {one.pid for one in begun} for gap in gaps(begun, pid)]
    return {
        "undisturbed": statistics.median(undisturbed),
        "others": max(others, default=_BATCH_SECONDS),
        "retaken": again[0].at - killed,
    }


def until_all_work(path: Path, run: subprocess.Popen[bytes]) -> None:
    """Wait until every worker has begun a batch."""
    while len({one.pid for one in journal(path)}) < WORKERS:
        if run.poll() is not None:
            raise AssertionError(f"the run ended with {run.returncode} before {WORKERS} workers had begun")
        time.sleep(0.01)


def journal(path: Path) -> list[Begun]:
    """Return the batches begun, in order."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [Begun(int(pid), int(batch), float(at)) for pid, batch, at in (line.split() for line in lines)]


def gaps(begun: list[Begun], pid: int, around: float | None = None) -> list[float]:
    """Return the times between the batches of a worker; only of the second after a moment, if that is given."""
    times = [one.at for one in begun if one.pid == pid]
    return [end - start for start, end in pairwise(times) if around is None or (start < around + 1 and end > around)]
