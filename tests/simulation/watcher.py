"""Watches a simulated run at every moment, for what no snapshot shows: promises that were made too early or broken."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any

from .checker import ViolationError, unseal

_WRITE_ONCE = re.compile(r"commits/[0-9]+\.json|run\.json|result\.json|_SUCCESS")


class Watcher:
    """Is told of changes in storage and of what the engine announces, and notes violations.

    Args:
        contents: Returns the contents of one of the run's files: path, and whether only what is durable counts.
        note: Adds a line to the trace.

    Attributes:
        violations: What should never have happened.
        acknowledged: The records that the engine announced, by chunk.
        acknowledged_result: ``result.json`` as it was when a process first ended with exit code 0.
        arrivals: Chunks in the order in which their records appeared.
    """

    def __init__(self, contents: Callable[[str, bool], bytes | None], note: Callable[[str], None]) -> None:
        self._contents, self._note = contents, note
        self.violations: list[str] = []
        self.acknowledged: dict[int, Any] = {}
        self.acknowledged_result: bytes | None = None
        self.arrivals: list[int] = []

    def acknowledge(self, chunk: int, record: Any) -> None:
        """Note that the engine told others that a chunk has this record; from now on it may not change or vanish."""
        if self.acknowledged.setdefault(chunk, record) != record:
            self.violate(f"I4: chunk {chunk} was announced as committed with two different records")
        elif self._contents(f"commits/{chunk:08d}.json", True) is None:
            self.violate(f"I4: chunk {chunk} was announced while a power loss could still take its record away")

    def acknowledge_result(self, metrics: Any) -> None:
        """Note that a process ended with exit code 0; from now on the result may not change or vanish.

        Args:
            metrics: Those of the result that it returned.
        """
        data = self._contents("result.json", False)
        if data is None:
            self.violate("I6: a process ended with exit code 0, but there is no result.json")
        elif (result := self._unsealed("result.json", data)) is not None and result["metrics"] != metrics:
            self.violate("I3: a process returned other metrics than those of result.json")
        elif data != self._contents("result.json", True) or self._contents("_SUCCESS", True) is None:
            self.violate(
                "I6: a process ended with exit code 0, but a power loss could take result.json or _SUCCESS away"
            )
        elif self.acknowledged_result is None:
            self.acknowledged_result = data
        elif self.acknowledged_result != data:
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
        if not _WRITE_ONCE.fullmatch(inside):
            return
        if old is not None:
            self.violate(f"I4: {inside} was {'removed' if new is None else 'overwritten'}")
        elif new is None or inside == "_SUCCESS" or (document := self._unsealed(inside, new)) is None:
            return
        elif inside == "result.json":
            for chunk in self.arrivals:
                if self._contents(f"commits/{chunk:08d}.json", True) is None:
                    self.violate(f"I1: result.json appeared before the record of chunk {chunk} was there for good")
        elif inside.startswith("commits/"):
            self.arrivals.append(document["chunk"])
            self._check_named(inside, document)

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
