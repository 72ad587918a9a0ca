"""A process that has imported torch once and forks workers in milliseconds, so that many can be killed in a minute.

``python zygote.py`` reads one JSON request per line and answers each with one line. Children run a function of
``forked_jobs.py`` in a session of their own; what they print goes to a file.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PRELOADED = (
    "batchmill.api",
    "batchmill.engine.run",
    "batchmill.launch.environment",
    "batchmill.launch.in_process",
    "batchmill_plugins.storage._local",
    "batchmill_plugins.trackers._sqlite",
    "batchmill_plugins.writers._parquet",
    "forked_jobs",
)


class Zygote:
    """The test's side: starts the process, asks it for children, and ends all of them.

    Args:
        directory: Where the children's output goes.
        environment: Added to this process's environment.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._children: list[int] = []
        self._codes: dict[int, int] = {}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment},
            text=True,
        )
        self.poll(0)  # the first answer comes when everything is imported

    def fork(self, function: str, arguments: Mapping[str, Any], **environment: str) -> int:
        """Start ``forked_jobs.FUNCTION(**arguments)`` in a new process and return its pid."""
        log = str(self.directory / f"{function}-{time.monotonic_ns()}.log")
        request = {"fork": function, "arguments": arguments, "environment": environment, "log": log}
        pid: int = self._ask(request)["pid"]
        self._codes.pop(pid, None)  # of an earlier child: in a long campaign numbers come round again
        self._children.append(pid)
        return pid

    def poll(self, pid: int) -> int | None:
        """Return a child's exit code (negative: the signal that ended it), or None while it runs."""
        self._codes |= {int(ended): code for ended, code in self._ask({"reap": True})["ended"].items()}
        return self._codes.get(pid)

    def wait(self, *pids: int, seconds: float = 60.0) -> dict[int, int]:
        """Return the exit codes of these children when all of them have ended."""
        deadline = time.monotonic() + seconds
        while running := [pid for pid in pids if self.poll(pid) is None]:
            if time.monotonic() > deadline:
                raise AssertionError(f"{running} still run after {seconds} s\n{self.logs()}")
            time.sleep(0.005)
        return {pid: self._codes[pid] for pid in pids}

    def kill(self, pid: int) -> None:
        """SIGKILL a child, if it is still there."""
        if self.poll(pid) is None:
            os.kill(pid, signal.SIGKILL)

    def logs(self) -> str:
        """Return what the last children printed."""
        files = sorted(self.directory.glob("*.log"), key=lambda file: file.stat().st_mtime)
        return "\n".join(file.read_text() for file in files[-4:])

    def last_log(self) -> str:
        """Return what the last child printed."""
        return max(self.directory.glob("*.log"), key=lambda file: file.stat().st_mtime).read_text()

    def close(self) -> None:
        for pid in self._children:
            self.kill(pid)
        self._process.communicate(timeout=30)

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def main() -> None:
    for name in PRELOADED:
        importlib.import_module(name)
    from batchmill.plugin_manager import get_catalog

    get_catalog()
    for line in sys.stdin:
        request = json.loads(line)
        answer = {"pid": fork(request)} if "fork" in request else {"ended": reap()}
        print(json.dumps(answer), flush=True)


def fork(request: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        os.environ.update(request["environment"])
        code = getattr(importlib.import_module("forked_jobs"), request["fork"])(**request["arguments"])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def reap() -> dict[int, int]:
    ended = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    main()
