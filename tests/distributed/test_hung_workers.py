"""A worker that hangs costs one chunk: it is replaced or overtaken, and nobody waits for it for ever."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from checker import check_complete
from job_requests import job
from oracle import assert_doubler
from process_fixtures import linux_only

import batchmill.launch.local
from batchmill.api import run_request
from batchmill.launch.worker_process import Patience

pytestmark = linux_only


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    # A worker says that it is alive every second, also while it starts; a start on a busy machine takes a few.
    patience = functools.partial(Patience, silence=8.0, chunk=1.0)
    monkeypatch.setattr(batchmill.launch.local, "Patience", patience)
    monkeypatch.setenv("BATCHMILL_GRACE", "1")


def test_a_stopped_worker_is_killed_and_replaced(
    short_patience: None, capfd: pytest.CaptureFixture[str], output: Path, support_path: None, tmp_path: Path
) -> None:
    settings = {"batch": 10, "once": str(tmp_path / "once"), "how": "stopped"}
    # Static shares, so that nobody but the replacement may take the chunk before it is in the log.
    result = run_request(job(output, nproc=2, processor="Hangs", settings=settings, claims="static"))
    assert result.complete
    assert (tmp_path / "once").exists()
    told = capfd.readouterr().err
    assert "has given no sign of life for 8 s; it is killed" in told
    assert told.count("restarting it") == 1
    assert_doubler(check_complete(output / "run"))


@pytest.mark.parametrize("claims", ["dynamic", "static"])
def test_a_worker_that_sleeps_for_ever_is_overtaken(
    short_patience: None,
    capfd: pytest.CaptureFixture[str],
    output: Path,
    support_path: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    claims: str,
) -> None:
    settings = {"batch": 10, "once": str(tmp_path / "once"), "how": "asleep"}
    monkeypatch.setenv("JOBS_TAKEOVER_PATIENCE", "2")
    result = run_request(job(output, nproc=2, processor="Hangs", settings=settings, claims=claims))
    assert result.complete
    assert (tmp_path / "once").exists()
    assert "restarting it" not in capfd.readouterr().err  # the run was finished without it
    assert_doubler(check_complete(output / "run"))
