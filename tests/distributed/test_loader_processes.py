"""Loader processes (``num_workers`` > 0): they end with the run, and stand by it until then."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from checker import check_complete
from job_requests import job, run_here
from oracle import assert_doubler
from process_fixtures import linux_only
from processes import Launcher

from batchmill import DatasetError, ProcessorError

pytestmark = linux_only


def test_they_end_with_the_run(output: Path) -> None:
    assert run_here(job(output, loader={"num_workers": 2})).complete
    assert_doubler(check_complete(output / "run"))
    assert multiprocessing.active_children() == []


def test_they_end_with_a_run_that_fails(output: Path) -> None:
    with pytest.raises(ProcessorError, match="the user's own bug"):
        run_here(job(output, processor="Fails", settings={"batch": 20}, loader={"num_workers": 2}, on_error="fail"))
    assert multiprocessing.active_children() == []


def test_a_process_that_used_them_exits_by_itself(launch: Launcher, output: Path) -> None:
    alone = launch.job(job(output, loader={"num_workers": 2, "persistent_workers": True}))
    alone.finish(0, seconds=30)
    alone.until_gone(1)


def test_a_sample_that_cannot_be_read_is_named(output: Path) -> None:
    request = job(output, dataset="BrokenSample", data={"bad": 57}, loader={"num_workers": 2}, on_error="fail")
    with pytest.raises(DatasetError, match=r"samples 55\.\.59 \(batch 11\).*sample 57 is on a bad sector"):
        run_here(request)
    assert multiprocessing.active_children() == []
