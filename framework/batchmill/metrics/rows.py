"""Reported metrics as rows: for tables, for CSV and for JSON."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from batchmill.metrics.direction import lower_is_better
from batchmill.metrics.numbers import Number, exact, json_ready

CSV_COLUMNS = ("run", "group", "step", "rank", "model", "version", "time")
_SHORT = 24
# What spreadsheets take for the beginning of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class MetricsRow:
    """What one run reported for one group and step, on one rank.

    Attributes:
        run_id: The run.
        group: Name of the group.
        step: Where in the run it belongs.
        rank: The worker that reported it.
        time: When it was last reported, ISO 8601 in UTC.
        versions: Model versions that the run used: name and number each.
        metrics: Metric name to JSON value.
    """

    run_id: str
    group: str
    step: int
    rank: int
    time: str
    versions: tuple[tuple[str, int], ...]
    metrics: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, every number whole."""
        return {
            "run": self.run_id,
            "group": self.group,
            "step": self.step,
            "rank": self.rank,
            "time": self.time,
            "versions": [{"model": model, "version": version} for model, version in self.versions],
            "metrics": json_ready(self.metrics),
        }


def metric_names(rows: Iterable[MetricsRow]) -> list[str]:
    """Return every metric of the rows, in order of first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row.metrics))


def keep_metrics(rows: Iterable[MetricsRow], names: Collection[str]) -> list[MetricsRow]:
    """Return the rows with the named metrics only, without rows that have none of them; no names: all."""
    if not names:
        return list(rows)
    kept = []
    for row in rows:
        chosen = {name: value for name, value in row.metrics.items() if name in names}
        if chosen:
            kept.append(MetricsRow(row.run_id, row.group, row.step, row.rank, row.time, row.versions, chosen))
    return kept


def best_cells(
    rows: Sequence[MetricsRow], lower: Collection[str] = (), higher: Collection[str] = ()
) -> set[tuple[int, str]]:
    """Return which values are the best of their metric within their group, as row numbers and metric names.

    Equal ones are all best; where there is nothing to choose between, none is. ``lower`` and ``higher``: see
    ``lower_is_better``.
    """
    columns: dict[tuple[str, str], dict[int, Number]] = {}
    for index, row in enumerate(rows):
        for name, value in row.metrics.items():
            number = exact(value)
            if number is not None:
                columns.setdefault((row.group, name), {})[index] = number
    best: set[tuple[int, str]] = set()
    for (_, name), numbers in columns.items():
        lowest, highest = min(numbers.values()), max(numbers.values())
        if lowest != highest:
            winner = lowest if lower_is_better(name, lower, higher) else highest
            best |= {(index, name) for index, number in numbers.items() if number == winner}
    return best


def summarised(value: Any) -> Any:
    """Return a list or dict as a few words if it is long, and anything else as it is."""
    if not isinstance(value, (list, dict)) or len(json.dumps(value, default=str)) <= _SHORT:
        return value
    if isinstance(value, dict):
        return f"dict of {len(value)}"
    sizes, inner = [len(value)], value
    while all(isinstance(item, list) for item in inner) and len({len(item) for item in inner}) == 1 and inner[0]:
        sizes.append(len(inner[0]))
        inner = [element for item in inner for element in item]
    return f"list of {' x '.join(map(str, sizes))}"


def csv_table(rows: Sequence[MetricsRow]) -> tuple[list[str], list[list[str]]]:
    """Return a header and a record per row; numbers in full, nested values as JSON.

    Several versions of one run are joined with ``;``. Text that a spreadsheet would take for a formula gets a ``'`` in
    front, and a metric that is called as one of the first columns a ``metric.``.
    """
    names = metric_names(rows)
    header = [*CSV_COLUMNS]
    for name in names:
        column = name
        while column in header or (column != name and column in names):
            column = f"metric.{column}"
        header.append(_csv_text(column))
    records = []
    for row in rows:
        models = ";".join(model for model, _ in row.versions)
        versions = ";".join(str(version) for _, version in row.versions)
        fixed = [row.run_id, row.group, str(row.step), str(row.rank), models, versions, row.time]
        records.append(
            [_csv_text(cell) for cell in fixed]
            + [_csv_cell(row.metrics[name]) if name in row.metrics else "" for name in names]
        )
    return header, records


def _csv_cell(value: Any) -> str:
    if isinstance(value, str):
        return _csv_text(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return repr(value)
    return json.dumps(json_ready(value))


def _csv_text(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text
