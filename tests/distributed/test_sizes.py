"""Small and uneven runs: no sample, one sample, fewer samples than workers, shares that do not divide."""

from __future__ import annotations

from pathlib import Path

import pytest
from checker import check_complete
from job_requests import job, run_here
from oracle import assert_doubler, doubler_metrics
from process_fixtures import linux_only
from processes import Launcher
from zygote import Zygote

from batchmill import read_outputs
from batchmill.inspection import verify_run

pytestmark = linux_only


@pytest.mark.parametrize("samples", [1, 4, 5, 6, 49, 50, 51])
@pytest.mark.parametrize("claims", ["static", "dynamic"])
def test_uneven_shares(zygote: Zygote, tmp_path: Path, samples: int, claims: str) -> None:
    results = []
    for size in (1, 3, 4):
        output = tmp_path / str(size)
        request = job(output, samples=samples, claims=claims).to_json()
        pids = [
            zygote.fork("one_of", {"request": request, "rank": rank, "size": size, "patience": 5.0})
            for rank in range(size)
        ]
        assert set(zygote.wait(*pids).values()) == {0}, zygote.logs()
        run = check_complete(output / "run", samples)
        assert_doubler(run)
        results.append(run.result_bytes)
    assert len(set(results)) == 1


@pytest.mark.parametrize("samples", [0, 2])
def test_fewer_samples_than_workers_of_a_local_run(launch: Launcher, output: Path, samples: int) -> None:
    launch.job(job(output, nproc=3, samples=samples)).finish(0, seconds=30)
    run = check_complete(output / "run", samples)
    if samples:
        assert_doubler(run)


def test_no_samples_are_a_complete_run_without_outputs(output: Path) -> None:
    result = run_here(job(output, samples=0))
    assert (result.complete, result.coverage, result.samples, result.outputs) == (True, 1.0, 0, ())
    assert result.metrics == doubler_metrics(0, 5, 1) == {"plain_sum": 0.0, "largest": None}
    assert check_complete(output / "run", 0).records == []
    assert read_outputs(str(output / "run")).num_rows == 0
    assert verify_run(str(output / "run")).ok
    assert run_here(job(output, samples=0)).complete


@pytest.mark.parametrize("limit", [1, 100, 203, 1000])
def test_a_limit_counts_samples(output: Path, limit: int) -> None:
    assert run_here(job(output, limit=limit)).complete
    assert_doubler(check_complete(output / "run", min(limit, 203)))
