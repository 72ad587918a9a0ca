"""Puts the simulated clock, chance, threads and system calls in the place of the real ones, and takes them out."""

from __future__ import annotations

import gc
import json
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import batchmill_plugins.storage._local as local
import batchmill_plugins.storage._new_files as new_files
import batchmill_plugins.storage._object_store as object_store
import batchmill_plugins.storage._open_folders as open_folders
import batchmill_plugins.storage._posix as posix
from batchmill.contracts.run import RunRequest
from batchmill.engine import (
    claims,
    commit_log,
    committer,
    finish,
    opening,
    retries,
    run,
    run_directory,
    sideline,
    worker,
)
from batchmill.engine.fingerprint import fingerprint_facts
from batchmill.engine.stopping import DEFAULT_GRACE, StopFlag

from . import fake_os
from .runtime import active
from .scheduler import Task
from .workload import Workload

# Far below the real ones, so that few steps are spent on waiting; longer than most things take.
TAKEOVER_PATIENCE, FULL_PATIENCE = 3.0, 5.0


class InlineExecutor:
    """Stands in for a thread pool that reads: one after another."""

    def __init__(self, threads: int) -> None:
        pass

    def __enter__(self) -> InlineExecutor:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        return map(function, items)


class SimulatedQueue:
    """Stands in for ``queue.Queue``."""

    def __init__(self, maxsize: int) -> None:
        self._most, self._items, self._unfinished = maxsize, deque[Any](), 0

    def put(self, item: Any) -> None:
        active().scheduler.wait(lambda: len(self._items) < self._most, "queue")
        self._items.append(item)
        self._unfinished += 1

    def get(self) -> Any:
        active().scheduler.wait(lambda: bool(self._items), "take from queue")
        return self._items.popleft()

    def task_done(self) -> None:
        self._unfinished -= 1

    def join(self) -> None:
        active().scheduler.wait(lambda: not self._unfinished, "await queue")


class SimulatedThread:
    """Stands in for ``threading.Thread``: one more task of the process."""

    def __init__(self, target: Callable[[], None], name: str, daemon: bool) -> None:
        self._target, self._name = target, name
        self._task: Task | None = None

    def start(self) -> None:
        simulation = active()
        self._task = simulation.scheduler.spawn(simulation.current_process(), self._name, self._target)

    def join(self) -> None:
        active().scheduler.wait(lambda: self._task is None or self._task.done, "join")


class Hooks:
    """Stands in for the run's plugin manager: nobody listens, but what is announced is noted."""

    @property
    def hook(self) -> Hooks:
        return self

    on_batch_end = SimpleNamespace(get_hookimpls=list)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda **values: None

    def on_checkpoint_end(self, chunk: int, record: Any) -> None:
        active().watcher.acknowledge(chunk, record)


_facts: dict[tuple[Workload, bool], dict[str, Any]] = {}


def _remembered_facts(request: RunRequest, *others: Any) -> dict[str, Any]:
    """Return the real fingerprint facts, worked out once for equal requests."""
    key = (active().workload, bool(request.hparams))
    if key not in _facts:
        _facts[key] = fingerprint_facts(request, *others)
    return _facts[key]


def _sleep(seconds: float) -> None:
    active().scheduler.sleep(seconds)


def _monotonic() -> float:
    return active().monotonic()


@contextmanager
def _on_one_core() -> Iterator[None]:
    """Keep this process on the core where it is; handing the baton to a thread on another takes eight times as long."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    here = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[36])
    os.sched_setaffinity(0, {here})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Let the garbage collector look at what this process has loaded only once, and seldom at the rest."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@contextmanager
def simulated_surroundings() -> Iterator[None]:
    """Let the engine and first-party storage run inside the simulation that is going on."""
    with _on_one_core(), _rare_collections(), _stand_ins():
        yield


@contextmanager
def _stand_ins() -> Iterator[None]:
    clock = SimpleNamespace(now=lambda zone: active().wall_clock(zone))
    chance = SimpleNamespace(uniform=lambda low, high: active().rng.uniform(low, high))
    # Without indentation, which only the slow encoder has; run.json is the only file written for people's eyes.
    plain_json = SimpleNamespace(
        loads=json.loads,
        dumps=lambda value, indent, sort_keys, ensure_ascii: json.dumps(value, sort_keys=sort_keys),
    )
    secrets = SimpleNamespace(token_hex=lambda size: active().token_hex(size))
    replaced: list[tuple[Any, str, Any]] = [
        (retries, "random", chance),
        (retries, "FULL_PATIENCE", FULL_PATIENCE),
        (retries.with_retries, "__defaults__", (retries.with_retries.__defaults__[0], _sleep)),  # type: ignore[index]
        (finish, "ThreadPoolExecutor", InlineExecutor),
        (committer, "queue", SimpleNamespace(Queue=SimulatedQueue)),
        (committer, "threading", SimpleNamespace(Thread=SimulatedThread)),
        (committer, "secrets", secrets),
        (worker, "time", SimpleNamespace(sleep=_sleep, monotonic=_monotonic)),
        (claims, "random", SimpleNamespace(SystemRandom=lambda: active().rng)),
        (claims.Takeover.__init__, "__defaults__", (_monotonic,)),
        (claims._still_missing, "__defaults__", (_monotonic,)),
        (StopFlag.__init__, "__defaults__", (DEFAULT_GRACE, _monotonic)),
        (run, "TAKEOVER_PATIENCE", TAKEOVER_PATIENCE),
        (run, "make_run_manager", lambda components: Hooks()),
        (run, "seed_everything", lambda seed: None),
        (run, "torch_threads", lambda *arguments: nullcontext()),
        (opening, "fingerprint_facts", _remembered_facts),
        (opening, "importlib", SimpleNamespace(metadata=SimpleNamespace(version=lambda name: "1"))),
        (run_directory, "datetime", clock),
        (run_directory, "json", plain_json),
        (sideline, "datetime", clock),
        (posix, "os", fake_os.OS),
        (posix, "fcntl", SimpleNamespace()),
        (new_files, "os", fake_os.OS),
        (new_files, "secrets", secrets),
        (new_files, "_rename_exclusively", fake_os.rename_exclusively),
        (open_folders, "os", fake_os.OS),
        (local, "os", fake_os.OS),
        (local, "file_lock", fake_os.file_lock),
        (object_store, "obstore", fake_os.make_obstore()),
    ]
    with ExitStack() as stack:
        for owner, name, stand_in in replaced:
            stack.enter_context(patch.object(owner, name, stand_in))
        stack.enter_context(patch.object(logging.getLogger("batchmill"), "disabled", True))
        stack.enter_context(patch.object(posix, "open", fake_os.open_descriptor, create=True))
        stack.enter_context(patch.object(commit_log, "INLINE_PARTIALS_BYTES", commit_log.INLINE_PARTIALS_BYTES))
        yield


def set_inline_limit(limit: int) -> None:
    """Set the size above which partials get a file of their own."""
    commit_log.INLINE_PARTIALS_BYTES = limit
