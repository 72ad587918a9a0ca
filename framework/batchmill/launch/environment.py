"""A worker inside an environment that somebody else made: torchrun, SLURM or Kubernetes."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, TypeVar

from batchmill.contracts.distributed import DistributedContext
from batchmill.contracts.launcher import Launcher
from batchmill.contracts.run import RunRequest, RunResult
from batchmill.errors import ConfigError, WorkerError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import TCPStore

RUN_ID_VARIABLE = "BATCHMILL_RUN_ID"
# Seconds for one call to the launcher's store; a stopped store host would otherwise block for ever.
STORE_DEADLINE = 30.0

T = TypeVar("T")

# Counts the launches of this process, so that a script's second run is not taken for its first.
_launches = itertools.count()


class EnvironmentLauncher(Launcher):
    """Is one worker of a group that torchrun, SLURM or Kubernetes started, as its environment says.

    Reads RANK and WORLD_SIZE with their LOCAL_ companions, or what srun says of its job step. Chunks are claimed
    through torchrun's own store where there is one; no process group is made.

    Args:
        distributed: Where this worker stands, if the caller knows better than the environment.
    """

    def __init__(self, distributed: DistributedContext | None = None) -> None:
        self._distributed = distributed

    def launch(self, request: RunRequest) -> RunResult:
        """Do this worker's part and return the run's result."""
        from batchmill.engine.run import Surroundings
        from batchmill.engine.stopping import StopFlag, grace_of, stop_on_signals
        from batchmill.launch.in_process import run_with_progress
        from batchmill.launch.run_lock import RunLock
        from batchmill.plugin_manager import get_catalog

        distributed = self._distributed or read_environment(os.environ)
        store = _agent_store(os.environ)
        launch = next(_launches)
        run_id = request.run_id or agree_on_run_id(os.environ, distributed, store, launch)
        request = dataclasses.replace(request, run_id=run_id)
        surroundings = Surroundings(distributed=distributed, stop=StopFlag(grace_of(os.environ)))
        if store is not None:
            key = _counter_key(run_id, launch)
            surroundings.counter = lambda: _within_deadline(lambda: int(store.add(key, 1))) - 1
        lock = RunLock(join=request.join) if distributed.rank == 0 else None
        with stop_on_signals(surroundings.stop):
            if lock is None:
                return run_with_progress(request, get_catalog().registry, surroundings, None)
            with lock:
                return run_with_progress(request, get_catalog().registry, surroundings, lock)


def started_by_launcher(environ: Mapping[str, str]) -> bool:
    """Return whether a launcher made this process one of several workers."""
    # Only srun describes a step. A batch script has a SLURM_PROCID and the job's SLURM_NTASKS too, but is alone.
    return ("RANK" in environ and "WORLD_SIZE" in environ) or (
        "SLURM_PROCID" in environ and environ.get("SLURM_STEP_NUM_TASKS", "1") != "1"
    )


def read_environment(environ: Mapping[str, str]) -> DistributedContext:
    """Return where this worker stands.

    Args:
        environ: The process environment.

    Raises:
        ConfigError: Variables are missing, or contradict each other.
    """
    if "RANK" in environ and "WORLD_SIZE" in environ:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE")
    elif "SLURM_PROCID" in environ and "SLURM_STEP_NUM_TASKS" in environ:
        names = (
            "SLURM_PROCID",
            "SLURM_STEP_NUM_TASKS",
            "SLURM_LOCALID",
            "SLURM_STEP_TASKS_PER_NODE",
            "SLURM_NODEID",
            "SLURM_STEP_NUM_NODES",
        )
    else:
        raise ConfigError(
            "launcher=environment needs RANK and WORLD_SIZE (torchrun, Kubernetes) or SLURM_PROCID and "
            "SLURM_STEP_NUM_TASKS (srun), and the environment has neither. Use launcher=local on one machine."
        )
    try:
        rank, size = int(environ[names[0]]), int(environ[names[1]])
        local_size = _tasks_on_node(environ.get(names[3], str(size)), int(environ.get(names[4], "0")))
        local_rank = int(environ.get(names[2], rank % local_size))
        cross_size = int(environ.get(names[5], -(-size // local_size)))
        cross_rank = int(environ.get(names[4], rank // local_size))
        return DistributedContext(rank, size, local_rank, local_size, cross_rank, cross_size)
    except (ValueError, ZeroDivisionError) as error:
        given = ", ".join(f"{name}={environ[name]}" for name in names if name in environ)
        raise ConfigError(f"The environment describes no worker: {error} Given: {given}.") from error


def _tasks_on_node(tasks_per_node: str, node: int) -> int:
    """Return how many tasks a node has: from a number, or SLURM's way to write them, ``4(x2),3`` for 4, 4 and 3."""
    if tasks_per_node.strip().isdigit():
        return int(tasks_per_node)
    before = 0
    for item in tasks_per_node.split(","):
        count, _, times = item.partition("(x")
        before += int(times.rstrip(")") or 1)
        if node < before:
            return int(count)
    raise ValueError(f"{tasks_per_node!r} tells of {before} nodes, and this is node {node}.")


