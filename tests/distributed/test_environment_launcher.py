"""Ranks that somebody else started: torchrun, SLURM, Kubernetes or a shell; they need no process group."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from checker import check_complete, check_wreck
from job_requests import BATCH, INTERVAL, SAMPLES
from oracle import assert_doubler
from process_fixtures import linux_only
from processes import SUPPORT, Launched, Launcher, committed_chunks, until

pytestmark = linux_only

SCRIPT = str(SUPPORT / "rank_script.py")


class Script:
    """The user's script of one test, with what its ranks have told.

    Args:
        output: Where its runs go.
        calls: Arguments of its calls of ``torch_batch_process``, one after another.
        **options: Further options of ``rank_script.py``.
    """

    def __init__(self, output: Path, *calls: dict[str, Any], **options: Any) -> None:
        output.mkdir(parents=True, exist_ok=True)
        self._told = output / "told.jsonl"
        self.file = output / "options.json"
        common = {"output": str(output), "batch_size": BATCH, "checkpoint_interval": INTERVAL}
        written = {"samples": SAMPLES, "told": str(self._told), "calls": [{**common, **call} for call in calls]}
        self.file.write_text(json.dumps({**written, **options}))

    def told(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._told.read_text().splitlines()] if self._told.exists() else []

    def run_ids(self) -> set[str]:
        return {told["run_id"] for told in self.told()}


def torchrun(launch: Launcher, script: Script, nproc: int, *arguments: str) -> Launched:
    options = ["--standalone", f"--nproc-per-node={nproc}", *arguments]
    return launch("-m", "torch.distributed.run", *options, SCRIPT, str(script.file))


def rank(launch: Launcher, script: Script, number: int, size: int, **environment: str) -> Launched:
    return launch(SCRIPT, str(script.file), RANK=str(number), WORLD_SIZE=str(size), **environment)


# --- torchrun ---


@pytest.mark.parametrize("claims", ["static", "dynamic"])
def test_torchrun_ranks_agree_on_one_run_for_each_call(launch: Launcher, output: Path, claims: str) -> None:
    """Two calls without a run_id are two runs, the same two on every rank."""
    journal = output / "journal"
    script = Script(output, {"claims": claims}, {"claims": claims, "limit": 100}, journal=str(journal))
    torchrun(launch, script, 3).finish(0)
    assert sorted(told["rank"] for told in script.told()) == [0, 0, 1, 1, 2, 2]
    assert all(told["complete"] for told in script.told())
    first, second = sorted(script.run_ids(), key=lambda run_id: -check_complete(output / run_id).manifest["samples"])
    assert_doubler(check_complete(output / first, SAMPLES))
    assert_doubler(check_complete(output / second, 100))
    batches = [line.split()[1] for line in journal.read_text().splitlines()]
    assert len(batches) == 41 + 20, "chunks were processed more than once, although nobody died"


def test_a_rank_that_dies_under_torchrun_costs_only_its_chunk(launch: Launcher, output: Path) -> None:
    script = Script(output, {"run_id": "run"}, pause=0.05)
    group = torchrun(launch, script, 3)
    until(lambda: committed_chunks(output / "run") >= 3, "some chunks", 60)
    victim = next(info for info in group.family() if info.ppid == group.pid)
    os.kill(victim.pid, signal.SIGKILL)
    assert group.wait() != 0
    group.until_gone(10)
    _, records = check_wreck(output / "run")
    assert 3 <= len(records) < 21
    torchrun(launch, script, 2).finish(0)
    run = check_complete(output / "run")
    assert_doubler(run)
    assert {chunk: run.records[chunk] for chunk in records} == records


def test_a_group_that_torchrun_restarts_goes_on_with_its_run(launch: Launcher, output: Path) -> None:
    script = Script(output, {"claims": "dynamic"}, pause=0.05, patience=3.0)
    # With the store shared, which is the default, torchrun itself fails to bring the group up again.
    group = launch(
        *("-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=2", "--max-restarts=1"),
        *("--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--rdzv-id=night:7", SCRIPT, str(script.file)),
        TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1",
    )
    until(lambda: any(committed_chunks(run) >= 3 for run in output.iterdir() if run.is_dir()), "some chunks", 60)
    victim = next(info for info in group.family() if info.ppid == group.pid)
    os.kill(victim.pid, signal.SIGKILL)
    group.finish(0)
    (run_id,) = script.run_ids()
    assert run_id == "torchrun-night_7"
    assert [path.name for path in output.iterdir() if path.is_dir()] == [run_id]
    assert_doubler(check_complete(output / run_id))


def test_torchrun_s_own_stop_drains_the_group(launch: Launcher, output: Path) -> None:
    """It passes SIGTERM on and gives the ranks 30 seconds; its own exit code is 1 whatever they do."""
    script = Script(output, {"run_id": "run"}, pause=0.05)
    group = torchrun(launch, script, 2)
    until(lambda: committed_chunks(output / "run") >= 3, "some chunks", 60)
    group.signal(signal.SIGTERM)
    assert group.wait() == 1
    group.until_gone(5)
    assert {told["reason"] for told in script.told()} == {"received SIGTERM"}
    assert [told["complete"] for told in script.told()] == [False, False]
    _, records = check_wreck(output / "run")
    assert 3 <= len(records) < 21


# --- SLURM ---


def test_slurm_tasks_share_the_job_s_run(launch: Launcher, output: Path) -> None:
    script = Script(output, {}, {"limit": 100})
    environment = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "3"}
    tasks = [
        launch(SCRIPT, str(script.file), SLURM_PROCID=str(number), SLURM_LOCALID=str(number), **environment)
        for number in range(2)
    ]
    for task in tasks:
        task.finish(0)
    assert script.run_ids() == {"slurm-4711-3", "slurm-4711-3-1"}
    assert sorted(check_complete(output / run_id).manifest["samples"] for run_id in script.run_ids()) == [100, SAMPLES]


# --- ranks by hand ---


def test_sigterm_to_one_rank_drains_it_alone(launch: Launcher, output: Path) -> None:
    script = Script(output, {}, pause=0.05, patience=1.0)
    ranks = [rank(launch, script, number, 2, BATCHMILL_RUN_ID="run") for number in range(2)]
    until(lambda: committed_chunks(output / "run") >= 2, "some chunks", 60)
    ranks[1].signal(signal.SIGTERM)
    ranks[1].finish(75)
    ranks[0].finish(0)
    told = {item["rank"]: item for item in script.told()}
    assert told[1]["complete"] is False and told[1]["reason"] == "received SIGTERM"
    assert told[0]["complete"] is True
    assert_doubler(check_complete(output / "run"))
