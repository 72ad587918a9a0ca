"""Checks what lies in storage, with nothing of Batchmill's: it knows the documented format and the workload only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from .workload import REPORT_GROUP, Ledger, Workload, digest_of, sum_in_order, value_of

Snapshot = dict[str, bytes]
ReportKey = tuple[str, int, int]  # group, step, rank

# Records that were found whole, with the bytes of all that they name.
_checked: set[tuple[Any, ...]] = set()
_MOST_CHECKED = 10_000


class ViolationError(Exception):
    """An invariant does not hold; the message begins with its number."""


def canonical(value: Any) -> bytes:
    """Return the canonical JSON that the format prescribes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def check_wreck(files: Snapshot, workload: Workload) -> dict[int, dict[str, Any]]:
    """Check what holds at any moment: every record is whole, and so is all that it names.

    Args:
        files: The run's files by relative path; empty for a run that never came to be.
        workload: What was to be computed.

    Returns:
        The records by chunk.

    Raises:
        ViolationError: Something does not hold.
    """
    committed = sorted(path for path in files if path.startswith("commits/") and not _hidden(path))
    if "run.json" not in files:
        _require(not committed and "result.json" not in files, "I1: there are records, but no run.json")
        return {}
    manifest = unseal(files["run.json"], "run.json")
    known = (manifest["samples"], manifest["batch_size"], manifest["chunk_batches"])
    planned = (workload.samples, workload.batch_size, workload.chunk_batches)
    _require(known == planned, f"I4: run.json froze {known} instead of {planned}")
    records = {}
    for path in committed:
        record = unseal(files[path], path)
        chunk = record["chunk"]
        _require(path == f"commits/{chunk:08d}.json", f"I2: {path} is the record of chunk {chunk}")
        _check_record(files, record, workload)
        records[chunk] = record
    if "result.json" in files:
        _require(len(records) == len(grid(workload)), f"I1: result.json is there with {len(records)} records")
    if "_SUCCESS" in files:
        _require("result.json" in files, "I2: _SUCCESS is there without result.json")
        digest = hashlib.sha256(files["result.json"]).hexdigest()
        _require(files["_SUCCESS"] == f"{digest}\n".encode(), "I2: _SUCCESS has another digest than result.json")
    return records


def check_complete(
    files: Snapshot, records: Mapping[int, dict[str, Any]], workload: Workload, reference: bytes | None
) -> dict[ReportKey, Mapping[str, Any]]:
    """Check a finished run, of which ``check_wreck`` found nothing to say.

    Args:
        files: The run's files by relative path.
        records: Its records by chunk, from ``check_wreck``.
        workload: What was to be computed.
        reference: ``result.json`` of an undisturbed run of the same workload, if it is deterministic.

    Returns:
        The metrics that the records report during chunks, of which the tracker must have been told.

    Raises:
        ViolationError: Something does not hold.
    """
    _require(sorted(records) == list(range(len(grid(workload)))), f"I1: chunks {sorted(records)} are committed")
    _require("result.json" in files and "_SUCCESS" in files, "I1: result.json or _SUCCESS is missing")
    result = unseal(files["result.json"], "result.json")
    ordered = [records[chunk] for chunk in sorted(records)]

    rows = [row for record in ordered for part in record["parts"] for row in _rows(files, part)]
    bad = [item["index"] for record in ordered for item in record["quarantined"]]
    _require(
        result["quarantined"] == len(bad), f"I1: result.json counts {result['quarantined']} bad samples, not {bad}"
    )
    indices = sorted([*(row["_index"] for row in rows), *bad])
    _require(indices == list(range(workload.samples)), f"I1: samples {indices} instead of each once")
    _require(all(row["y"] == value_of(row["_index"]) for row in rows), "I1: a row holds another sample's value")

    expected = _expected_metrics(rows, workload)
    _require(result["metrics"] == expected, f"I3: metrics are {result['metrics']}, the oracle says {expected}")
    outputs = [{**part, "start": r["start"], "stop": r["stop"]} for r in ordered for part in r["parts"]]
    _require(result["outputs"] == outputs, "I2: result.json lists other parts than the records")
    _require(result["files"] == [named for r in ordered for named in r["files"]], "I2: result.json lists other files")
    _require(result["complete"] is True and result["samples"] == workload.samples, "I1: result.json is not complete")
    if reference is not None:
        _require(files["result.json"] == reference, "I5: result.json differs from that of an undisturbed run")
    reports = [report for record in ordered for report in record["reports"]]
    _require(all(report["group"] == REPORT_GROUP for report in reports), "I3: there is a report of another group")
    return {(report["group"], report["steps_completed"], report["rank"]): report["metrics"] for report in reports}


def check_ledger(
    ledger: Ledger, reports: Mapping[ReportKey, Mapping[str, Any]], results: Sequence[tuple[int, bytes]]
) -> None:
    """Check what the tracker was told.

    Args:
        ledger: All of that.
        reports: What records report.
        results: Each ``result.json``, with the step under which its metrics are told.

    Raises:
        ViolationError: It is not just that.
    """
    final = {("validation", step, 0): unseal(data, "result.json")["metrics"] for step, data in results}
    expected = {**reports, **final}
    _require(ledger.reported == expected, f"I3: the tracker holds {ledger.reported}, the records say {expected}")


