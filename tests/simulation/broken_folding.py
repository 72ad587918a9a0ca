"""Metrics, reports and garbage, dealt with against one rule each; used by mutants only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from batchmill.engine import claims, commit_log, finish, recovery, reduction, run, sideline
from batchmill.engine.retries import with_retries
from batchmill.engine.run_directory import RunDirectory, open_existing
from batchmill.engine.serialization import decode_value, encode_value

from .runtime import active

_take_partials, _fold_reducers = reduction.ReducerSet.take_partials, reduction.ReducerSet.fold
_start_afresh = recovery.ChunkRecovery._start_afresh
_look, _work, _report, _fold = claims.Takeover.look, run._work, sideline.Sideline.report, finish._fold


# -- garbage


def garbage_at_start(opened: Any, *arguments: Any) -> bool:
    """Delete what no record names whenever a worker begins."""
    _collect(opened.directory.storage, opened.directory.log)
    return _work(opened, *arguments)


def garbage_while_waiting(self: claims.Takeover) -> tuple[bool, int | None]:
    """Delete what no record names while waiting for others."""
    opened = open_existing(active().make_storage())
    _collect(opened.storage, opened.log)
    return _look(self)


def without_sidecar(record: Mapping[str, Any]) -> Iterator[str]:
    """Forget that a record may name a file of partials."""
    for named in (*record["parts"], *record["files"]):
        yield named["name"]


def _collect(storage: Any, log: commit_log.CommitLog) -> None:
    named = {path for chunk in sorted(log.committed()) for path in commit_log.named_paths(log.read(chunk))}
    for info in with_retries(lambda: [*storage.list("parts"), *storage.list("files")]):
        if info.path not in named:
            with_retries(lambda info=info: storage.delete(info.path))  # type: ignore[misc]


# -- metrics


def remember_partials(self: reduction.ReducerSet) -> dict[str, Any]:
    """Keep partials in the worker, too."""
    partials = _take_partials(self)
    vars(self).setdefault("remembered", []).append(partials)
    return partials


def fold_from_memory(self: reduction.ReducerSet, partials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Fold what this worker remembers."""
    return _fold_reducers(self, vars(self).get("remembered", []))


def fold_as_they_came(self: reduction.ReducerSet, partials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Fold in the order of the commits."""
    arrivals = active().watcher.generations[0].arrivals
    return _fold_reducers(self, [partials[chunk] for chunk in sorted(range(len(partials)), key=arrivals.index)])


def leaking_partials(self: reduction.ReducerSet) -> dict[str, Any]:
    """Forget to reset reducers."""
    return {name: encode_value(decode_value(reducer.per_slot_reduce())) for name, reducer in self._reducers.items()}


def start_with_leftovers(self: recovery.ChunkRecovery, chunk: int) -> Any:
    """Process a chunk again on top of what its first try has left in the reducers."""
    reset, self.reset = self.reset, lambda: None
    try:
        return _start_afresh(self, chunk)
    finally:
        self.reset = reset


# -- reports


def report_early(self: sideline.Sideline, group: str, steps_completed: int, metrics: Mapping[str, Any]) -> None:
    """Tell the tracker of a report before its chunk is committed."""
    _report(self, group, steps_completed, metrics)
    self.restore(self._reports[-1:])


def fold_without_reports(run: RunDirectory, reducers: reduction.ReducerSet, restore: Any) -> dict[str, Any]:
    """Trust that whoever committed a chunk has told the tracker of its reports."""
    return _fold(run, reducers, lambda reports: None)
