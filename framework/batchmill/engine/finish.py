"""The end of a run: fold all partials in chunk order, write ``result.json`` and ``_SUCCESS`` once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from batchmill.contracts.run import RunResult
from batchmill.engine.commit_log import COMMITS, FILES, PARTS, named_paths
from batchmill.engine.committed_rows import CommittedRows
from batchmill.engine.reduction import ReducerSet
from batchmill.engine.retries import with_retries
from batchmill.engine.retry_view import retried_chunks
from batchmill.engine.run_directory import FORMAT, RESULT, SUCCESS, RunDirectory
from batchmill.engine.serialization import canonical_json, seal, sha256_hex

Restore = Callable[[Sequence[Mapping[str, Any]]], None]

# Records are small and mostly wait for storage.
_READING_THREADS = 16
# Handing a record to a thread takes longer than reading it from a local disk.
_READ_TOGETHER = 64


def read_records(run: RunDirectory, chunks: Iterable[int]) -> Iterator[dict[str, Any]]:
    """Yield the records of the given chunks, in their order, read side by side."""

    def read_some(some: Sequence[int]) -> list[dict[str, Any]]:
        return [run.log.read(chunk) for chunk in some]

    numbers = list(chunks)
    groups = [numbers[start : start + _READ_TOGETHER] for start in range(0, len(numbers), _READ_TOGETHER)]
    with ThreadPoolExecutor(_READING_THREADS) as pool:
        for records in pool.map(read_some, groups):
            yield from records


def finish_run(run: RunDirectory, reducers: ReducerSet, restore: Restore) -> dict[str, Any]:
    """Fold a run whose every chunk is committed and write its result. Safe for any number of workers at once.

    The result's bytes depend on the records' contents only, never on who folds, so the first writer wins and
    everyone else finds the same bytes.

    Args:
        run: The run.
        reducers: This worker's reducers; their present state is not used.
        restore: Called with the reports of all records, which a crash may have kept from the tracker, and of the
            final metrics.

    Returns:
        ``result.json`` as stored.

    Raises:
        ReducerError: A reducer failed; the message names it.
    """
    stored, first = run.read_result(), False
    if stored is None:
        # All names must be durable before a result says so: a record may be visible and not yet on the disk.
        with_retries(lambda: run.storage.sync(COMMITS))
        data = seal(_fold(run, reducers, restore))
        first = with_retries(lambda: run.storage.put_if_absent(RESULT, data))
        stored = run.read_result()
        assert stored is not None, "the result was just written"
    settle_run(run, stored, restore, collect=first, durable=first)
    return stored


def settle_run(
    run: RunDirectory, stored: Mapping[str, Any], restore: Restore, *, collect: bool, durable: bool = False
) -> None:
    """Do what follows a result: its metrics to the tracker, garbage away, and ``_SUCCESS`` last. Repeating it is safe.

    Args:
        run: The run.
        stored: Its ``result.json``.
        restore: Called with the report of the final metrics.
        collect: Whether to delete what no record names.
        durable: Whether the result is known to be durable; another worker's may as yet be only visible.
    """
    if not durable:  # else a power loss could keep _SUCCESS and lose what it stands for
        with_retries(lambda: run.storage.put_if_absent(RESULT, run.storage.get(RESULT)))
    restore(final_reports(run, stored))
    if collect and not retried_chunks(run.storage):  # what a retry replaces stays whole
        collect_garbage(run, stored)
    write_success(run, stored)


def write_success(run: RunDirectory, stored: Mapping[str, Any]) -> None:
    """Write ``_SUCCESS``, or make sure of it; nobody may say before this that a run is complete.

    Whoever wrote it, and the result beside it, may have died before they were durable: then they are only visible.

    Args:
        run: The run.
        stored: Its ``result.json``.
    """
    digest = sha256_hex(canonical_json(stored))
    with_retries(lambda: run.storage.put_if_absent(SUCCESS, f"{digest}\n".encode()))


def confirmed_result(run: RunDirectory) -> dict[str, Any] | None:
    """Return the result of a run that is complete for good.

    Args:
        run: The run.

    Returns:
        ``result.json`` as stored; None if the run is not complete, or a resume has still to settle it.
    """
    stored = run.read_result()
    if stored is None or not with_retries(lambda: run.storage.exists(SUCCESS)):
        return None
    write_success(run, stored)
    return stored


def final_reports(run: RunDirectory, stored: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the report of the final metrics, in group ``validation`` as in the seed; None has nothing to say."""
    known = {name: value for name, value in stored["metrics"].items() if value is not None}
    again = retried_chunks(run.storage) * run.grid.chunk_batches  # later results are told under later steps
    report = {
        "group": "validation",
        "steps_completed": run.grid.batches + again,
        "metrics": known,
        "rank": 0,
        "time": run.manifest["created"],
    }
    return [report] if known else []