def grid(workload: Workload) -> list[tuple[int, int]]:
    """Return the samples ``[start, stop)`` of every chunk."""
    step = workload.batch_size * workload.chunk_batches
    return [(start, min(start + step, workload.samples)) for start in range(0, workload.samples, step)]


def _check_record(files: Snapshot, record: dict[str, Any], workload: Workload) -> None:
    """Check one record and all that it names; what was checked with the same bytes before is not checked again."""
    sidecar = [record["partials_file"]] if "partials_file" in record else []
    names = [named["name"] for named in (*record["parts"], *record["files"], *sidecar)]
    for name in names:
        _require(name in files, f"I2: {name} is missing, chunk {record['chunk']} names it")
    key = (workload, record["sha256"], *(files[name] for name in names))
    if key in _checked:
        return
    _check_contents(files, record, workload)
    if len(_checked) > _MOST_CHECKED:
        _checked.clear()
    _checked.add(key)


def _check_contents(files: Snapshot, record: dict[str, Any], workload: Workload) -> None:
    chunk, span = record["chunk"], (record["start"], record["stop"])
    chunks = grid(workload)
    _require(0 <= chunk < len(chunks), f"I1: there is a record of chunk {chunk}")
    _require(span == chunks[chunk], f"I1: the record of chunk {chunk} covers {span}, the grid says {chunks[chunk]}")
    _require(len(record["attempt"]) == 32, f"I2: the record of chunk {chunk} has no attempt id")
    sidecar = [record["partials_file"]] if "partials_file" in record else []
    for named in (*record["parts"], *record["files"], *sidecar):
        data = files[named["name"]]
        whole = len(data) == named["bytes"] and _digest(data) == named["sha256"]
        _require(whole, f"I2: {named['name']} is not what chunk {chunk} committed")
    rows = [row for part in record["parts"] for row in _rows(files, part)]
    _require(sum(part["rows"] for part in record["parts"]) == len(rows), f"I2: chunk {chunk} counts its rows wrongly")
    bad = [index for index in range(*span) if index in workload.bad]
    told = [(item["index"], item["stage"], item["error"]) for item in record["quarantined"]]
    expected = [(index, "process", "ValueError") for index in bad]
    _require(told == expected, f"I1: chunk {chunk} has quarantined {told} instead of {expected}")
    wanted = [index for index in range(*span) if index not in bad]
    _require([row["_index"] for row in rows] == wanted, f"I1: the part of chunk {chunk} holds other samples")
    _check_one_attempt(files, record, rows, workload)


def _check_one_attempt(files: Snapshot, record: dict[str, Any], rows: list[dict[str, Any]], workload: Workload) -> None:
    """Check that rows, partials, reports and files of a record come from one and the same attempt."""
    chunk = record["chunk"]
    marks = _marks(rows, workload)
    partials = (
        record["partials"]
        if "partials" in record
        else unseal(files[record["partials_file"]["name"]], record["partials_file"]["name"])["partials"]
    )
    _require(partials["marks"] == marks, f"I3: partials of chunk {chunk} are of {partials['marks']}, its rows {marks}")
    _require(partials["total"] == sum(row["_index"] for row in rows), f"I3: chunk {chunk} has another chunk's total")
    reported = [report["metrics"]["mark"] for report in record["reports"]]
    _require(reported == (marks if workload.reports else []), f"I3: chunk {chunk} has reports of {reported}")
    uploaded = [json.loads(files[named["name"]]) for named in record["files"]]
    _require(uploaded == ([marks] if workload.files and marks else []), f"I3: chunk {chunk} has files of {uploaded}")


def _expected_metrics(rows: list[dict[str, Any]], workload: Workload) -> dict[str, Any]:
    good = [[index for index in range(*span) if index not in workload.bad] for span in grid(workload)]
    floats = sum_in_order([sum_in_order([value_of(index) for index in chunk]) for chunk in good])
    marks = _marks(rows, workload)
    return {"total": sum(index for chunk in good for index in chunk), "floats": floats, "marks": digest_of(marks)}


def _marks(rows: list[dict[str, Any]], workload: Workload) -> list[str]:
    """Return one mark per batch, in order."""
    marks: dict[int, str] = {}
    for row in rows:
        batch = row["_index"] // workload.batch_size
        _require(marks.setdefault(batch, row["mark"]) == row["mark"], f"I5: batch {batch} mixes two attempts")
    for batch, mark in marks.items():
        _require(mark.split("#")[0] == f"b{batch}", f"I1: batch {batch} holds the rows of {mark}")
    return list(marks.values())


def _rows(files: Snapshot, part: dict[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(files[part["name"]])
    return rows


def unseal(data: bytes, path: str) -> dict[str, Any]:
    """Return a document that carries its own digest. Nobody changes what is returned.

    Raises:
        ViolationError: It is damaged.
    """
    document = _unsealed(data)
    _require(document is not None, f"I2: {path} is damaged")
    return document or {}


@lru_cache(maxsize=4096)
def _unsealed(data: bytes) -> dict[str, Any] | None:
    """Return a document that carries its own digest; None if it is damaged. Nobody changes what is returned."""
    try:
        document: dict[str, Any] = json.loads(data)
        body = {key: value for key, value in document.items() if key != "sha256"}
        return document if document["sha256"] == _digest(canonical(body)) else None
    except (ValueError, KeyError, TypeError):
        return None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _hidden(path: str) -> bool:
    return path.rpartition("/")[2].startswith(".")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ViolationError(what)
