"""Processes of a test: started with a mark in their environment, by which all their descendants are found again."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from batchmill.contracts.run import RunRequest

SUPPORT = Path(__file__).parent
MARK = "BATCHMILL_TEST_MARK"
WORKER_MODULE = "batchmill.launch.local_worker"

T = TypeVar("T")


def until(condition: Callable[[], T], what: str, seconds: float = 30.0, pause: float = 0.02) -> T:
    """Wait for a condition to become true and return its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s in vain for {what}")
        time.sleep(pause)
    return value


@dataclass(frozen=True)
class ProcessInfo:
    """One process, from /proc."""

    pid: int
    ppid: int
    command: str

    @property
    def is_worker(self) -> bool:
        return WORKER_MODULE in self.command


def marked(mark: str) -> list[ProcessInfo]:
    """Return all living processes (zombies aside) that carry the mark, also orphaned ones."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            if wanted not in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                continue
            stat = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            command = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # gone in the meantime
            continue
        if stat[0] != "Z":
            found.append(ProcessInfo(int(entry), int(stat[1]), command))
    return found


class Launched:
    """A process of a test and everything that it starts.

    Args:
        arguments: Its command line.
        directory: Where its output goes, and its working directory.
        environment: Added to this process's environment.
    """

    def __init__(self, arguments: Sequence[str], directory: Path, environment: Mapping[str, str]) -> None:
        self.mark = secrets.token_hex(8)
        directory.mkdir(parents=True, exist_ok=True)
        self.stdout_path, self.stderr_path = directory / f"{self.mark}.out", directory / f"{self.mark}.err"
        path = os.pathsep.join(filter(None, [str(SUPPORT), os.environ.get("PYTHONPATH", "")]))
        inherited = {key: value for key, value in os.environ.items() if key not in _CLUSTER_VARIABLES}
        with open(self.stdout_path, "wb") as out, open(self.stderr_path, "wb") as err:
            self.process = subprocess.Popen(
                list(arguments),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=directory,
                env={**inherited, "PYTHONPATH": path, "PYTHONFAULTHANDLER": "1", MARK: self.mark, **environment},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stderr(self) -> str:
        return self.stderr_path.read_text()

    @property
    def stdout(self) -> str:
        return self.stdout_path.read_text()

    def wait(self, seconds: float = 60.0) -> int:
        """Return the exit code; kills everything and fails the test after so many seconds."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.dump_stacks()
            self.kill_everything()
            raise AssertionError(f"still running after {seconds} s\n{self.stdout}\n{self.stderr}") from None

    def finish(self, code: int = 0, seconds: float = 60.0) -> None:
        """Wait for the end and assert the exit code."""
        left = self.wait(seconds)
        assert left == code, f"exit code {left}, expected {code}\n{self.stdout}\n{self.stderr}"

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def family(self) -> list[ProcessInfo]:
        """Return this process and all its living descendants."""
        return marked(self.mark)

    def workers(self) -> list[ProcessInfo]:
        """Return the local launcher's living worker processes (not their loader processes)."""
        family = self.family()
        workers = [info for info in family if info.is_worker]
        pids = {info.pid for info in workers}
        return [info for info in workers if info.ppid not in pids]

    def until_workers(self, count: int) -> list[ProcessInfo]:
        return until(lambda: w if len(w := self.workers()) == count else None, f"{count} workers")

    def until_gone(self, seconds: float) -> None:
        """Assert that every process of the family is gone within so many seconds."""
        until(lambda: not self.family(), f"the end of {self.family()}", seconds)

    def dump_stacks(self) -> None:
        """Let every process of the family write its threads' stacks to the error output, and die of it."""
        for info in self.family():
            os.kill(info.pid, signal.SIGABRT)
            time.sleep(0.3)

    def kill_everything(self) -> None:
        for info in self.family():
            try:
                os.kill(info.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


# What would make a test's process believe that a cluster launcher had started it.
_CLUSTER_VARIABLES = {
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "SLURM_PROCID",
    "SLURM_NTASKS",
    "SLURM_JOB_ID",
    "BATCHMILL_RUN_ID",
    "OMP_NUM_THREADS",
}


class Launcher:
    """Starts processes for one test and ends all of them with it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.launched: list[Launched] = []

    def __call__(self, *arguments: str, **environment: str) -> Launched:
        """Start ``python ARGUMENTS``."""
        launched = Launched([sys.executable, *arguments], self.directory, environment)
        self.launched.append(launched)
        return launched

    def job(self, request: RunRequest, **environment: str) -> Launched:
        """Start a request in a process of its own, by ``launch_job.py``."""
        self.directory.mkdir(parents=True, exist_ok=True)
        file = self.directory / f"request-{secrets.token_hex(4)}.json"
        file.write_text(json.dumps(request.to_json()))
        return self(str(SUPPORT / "launch_job.py"), str(file), **environment)

    def close(self) -> None:
        for launched in self.launched:
            launched.kill_everything()


def committed_chunks(run: Path) -> int:
    """Return how many chunks of a run are committed."""
    folder = run / "commits"
    return sum(1 for file in folder.glob("[!.]*.json")) if folder.is_dir() else 0


def until_committed(run: Path, chunks: int, launched: Launched, seconds: float = 30.0) -> None:
    """Wait until so many chunks are committed; fails at once if the launcher ends before."""

    def enough() -> bool:
        if committed_chunks(run) >= chunks:
            return True
        code = launched.process.poll()
        assert code is None, f"the launcher left with {code} before {chunks} chunks\n{launched.stderr}"
        return False

    until(enough, f"{chunks} committed chunks", seconds, pause=0.005)
