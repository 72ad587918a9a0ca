"""Samples that fail, on several workers and in loader processes, through kills and stops."""

from __future__ import annotations

import dataclasses
import multiprocessing
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from checker import CheckedRun, check_complete, check_wreck, rows_of
from job_requests import run_here
from process_fixtures import linux_only
from processes import Launcher, until

from batchmill.contracts.run import RunRequest, Selection

pytestmark = linux_only

N, BATCH, INTERVAL = 160, 16, 1  # ten chunks of one batch
BAD_TO_READ, BAD_TO_PROCESS = [3, 50, 159], [17, 18, 97]
BAD = sorted([*BAD_TO_READ, *BAD_TO_PROCESS])


def job(
    output: Path,
    nproc: int = 1,
    dataset: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    **changes: Any,
) -> RunRequest:
    request = RunRequest(
        processor=Selection("planted:Model", {"bad": BAD_TO_PROCESS, "how": "late", **(model or {})}),
        dataset=Selection("planted:Planted", {"n": N, "bad": BAD_TO_READ, **(dataset or {})}),
        reducers={"total": Selection("sum", {"column": "i"})},
        launcher=Selection("local", {"nproc": nproc}),
        output=str(output),
        run_id="run",
        batch_size=BATCH,
        checkpoint_interval=INTERVAL,
        device="cpu",
        allow_import=True,
    )
    return dataclasses.replace(request, **changes)


def assert_whole(run: CheckedRun, bad: Iterable[int] = BAD) -> None:
    """Assert that exactly the bad samples are set aside, and every other one is counted once."""
    assert sorted(item["index"] for record in run.records for item in record["quarantined"]) == sorted(bad)
    good = [index for index in range(N) if index not in set(bad)]
    assert rows_of(run)["i"] == good
    assert run.metrics == {"count": len(good), "seen": good, "total": sum(good)}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> CheckedRun:
    """The run on one worker that nothing happens to."""
    output = tmp_path_factory.mktemp("alone")
    assert run_here(job(output)).complete
    run = check_complete(output / "run", N)
    assert_whole(run)
    return run


def test_any_number_of_workers_sets_the_same_samples_aside(launch: Launcher, output: Path, alone: CheckedRun) -> None:
    launch.job(job(output, 3)).finish(0)
    run = check_complete(output / "run", N)
    assert run.result_bytes == alone.result_bytes
    assert rows_of(run) == rows_of(alone)
    kept = [[(item["index"], item["stage"], item["error"]) for item in r["quarantined"]] for r in run.records]
    assert kept == [[(item["index"], item["stage"], item["error"]) for item in r["quarantined"]] for r in alone.records]


def test_a_budget_that_workers_spend_together_ends_the_run_and_more_of_it_goes_on(
    launch: Launcher, output: Path, alone: CheckedRun
) -> None:
    """Each worker alone would stay within it."""
    first = launch.job(job(output, 2, max_errors=3))
    first.finish(65)
    assert "failed samples, and max_errors=3 allows no more" in first.stderr and first.stderr.count("Traceback") <= 1
    _, before = check_wreck(output / "run")
    assert before and len(before) < 10
    launch.job(job(output, 3, max_errors=6)).finish(0)
    run = check_complete(output / "run", N)
    assert {chunk: run.records[chunk] for chunk in before} == before
    assert run.result_bytes == alone.result_bytes and rows_of(run) == rows_of(alone)


def test_killed_while_it_looks_for_bad_samples(launch: Launcher, output: Path, alone: CheckedRun) -> None:
    first = launch.job(job(output, model={"pause": 0.05}))
    until(lambda: "batch 1 failed" in first.stderr, "recovery of chunk 1")
    time.sleep(0.2)
    first.kill_everything()
    _, records = check_wreck(output / "run")
    assert set(records) <= {0}, "chunk 1 takes at least ten trials"
    launch.job(job(output, 2, model={"pause": 0.05})).finish(0)
    run = check_complete(output / "run", N)
    assert rows_of(run) == rows_of(alone) and run.metrics == alone.metrics
    assert_whole(run)


def test_a_stop_while_it_looks_for_bad_samples_drops_the_chunk_within_the_grace(launch: Launcher, output: Path) -> None:
    slow = {"pause": 0.3, "bad": range(32, 48)}
    request = job(output, model={**slow, "bad": list(slow["bad"])}, dataset={"bad": []}, max_errors=100)
    first = launch.job(request, BATCHMILL_GRACE="1")
    until(lambda: "batch 2 failed" in first.stderr, "recovery of chunk 2")
    began = time.monotonic()
    first.signal(15)
    first.finish(75)
    assert time.monotonic() - began < 5, "though the trials take more than 5 s"
    _, records = check_wreck(output / "run")
    assert sorted(records) == [0, 1]


LOADER = {"num_workers": 2, "prefetch_factor": 2}


@pytest.mark.parametrize("how", ["load", "shape", "kill", "segfault", "exit", "hang"])
def test_samples_that_fail_in_loader_processes(output: Path, alone: CheckedRun, how: str) -> None:
    bad = [3, 50, 159] if how != "hang" else [50]
    loader = {**LOADER, "timeout": 1} if how == "hang" else LOADER
    result = run_here(job(output, dataset={"bad": bad, "how": how}, loader=loader))
    assert result.complete
    assert multiprocessing.active_children() == []
    run = check_complete(output / "run", N)
    assert_whole(run, [*bad, *BAD_TO_PROCESS])
    found = {item["index"]: item for record in run.records for item in record["quarantined"]}
    assert {found[index]["stage"] for index in bad} == {"load"}
    said = {
        "load": "on a bad sector",
        "shape": "expects each tensor to be equal size",
        "kill": "A loader process was killed by SIGKILL.",
        "segfault": "A loader process was killed by SIGSEGV.",
        "exit": "A loader process ended with exit code 3.",
        "hang": "A loader process did not come to an end: DataLoader timed out after 1 seconds.",
    }[how]
    for index in bad:
        assert said in found[index]["message"]
    if how not in ("load", "shape"):
        assert {found[index]["error"] for index in bad} == {"Hung" if how == "hang" else "ProcessDied"}
    if bad == BAD_TO_READ:
        assert run.result["outputs"] == alone.result["outputs"]


def test_a_loader_process_that_dies_meanwhile_is_not_another_samples_fault(output: Path, tmp_path: Path) -> None:
    """While a bad sample is looked for, the processes that read ahead meet one that kills them."""
    request = job(
        output,
        dataset={"bad": [40, 60, 70, 90], "how": "kill"},
        model={"bad": [18], "pause": 0.02},
        loader={"num_workers": 2, "prefetch_factor": 3},
    )
    assert run_here(request).complete
    assert_whole(check_complete(output / "run", N), [18, 40, 60, 70, 90])
