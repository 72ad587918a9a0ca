"""Reading where a worker stands from its environment; pure, without processes."""

from __future__ import annotations

import itertools

import pytest

from batchmill import ConfigError, DistributedContext
from batchmill.launch.environment import agree_on_run_id, read_environment, started_by_launcher

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2",
}
SRUN = {
    "SLURM_PROCID": "9",
    "SLURM_STEP_NUM_TASKS": "11",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2),3",
    "SLURM_NODEID": "2",
    "SLURM_STEP_NUM_NODES": "3",
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "0",
}
# What a batch script finds that was submitted with --ntasks=4 and does not use srun: it is one process all the same.
BATCH_SCRIPT = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "7"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (TORCHRUN, DistributedContext(5, 8, 1, 4, 1, 2)),
        ({"RANK": "5", "WORLD_SIZE": "8"}, DistributedContext(5, 8, 5, 8, 0, 1)),
        ({**TORCHRUN, **BATCH_SCRIPT}, DistributedContext(5, 8, 1, 4, 1, 2)),
        (SRUN, DistributedContext(9, 11, 1, 3, 2, 3)),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, DistributedContext(1, 2, 1, 2, 0, 1)),
    ],
)
def test_where_a_worker_stands(environ: dict[str, str], expected: DistributedContext) -> None:
    assert started_by_launcher(environ)
    assert read_environment(environ) == expected


@pytest.mark.parametrize("environ", [{}, BATCH_SCRIPT, {**BATCH_SCRIPT, "SLURM_STEP_NUM_TASKS": "1"}])
def test_a_process_that_nobody_multiplied_is_alone(environ: dict[str, str]) -> None:
    assert not started_by_launcher(environ)


def test_an_environment_without_a_launcher_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"needs RANK and WORLD_SIZE.*srun.*Use launcher=local"):
        read_environment(BATCH_SCRIPT)


@pytest.mark.parametrize("rank", ["8", "-1", "x"])
def test_a_rank_that_cannot_be_is_refused(rank: str) -> None:
    with pytest.raises(ConfigError, match=f"describes no worker.*RANK={rank}, WORLD_SIZE=8"):
        read_environment({**TORCHRUN, "RANK": rank})


@pytest.mark.parametrize(
    "changes",
    [
        {"SLURM_STEP_NUM_TASKS": "many"},
        {"SLURM_STEP_NUM_TASKS": ""},
        {"SLURM_STEP_TASKS_PER_NODE": "x"},
        {"SLURM_STEP_TASKS_PER_NODE": "4(x2"},
        {"SLURM_STEP_TASKS_PER_NODE": "4(x)"},
        {"SLURM_STEP_TASKS_PER_NODE": "4(x2)"},
        {"SLURM_STEP_TASKS_PER_NODE": "0", "SLURM_LOCALID": ""},
        {"SLURM_NODEID": "$(touch x)"},
        {"SLURM_NODEID": "99"},
    ],
    ids=str,
)
def test_a_step_that_cannot_be_is_refused(changes: dict[str, str]) -> None:
    assert started_by_launcher({**SRUN, **changes})
    with pytest.raises(ConfigError, match=r"describes no worker: .* Given: SLURM_PROCID=9"):
        read_environment({**SRUN, **changes})


def test_a_step_on_a_thousand_million_nodes_takes_no_memory() -> None:
    environ = {**SRUN, "SLURM_STEP_TASKS_PER_NODE": "3(x1000000000),4", "SLURM_STEP_NUM_NODES": "4"}
    assert read_environment(environ).local_size == 3


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"BATCHMILL_RUN_ID": "mine", "SLURM_JOB_ID": "7"}, ["mine", "mine"]),
        (SRUN, ["slurm-7-0", "slurm-7-0-1"]),
        ({"TORCHELASTIC_RUN_ID": "night/7"}, ["torchrun-night_7", "torchrun-night_7-1"]),
    ],
)
def test_ranks_agree_on_a_run_id_by_their_environment(environ: dict[str, str], expected: list[str]) -> None:
    for rank in range(2):
        here = DistributedContext(rank, 2, rank, 2)
        assert [agree_on_run_id(environ, here, None, launch) for launch in range(2)] == expected


@pytest.mark.parametrize("environ", [{}, {"TORCHELASTIC_RUN_ID": "none"}, {"BATCHMILL_RUN_ID": ""}])
def test_ranks_that_cannot_agree_are_told_what_to_set(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"2 workers must agree on a run_id.*BATCHMILL_RUN_ID"):
        agree_on_run_id(environ, DistributedContext(0, 2, 0, 2), None, 0)


def test_one_rank_alone_needs_no_agreement() -> None:
    ids = [agree_on_run_id({}, DistributedContext(), None, launch) for launch in range(3)]
    assert all(one != other for one, other in itertools.combinations(ids, 2))