def agree_on_run_id(
    environ: Mapping[str, str], distributed: DistributedContext, store: TCPStore | None, launch: int
) -> str:
    """Return a run id that every rank of this launch comes to by itself.

    Taken from ``BATCHMILL_RUN_ID``, else from torchrun's store, where the first rank's proposal stands, else from the
    SLURM job (which a requeued job keeps, and so resumes), else from torchrun's ``--rdzv-id``.

    Args:
        environ: The process environment.
        distributed: Where this worker stands.
        store: torchrun's store, where there is one.
        launch: How many runs this process has launched before; equal on every rank of a script that launches several.

    Raises:
        ConfigError: There is nothing that ranks could agree by.
    """
    from batchmill.launch.naming import new_run_id

    if environ.get(RUN_ID_VARIABLE):
        return environ[RUN_ID_VARIABLE]
    if store is not None:
        proposed = new_run_id()  # unique, so the value that comes back tells who was first
        agreed: bytes = _within_deadline(lambda: store.compare_set(f"batchmill/run_id/{launch}", "", proposed))
        return agreed.decode()
    given = ""
    if "SLURM_JOB_ID" in environ:
        given = f"slurm-{environ['SLURM_JOB_ID']}-{environ.get('SLURM_STEP_ID', '0')}"
    elif environ.get("TORCHELASTIC_RUN_ID", "none") != "none":
        given = "torchrun-" + _as_name(environ["TORCHELASTIC_RUN_ID"])
    if given:
        return f"{given}-{launch}" if launch else given
    if distributed.size == 1:
        return new_run_id()
    raise ConfigError(
        f"{distributed.size} workers must agree on a run_id, and this environment gives them nothing to agree by. "
        f"Set run_id, or the variable {RUN_ID_VARIABLE}, to the same value on every worker."
    )


def _agent_store(environ: Mapping[str, str]) -> TCPStore | None:
    """Return torchrun's own store as a client; never one that would listen on a port."""
    if environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    from datetime import timedelta

    from torch.distributed import TCPStore  # type: ignore[attr-defined] # exported, but not in __all__

    host, port = environ["MASTER_ADDR"], int(environ["MASTER_PORT"])
    return TCPStore(host, port, is_master=False, timeout=timedelta(seconds=STORE_DEADLINE))


def _counter_key(run_id: str, launch: int) -> str:
    # Counting begins anew when torchrun restarts the group, and when a script resumes a run.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return "batchmill/" + _as_name(f"{run_id}/{attempt}/{launch}")


def _as_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", text)


def _within_deadline(call: Callable[[], T]) -> T:
    """Return what a store call returns, or give up: a stopped store host ignores the store's own time-out."""
    answer: Future[T] = Future()

    def ask() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=ask, name="batchmill-store", daemon=True).start()
    try:
        return answer.result(STORE_DEADLINE)
    except FutureTimeoutError:
        raise WorkerError(
            f"The launcher's store did not answer within {STORE_DEADLINE:.0f} s; its host may be gone or stopped. What "
            f"is committed stays; start the run again with the same run_id."
        ) from None
