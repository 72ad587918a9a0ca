"""A run's results, one after another: that of the run itself, and that of a retry of its quarantined samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .checker import ReportKey, Snapshot, check_complete, check_ledger
from .workload import Ledger, Workload

_RETRIES = "retries/"


@dataclass
class Generation:
    """One result of a run, and what was said of it.

    Attributes:
        workload: What it was to compute.
        folder: Where its own files lie: empty for the run itself.
        chunks: The chunks that it has records of its own for; those of a retry.
        acknowledged: Records that the engine announced, by chunk.
        result: ``result.json`` as it was when a process first ended with exit code 0.
        arrivals: Chunks in the order in which their records appeared.
        reference: ``result.json`` of an undisturbed run, where it must be the same.
    """

    workload: Workload
    folder: str = ""
    chunks: frozenset[int] = frozenset()
    acknowledged: dict[int, Any] = field(default_factory=dict)
    result: bytes | None = None
    arrivals: list[int] = field(default_factory=list)
    reference: bytes | None = None

    def place(self, path: str) -> str:
        """Return where a file of the run format lies for this generation."""
        return f"{self.folder}{path}" if path in self._own else path

    def view(self, files: Snapshot) -> Snapshot:
        """Return the run's files as the run format has them, in this generation."""
        seen = {path: data for path, data in files.items() if not path.startswith(_RETRIES) and path not in self._own}
        return seen | {path: files[self.place(path)] for path in self._own if self.place(path) in files}

    @property
    def _own(self) -> set[str]:
        if not self.folder:
            return set()
        return {"result.json", "_SUCCESS", *(f"commits/{chunk:08d}.json" for chunk in self.chunks)}

    def retry(self, number: int, chunks: frozenset[int], workload: Workload) -> Generation:
        """Return the generation of a retry, of which nothing is there yet."""
        kept = {chunk: record for chunk, record in self.acknowledged.items() if chunk not in chunks}
        return Generation(workload, f"{_RETRIES}{number:04d}/", chunks, kept)


def check_results(
    generations: Sequence[Generation], records: Sequence[Mapping[int, dict[str, Any]]], files: Snapshot, ledger: Ledger
) -> None:
    """Check a run of which every generation is complete.

    Args:
        generations: Its results.
        records: The records of each, from ``check_wreck``.
        files: The run's files by relative path.
        ledger: What the tracker was told.

    Raises:
        ViolationError: Something does not hold.
    """
    reports: dict[ReportKey, Mapping[str, Any]] = {}
    results, step = [], 0
    for generation, known in zip(generations, records, strict=True):
        workload, seen = generation.workload, generation.view(files)
        reports |= check_complete(seen, known, workload, generation.reference)
        step += len(generation.chunks) * workload.chunk_batches if generation.folder else workload.batches
        results.append((step, seen["result.json"]))
    check_ledger(ledger, reports, results)
