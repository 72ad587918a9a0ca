"""Watches a simulated run at every moment, for what no snapshot shows: promises that were made too early or broken."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any

from .checker import ViolationError, unseal
from .generations import Generation
from .workload import Workload

_WRITE_ONCE = re.compile(r"(retries/[0-9]+/)?(commits/[0-9]+\.json|run\.json|retry\.json|result\.json|_SUCCESS)")


class Watcher:
    """Is told of changes in storage and of what the engine announces, and notes violations.

    Args:
        workload: What is computed.
        contents: Returns the contents of one of the run's files: path, and whether only what is durable counts.
        note: Adds a line to the trace.

    Attributes:
        violations: What should never have happened.
        generations: The run's results, and what was announced of them; the latest is the last.
    """

    def __init__(
        self, workload: Workload, contents: Callable[[str, bool], bytes | None], note: Callable[[str], None]
    ) -> None:
        self._contents, self._note = contents, note
        self.violations: list[str] = []
        self.generations = [Generation(workload)]

    def acknowledge(self, chunk: int, record: Any) -> None:
        """Note that the engine told others that a chunk has this record; from now on it may not change or vanish."""
        path = f"commits/{chunk:08d}.json"
        for generation in reversed(self.generations):
            stored = self._contents(generation.place(path), False)
            if stored is not None and self._unsealed(path, stored) == record:
                break
        else:
            self.violate(f"I4: chunk {chunk} was announced with a record that is not there")
            return
        if generation.acknowledged.setdefault(chunk, record) != record:
            self.violate(f"I4: chunk {chunk} was announced as committed with two different records")
        elif self._contents(generation.place(path), True) is None:
            self.violate(f"I4: chunk {chunk} was announced while a power loss could still take its record away")

    def acknowledge_result(self, metrics: Any) -> None:
        """Note that a process ended with exit code 0; from now on the result may not change or vanish.

        Args:
            metrics: Those of the result that it returned.
        """
        for generation in reversed(self.generations):
            data = self._contents(generation.place("result.json"), False)
            if data is not None and (self._unsealed("result.json", data) or {}).get("metrics") == metrics:
                break
        else:
            self.violate("I6: a process ended with exit code 0, but no result.json has the metrics that it returned")
            return
        durable = [self._contents(generation.place(path), True) for path in ("result.json", "_SUCCESS")]
        if durable[0] != data or durable[1] is None:
            self.violate(
                "I6: a process ended with exit code 0, but a power loss could take result.json or _SUCCESS away"
            )
        elif generation.result is None:
            generation.result = data
        elif generation.result != data:
            self.violate("I4: result.json changed after a worker had ended with exit code 0")

    def violate(self, what: str) -> None:
        """Note a violation."""
        self._note(f"VIOLATION {what}")
        self.violations.append(what)

    def changed(self, inside: str, old: object, new: bytes | None) -> None:
        """Take note of a change.

        Args:
            inside: Path, relative to the run.
            old: What had that path; None for nothing.
            new: Contents that it has now; None for nothing.
        """
        found = _WRITE_ONCE.fullmatch(inside)
        if found is None:
            return
        folder, path = found[1] or "", found[2]
        if old is not None:
            self.violate(f"I4: {inside} was {'removed' if new is None else 'overwritten'}")
        elif new is None or path == "_SUCCESS" or (document := self._unsealed(inside, new)) is None:
            return
        elif path == "result.json":
            generation = self._generation(folder)
            for chunk in generation.arrivals:
                if self._contents(generation.place(f"commits/{chunk:08d}.json"), True) is None:
                    self.violate(f"I1: {inside} appeared before the record of chunk {chunk} was there for good")
        elif path.startswith("commits/"):
            self._generation(folder).arrivals.append(document["chunk"])
            self._check_named(inside, document)

    def _generation(self, folder: str) -> Generation:
        return next(generation for generation in self.generations if generation.folder == folder)

    def _unsealed(self, path: str, data: bytes) -> dict[str, Any] | None:
        try:
            return unseal(data, path)
        except ViolationError as violation:
            self.violate(f"{violation} although it is there")
            return None

    def _check_named(self, path: str, record: dict[str, Any]) -> None:
        """Check, at the moment when a record appears, that all it names is there and cannot be lost any more."""
        sidecar = [record["partials_file"]] if "partials_file" in record else []
        for named in (*record["parts"], *record["files"], *sidecar):
            for contents in (self._contents(named["name"], False), self._contents(named["name"], True)):
                if contents is None or hashlib.sha256(contents).hexdigest() != named["sha256"]:
                    self.violate(f"I2: {path} appeared before {named['name']} was there for good")
