"""Samples that kill or hang the process that handles them are found, and cost nobody else's results."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from checker import check_complete
from job_requests import job
from process_fixtures import linux_only

import batchmill.launch.local
import batchmill.launch.supervisor
from batchmill import RunRequest, RunResult, Selection, iter_quarantined, read_outputs
from batchmill.api import run_request
from batchmill.launch.restarts import Restarts
from batchmill.launch.worker_process import Patience

pytestmark = linux_only


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    patience = functools.partial(Patience, first_batch=10.0)
    monkeypatch.setattr(batchmill.launch.local, "Patience", patience)
    monkeypatch.setattr(batchmill.launch.supervisor, "Restarts", functools.partial(Restarts, first_backoff=0.01))


def deadly_job(output: Path, run_id: str, nproc: int, process: list[int], load: list[int], how: str) -> RunRequest:
    return job(
        output,
        run_id,
        samples=60,
        launcher=Selection("local", {"nproc": nproc, "batch_timeout": 2.0}),
        processor=Selection("deadly_jobs:Linear", {"deadly": process, "how": how}),
        dataset=Selection("deadly_jobs:Vectors", {"n": 60, "deadly": load, "how": how}),
    )


def assert_only_these_are_missing(result: RunResult, output: Path, deadly: list[int]) -> None:
    healthy = run_request(deadly_job(output, "healthy", 1, [], [], ""))
    rows, expected = read_outputs(result), read_outputs(healthy)
    kept = [index for index in range(expected.num_rows) if index not in deadly]
    assert rows["_index"].to_pylist() == kept
    assert rows.equals(expected.take(kept)), "the neighbours' results are the same to the last bit"
    assert result.metrics == {"rows": len(kept)}


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("segfault", "ProcessDied", "killed by SIGSEGV"),
        ("exit", "ProcessDied", "ended with exit code 3"),
        ("hang", "Hung", "did not come to an end within 2 s"),
    ],
)
def test_a_deadly_sample_is_set_aside(output: Path, support_path: None, how: str, error: str, message: str) -> None:
    deadly = [33, 57] if how == "segfault" else [33]
    result = run_request(deadly_job(output, "run", 2, deadly, [], how))
    assert (result.complete, result.quarantined) == (True, len(deadly))
    entries = list(iter_quarantined(result))
    assert [entry["index"] for entry in entries] == deadly
    assert {(entry["error"], entry["stage"]) for entry in entries} == {(error, "process")}
    assert all(message in entry["message"] for entry in entries)
    if how != "exit":
        assert all("deadly_jobs.py" in entry["traceback"] for entry in entries), "where it was"
    check_complete(output / "run")
    assert_only_these_are_missing(result, output, deadly)


def test_a_sample_that_kills_whoever_reads_it(output: Path, support_path: None) -> None:
    result = run_request(deadly_job(output, "run", 2, [], [41], "segfault"))
    assert [entry["index"] for entry in iter_quarantined(result)] == [41]
    assert_only_these_are_missing(result, output, [41])