def _fold(run: RunDirectory, reducers: ReducerSet, restore: Restore) -> dict[str, Any]:
    partials: list[Mapping[str, Any]] = []
    outputs: list[dict[str, Any]] = []
    files: list[dict[str, Any]] = []
    quarantined, bitwise = 0, True
    for record in read_records(run, list(range(run.grid.chunks))):
        partials.append(run.log.read_partials(record))
        outputs += committed_parts(record)
        files += record["files"]
        quarantined += len(record["quarantined"])
        bitwise = bitwise and record.get("bitwise", True)
        restore(record["reports"])
    rows = CommittedRows(run.log, outputs, run.grid.samples - quarantined)
    return {
        "format": FORMAT,
        "complete": True,
        "coverage": 1.0,
        "samples": run.grid.samples,
        "quarantined": quarantined,
        "metrics": reducers.fold_rows(rows, reducers.fold(partials)),
        "outputs": outputs,
        "files": files,
        "bitwise": bitwise,
        "fingerprint": run.manifest["fingerprint"]["sha256"],
    }


def committed_parts(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a record's parts with the samples they cover."""
    return [{**part, "start": record["start"], "stop": record["stop"]} for part in record["parts"]]


def collect_garbage(run: RunDirectory, result: Mapping[str, Any]) -> list[str]:
    """Delete staged objects that no record names; only after the result, when no attempt can still win.

    Args:
        run: The run.
        result: Its ``result.json``.

    Returns:
        The paths that were deleted.
    """
    named = {item["name"] for item in (*result["outputs"], *result["files"])}
    candidates: dict[int, list[str]] = {}
    for folder in (PARTS, FILES):
        for info in with_retries(lambda folder=folder: list(run.storage.list(folder))):  # type: ignore[misc]
            chunk = info.path.split("/")[1]
            if chunk.isdigit() and info.path not in named:
                candidates.setdefault(int(chunk), []).append(info.path)
    deleted = []
    for number, paths in sorted(candidates.items()):
        kept = set(named_paths(run.log.read(number)))  # a record may also name a file of partials
        deleted += [path for path in paths if path not in kept]
    for path in deleted:
        with_retries(lambda path=path: run.storage.delete(path))  # type: ignore[misc]
    return deleted


def result_of(
    run: RunDirectory, stored: Mapping[str, Any] | None, stop_reason: str | None = None, read: bool = True
) -> RunResult:
    """Return a run's result as far as it is committed.

    Args:
        run: The run.
        stored: ``result.json``, or None while it is not complete.
        stop_reason: Why this launch stopped, if it did.
        read: Whether to read the records of a run that is not complete, to tell its outputs and quarantined samples.
    """
    if stored is not None:
        return RunResult(
            run_id=run.run_id,
            path=run.path,
            complete=True,
            coverage=1.0,
            samples=stored["samples"],
            quarantined=stored["quarantined"],
            metrics=stored["metrics"],
            outputs=tuple(stored["outputs"]),
        )
    committed = sorted(run.log.committed())
    records = list(read_records(run, committed)) if read else []
    samples = run.grid.samples_in(committed)
    return RunResult(
        run_id=run.run_id,
        path=run.path,
        complete=False,
        coverage=samples / run.grid.samples if run.grid.samples else 0.0,
        samples=samples,
        quarantined=sum(len(record["quarantined"]) for record in records),
        metrics={},
        outputs=tuple(part for record in records for part in committed_parts(record)),
        stop_reason=stop_reason,
    )
