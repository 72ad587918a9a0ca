"""Loader processes (``num_workers`` > 0): they end with the run, and stand by it until then."""

from __future__ import annotations

import json
import multiprocessing
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from checker import check_complete
from job_requests import SAMPLES, job, run_here
from oracle import assert_doubler, doubler_rows
from process_fixtures import linux_only
from processes import SUPPORT, Launcher, until
from small_shared_memory import NOT_ALLOWED

from batchmill import DatasetError, ProcessorError

pytestmark = linux_only


# When a read fails, torch tries out whether files can be opened; the news of a second death may interrupt that.
torch_is_interrupted = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

BAD = 57  # in batch 11
# Ways not to survive a sample, and what is told of them.
DEATHS = {
    "killed": "A loader process was killed by SIGKILL",
    "segfault": "A loader process was killed by SIGSEGV",
    "hang": "timed out after 2 seconds",
}


def loader_for(how: str) -> dict[str, Any]:
    return {"num_workers": 2, **({"timeout": 2} if how == "hang" else {})}


def assert_none_left() -> None:
    until(lambda: not multiprocessing.active_children(), f"the end of {multiprocessing.active_children()}", 10)


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


# --- loader processes that do not survive a sample ---


@torch_is_interrupted
@pytest.mark.parametrize("how", DEATHS)
def test_a_sample_that_they_do_not_survive_is_set_aside(output: Path, how: str) -> None:
    request = job(output, dataset="DeadlySample", data={"bad": BAD, "how": how}, loader=loader_for(how))
    result = run_here(request)
    assert result.complete and result.quarantined == 1
    run = check_complete(output / "run", SAMPLES)
    (failure,) = [item for record in run.records for item in record["quarantined"]]
    assert (failure["index"], failure["stage"]) == (BAD, "load")
    assert DEATHS[how] in failure["message"]
    good = [index for index in range(SAMPLES) if index != BAD]
    assert run.column("_index") == good
    assert run.column("y") == [doubler_rows(SAMPLES)["y"][index] for index in good]
    assert_none_left()


@torch_is_interrupted
@pytest.mark.parametrize("how", DEATHS)
def test_a_sample_that_they_do_not_survive_ends_the_run_if_that_is_wanted(output: Path, how: str) -> None:
    data: Mapping[str, Any] = {"bad": BAD, "how": how}
    request = job(output, dataset="DeadlySample", data=data, loader=loader_for(how), on_error="fail")
    with pytest.raises(DatasetError) as caught:
        run_here(request)
    told = re.search(
        rf"samples (\d+)\.\.\d+ \(batch \d+\) failed: .*{DEATHS[how]}.* Batches up to (\d+)", str(caught.value)
    )
    assert told is not None, caught.value
    assert int(told[1]) <= BAD < 5 * (int(told[2]) + 1), "the sample is not among those that are named"
    assert_none_left()


@torch_is_interrupted
def test_a_process_that_dies_once_costs_no_sample(output: Path, tmp_path: Path) -> None:
    data = {"bad": BAD, "how": "killed", "once": str(tmp_path / "once")}
    result = run_here(job(output, dataset="DeadlySample", data=data, loader={"num_workers": 2}))
    assert result.complete and result.quarantined == 0
    assert (tmp_path / "once").exists()
    assert_doubler(check_complete(output / "run"))
    assert_none_left()


def test_full_shared_memory_is_told(launch: Launcher, output: Path, tmp_path: Path) -> None:
    request = job(output, dataset="LargeSamples", loader={"num_workers": 2}, on_error="fail")
    file = tmp_path / "request.json"
    file.write_text(json.dumps(request.to_json()))
    script = str(SUPPORT / "launch_job.py")
    short = launch(str(SUPPORT / "small_shared_memory.py"), "2048", script, str(file))
    code = short.wait()
    if code == NOT_ALLOWED:
        pytest.skip("a process may not have a /dev/shm of its own here")
    assert code == 2, short.stderr
    assert "DatasetError: Reading samples " in short.stderr
    assert re.search("shared memory|No space left on device", short.stderr), short.stderr
    short.until_gone(10)
    enough = launch(str(SUPPORT / "small_shared_memory.py"), "131072", script, str(file))
    enough.finish(0)
    assert_doubler(check_complete(output / "run"))
