"""Runs elsewhere than in a plain folder: in memory, in an object store, under a URL."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from checker import check_complete, check_wreck
from job_requests import SAMPLES, job, on, run_here
from jobs import Doubler
from oracle import assert_doubler, doubler_metrics, doubler_rows
from process_fixtures import linux_only
from processes import Launcher, until_committed

import batchmill
from batchmill import ProcessorError
from batchmill.contracts.run import Selection
from batchmill.inspection import verify_run
from batchmill_plugins.storage._local import LocalStorage

pytestmark = linux_only

# By its name it serves s3:// and the like; its client also works on file:// URLs, which need no server.
OBJECT_STORE = "batchmill_plugins.storage._object_store:ObjectStorage"


def test_a_run_in_memory(tmp_path: Path) -> None:
    fixed = tmp_path / "fixed"
    request = job(
        "memory://test-a-run-in-memory/runs",
        processor="Fails",
        settings={"batch": 20, "unless": str(fixed)},
        storage=Selection("memory"),
        on_error="fail",
    )
    with pytest.raises(ProcessorError):
        run_here(request)
    fixed.touch()
    result = run_here(request)
    assert result.complete
    assert result.path == "memory://test-a-run-in-memory/runs/run"
    assert result.metrics == doubler_metrics(SAMPLES, 5, 2)
    assert batchmill.read_outputs(result).to_pydict() == doubler_rows(SAMPLES)
    report = verify_run(result.path)
    assert report.ok and report.complete, report.problems


@pytest.mark.parametrize("storage", ["local", OBJECT_STORE])
def test_a_run_under_a_url(launch: Launcher, output: Path, storage: str) -> None:
    """Killed and resumed; the checker reads the folder that the URL names."""
    request = job(output.as_uri(), nproc=2, settings={"pause": 0.03}, storage=Selection(storage))
    first = launch.job(request)
    until_committed(output / "run", 4, first)
    first.kill_everything()
    check_wreck(output / "run")
    assert run_here(on(request, 1)).complete
    run = check_complete(output / "run", SAMPLES)
    assert_doubler(run)
    report = verify_run(f"{output.as_uri()}/run")
    assert report.ok and report.complete, report.problems


def test_a_resume_lists_and_reads_few_records(output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a resume does before its first batch must not grow with the records: a run may have 100,000 of them."""
    fixed = tmp_path / "fixed"
    request = job(output, processor="Fails", settings={"batch": 36, "unless": str(fixed)}, on_error="fail")
    with pytest.raises(ProcessorError):
        run_here(request)
    assert len(check_wreck(output / "run")[1]) >= 18
    calls: Counter[str] = Counter()
    before_first: Counter[str] = Counter()
    listing, getting, processing = LocalStorage.list, LocalStorage.get, Doubler.process_batch

    def counted_list(storage: LocalStorage, prefix: str = "") -> Iterator[batchmill.ObjectInfo]:
        calls[f"list {prefix}"] += 1
        return listing(storage, prefix)

    def counted_get(storage: LocalStorage, path: str) -> bytes:
        calls["get of a record"] += path.startswith("commits/")
        return getting(storage, path)

    def first_batch(processor: Doubler, batch: object, batch_idx: int) -> object:
        before_first.update(calls if not before_first else {})
        return processing(processor, batch, batch_idx)

    monkeypatch.setattr(LocalStorage, "list", counted_list)
    monkeypatch.setattr(LocalStorage, "get", counted_get)
    monkeypatch.setattr(Doubler, "process_batch", first_batch)
    fixed.touch()
    assert run_here(request).complete
    assert before_first["list commits"] == 1
    assert before_first["get of a record"] <= 1


def test_storage_is_no_part_of_the_result(output: Path) -> None:
    plain = job(output / "plain")
    stored = dataclasses.replace(plain, output=(output / "store").as_uri(), storage=Selection(OBJECT_STORE))
    assert run_here(plain).complete and run_here(stored).complete
    one, other = check_complete(output / "plain" / "run"), check_complete(output / "store" / "run")
    assert one.result_bytes == other.result_bytes
