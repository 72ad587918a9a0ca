import csv
import io
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from batchmill.metrics.rows import (
    CSV_COLUMNS,
    MetricsRow,
    best_cells,
    csv_table,
    keep_metrics,
    metric_names,
    summarised,
)


def row(group: str = "g", /, run_id: str = "r", **metrics: Any) -> MetricsRow:
    return MetricsRow(run_id, group, 3, 0, "2026-01-01T00:00:00+00:00", (("digits", 1), ("digits", 2)), metrics)


def test_the_best_of_a_group() -> None:
    rows = [row(a=1, loss=1), row(a=3, loss=0.5), row(a=3, loss=2), row("other", a=9, loss=9), row(a="text", loss=True)]
    assert best_cells(rows) == {(1, "a"), (2, "a"), (1, "loss")}
    assert best_cells(rows, lower=["a"], higher=["loss"]) == {(0, "a"), (2, "loss")}


def test_nothing_is_best_where_all_are_equal() -> None:
    assert best_cells([row(a=1), row(a=1.0), row(b=2)]) == set()
    assert best_cells([]) == set()


def test_infinities_can_be_best() -> None:
    assert best_cells([row(a=1), row(a=float("inf")), row(a=float("nan"))]) == {(1, "a")}


@given(st.lists(st.floats(allow_nan=False)))
def test_the_best_is_beaten_by_nobody(values: list[float]) -> None:
    best = best_cells([row(a=value) for value in values])
    assert all(values[index] == max(values) for index, _ in best)
    assert bool(best) == (len(set(values)) > 1)


def test_choosing_metrics() -> None:
    rows = [row(b=1, a=2), row(c=3)]
    assert metric_names(rows) == ["b", "a", "c"]
    assert keep_metrics(rows, []) == rows
    assert [kept.metrics for kept in keep_metrics(rows, ["a", "x"])] == [{"a": 2}]


def test_nested_values_are_summed_up() -> None:
    square = [[1.5] * 10] * 10
    assert summarised(square) == "list of 10 x 10"
    assert summarised([[1.5] * 10, [2.5] * 9]) == "list of 2"
    assert summarised([0.123456789] * 30) == "list of 30"
    assert summarised({str(i): i for i in range(12)}) == "dict of 12"
    assert summarised([[50, 0], [1, 49]]) == [[50, 0], [1, 49]]
    assert summarised([[]] * 30) == "list of 30"
    assert summarised("x" * 100) == "x" * 100


def test_json_is_whole() -> None:
    assert json.loads(json.dumps(row(a=1 / 3, m=[[1]], i=float("inf")).to_json(), allow_nan=False)) == {
        "run": "r",
        "group": "g",
        "step": 3,
        "rank": 0,
        "time": "2026-01-01T00:00:00+00:00",
        "versions": [{"model": "digits", "version": 1}, {"model": "digits", "version": 2}],
        "metrics": {"a": 1 / 3, "m": [[1]], "i": "Infinity"},
    }


def read_back(rows: list[MetricsRow]) -> list[dict[str, str]]:
    written = io.StringIO()
    header, records = csv_table(rows)
    csv.writer(written).writerows([header, *records])
    return list(csv.DictReader(io.StringIO(written.getvalue(), newline=""), strict=True))


def test_csv_reads_back() -> None:
    first, second = read_back([row(a=1 / 3, m={"x": [1, "é"]}, flag=True), row(run_id="s", text='a,"b"\nc')])
    assert first["run"] == "r"
    assert (first["model"], first["version"], first["step"]) == ("digits;digits", "1;2", "3")
    assert float(first["a"]) == 1 / 3
    assert json.loads(first["m"]) == {"x": [1, "é"]}
    assert (first["flag"], first["text"], second["a"], second["text"]) == ("true", "", "", 'a,"b"\nc')


def test_no_column_hides_another() -> None:
    (read,) = read_back([row(**{"run": 1, "metric.run": 2, "step": 4})])
    assert read["run"] == "r"
    assert (read["metric.metric.run"], read["metric.run"], read["metric.step"]) == ("1", "2", "4")


def test_text_is_no_formula() -> None:
    (read,) = read_back([row(**{"a": "=1+1", "=b": -0.5, "c": "@x"})])
    assert (read["a"], read["'=b"], read["c"]) == ("'=1+1", "-0.5", "'@x")


@given(
    st.lists(st.dictionaries(st.sampled_from(["a", "run", "metric.run", "time", "b c"]), st.floats(allow_nan=False)))
)
def test_every_float_survives_csv(metrics: list[dict[str, float]]) -> None:
    rows = [row(**values) for values in metrics]
    header, records = csv_table(rows)
    assert len(set(header)) == len(header) == len(CSV_COLUMNS) + len(metric_names(rows))
    for values, record in zip(metrics, records, strict=True):
        cells = dict(zip(metric_names(rows), record[len(CSV_COLUMNS) :], strict=True))
        assert {name: float(cell) for name, cell in cells.items() if cell} == values
