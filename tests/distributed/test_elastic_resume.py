"""Resuming on another number of workers: the grid stays, what is committed stays, the rest is shared anew."""

from __future__ import annotations

from pathlib import Path

import pytest
from checker import check_complete, check_wreck
from job_requests import job, run_here
from jobs import Fails, Values
from oracle import assert_doubler
from process_fixtures import linux_only
from zygote import Zygote

import batchmill.engine.run
from batchmill import DistributedContext, ProcessorError, TorchBatchProcessorContext, torch_batch_process

pytestmark = linux_only


def group(zygote: Zygote, request: dict[str, object], size: int) -> list[int]:
    arguments = [{"request": request, "rank": rank, "size": size, "patience": 0.5} for rank in range(size)]
    return [zygote.fork("one_of", each) for each in arguments]


@pytest.mark.parametrize(("first", "chunk_batches"), [(1, 2), (9, 1)])
@pytest.mark.parametrize("then", [1, 3, 9])
def test_chunks_stay_as_the_first_launch_cut_them(
    zygote: Zygote, output: Path, tmp_path: Path, first: int, chunk_batches: int, then: int
) -> None:
    """Nine batches are chunks of two for up to eight workers, and of one for nine, so that none is idle."""
    fixed = tmp_path / "fixed"
    settings = {"batch": 7, "unless": str(fixed)}
    request = job(output, samples=45, processor="Fails", settings=settings, claims="static", on_error="fail")
    codes = zygote.wait(*group(zygote, request.to_json(), first)).values()
    assert 70 in codes, zygote.logs()
    manifest, records = check_wreck(output / "run")
    assert manifest["chunk_batches"] == chunk_batches
    assert records
    fixed.touch()
    assert set(zygote.wait(*group(zygote, request.to_json(), then)).values()) == {0}, zygote.logs()
    run = check_complete(output / "run", 45)
    assert run.manifest == manifest
    assert {chunk: run.records[chunk] for chunk in records} == records
    assert_doubler(run)


@pytest.mark.parametrize("then", [1, 2, 4])
def test_max_batches_holds_on_any_number_of_workers(
    monkeypatch: pytest.MonkeyPatch, output: Path, tmp_path: Path, then: int
) -> None:
    """40 batches for each of 2 workers are more than 4 workers have; the run is the first launch's all the same."""
    monkeypatch.setattr(batchmill.engine.run, "TAKEOVER_PATIENCE", 0.05)
    fixed = tmp_path / "fixed"

    class Processor(Fails):
        def __init__(self, context: TorchBatchProcessorContext) -> None:
            super().__init__(context, 60, str(fixed))

    def process(size: int) -> batchmill.RunResult:
        here = DistributedContext(0, size, 0, size)
        return torch_batch_process(
            Processor,
            Values(100),
            1,
            40,
            distributed_context=here,
            output=str(output),
            run_id="run",
            on_error="fail",
        )

    with pytest.raises(ProcessorError):
        process(2)
    fixed.touch()
    if then > 2:
        with pytest.warns(UserWarning, match="max_batches=40 is not between 1 and 25"):
            assert process(then).complete
    else:
        assert process(then).complete
    assert_doubler(check_complete(output / "run", 80))


def test_a_complete_run_is_only_read_when_it_is_resumed(output: Path) -> None:
    assert run_here(job(output)).complete
    before = {file: file.stat().st_mtime_ns for file in (output / "run").rglob("*") if file.is_file()}
    again = run_here(job(output))
    assert again.complete
    assert again.metrics == check_complete(output / "run").metrics
    assert {file: file.stat().st_mtime_ns for file in (output / "run").rglob("*") if file.is_file()} == before
