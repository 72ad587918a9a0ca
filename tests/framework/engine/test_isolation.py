"""Trials find exactly the bad rows, at the batch's own shape, and leave nothing behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset, TensorDataset

import batchmill
from batchmill.engine.grid import Grid
from batchmill.engine.isolation import Isolated, OutOfTime, Trials, check_finite, filled
from batchmill.engine.micro_batching import MicroBatches
from batchmill.engine.quarantine import SampleFailure
from batchmill.engine.reading import BatchSource


class ReportsAndUploads(batchmill.TorchBatchProcessor):
    """Hands over a report and a file for each batch, and only then finds out that a sample is bad."""

    def __init__(self, context: batchmill.TorchBatchProcessorContext) -> None:
        self.context = context

    def process_batch(self, batch: list[torch.Tensor], batch_idx: int) -> dict[str, torch.Tensor]:
        rows = len(batch[0])
        self.context.report_metrics("batches", batch_idx, {"rows": rows})
        with self.context.upload_path() as folder:
            (folder / f"{batch_idx}.json").write_text(str(rows))
        if 5.0 in batch[0]:
            raise ValueError("five")
        return {"value": batch[0]}


def test_reports_and_files_of_a_batch_with_a_bad_sample_are_handed_over_once(tmp_path: Path) -> None:
    data = TensorDataset(torch.arange(12.0))
    result = batchmill.torch_batch_process(
        ReportsAndUploads, data, batch_size=4, checkpoint_interval=2, output=str(tmp_path), run_id="run"
    )
    assert result.complete and result.quarantined == 1
    records = [json.loads(path.read_text()) for path in sorted((tmp_path / "run" / "commits").iterdir())]
    reports = [report for record in records for report in record["reports"]]
    assert [(report["steps_completed"], report["metrics"]) for report in reports] == [
        (0, {"rows": 4}),
        (1, {"rows": 3}),
        (2, {"rows": 4}),
    ]
    uploaded = [tmp_path / "run" / named["name"] for record in records for named in record["files"]]
    assert {path.name: path.read_text() for path in uploaded} == {"0.json": "4", "1.json": "3", "2.json": "4"}


# --- trials, without a run ---


class Rows(Dataset):
    """Sample i is ``(i, 10 i)``; some cannot be read."""

    def __init__(self, n: int, unreadable: set[int]) -> None:
        self.n, self.unreadable = n, unreadable

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[int, float]:
        if index in self.unreadable:
            raise OSError(f"sample {index}")
        return index, 10.0 * index


class Bench:
    """Trials of the last batch of a dataset, with a processor that fails on planted samples."""

    def __init__(self, rows: int, before: int = 0, load: set[int] = frozenset(), **planted: set[int]) -> None:
        self.start, self.planted, self.batches, self.forgotten = before * rows, planted, [], 0
        self.grid = Grid(self.start + rows, rows, 1)
        shift = {self.start + position for position in load}
        self.trials = Trials(
            grid=self.grid,
            source=BatchSource(Rows(self.start + rows, shift), self.grid, {}),
            run=MicroBatches(self.process),
            on_nonfinite="quarantine",
            forget=self.forget,
            overdue=lambda: False,
        )
        self.spent: list[int] = []

    def forget(self) -> None:
        self.forgotten += 1

    def process(self, batch: list[torch.Tensor], batch_idx: int) -> dict[str, torch.Tensor]:
        positions = (batch[0] - self.start).tolist()
        self.batches.append(positions)
        if set(positions) & self.planted.get("fail", set()):
            raise ValueError(f"among {positions}")
        values = batch[1].float()
        values[[position in self.planted.get("nan", set()) for position in positions]] = torch.inf
        return {"value": values}

    def isolate(self, bad: dict[int, SampleFailure]) -> Isolated | None:
        last = self.grid.batches - 1
        return self.trials.isolate(last, bad, lambda index, failure: self.spent.append(index))


@st.composite
def plantings(draw: st.DrawFn) -> tuple[int, dict[str, set[int]]]:
    rows = draw(st.integers(1, 40))
    kinds = draw(st.lists(st.sampled_from(["good"] * 6 + ["load", "fail", "nan"]), min_size=rows, max_size=rows))
    return rows, {kind: {p for p in range(rows) if kinds[p] == kind} for kind in ("load", "fail", "nan")}


@given(plantings(), st.integers(0, 3))
def test_exactly_the_bad_rows_are_found_and_the_good_ones_stay_in_place(
    planting: tuple[int, dict[str, set[int]]], before: int
) -> None:
    rows, planted = planting
    bench = Bench(rows, before, **planted)
    failures: dict[int, SampleFailure] = {}
    isolated = bench.isolate(failures)
    stages = {position: failure.stage for position, failure in failures.items()}
    assert stages == {
        **dict.fromkeys(planted["load"], "load"),
        **dict.fromkeys(planted["fail"], "process"),
        **dict.fromkeys(planted["nan"], "output"),
    }
    assert sorted(bench.spent) == sorted(bench.start + position for position in failures)
    good = [position for position in range(rows) if position not in failures]
    if not failures:
        assert isolated is None
    else:
        assert isolated is not None and isolated.good == good and isolated.pieces is None
        if good:
            assert isolated.outputs["value"].tolist() == [10.0 * (bench.start + position) for position in good]
    for positions in bench.batches:
        assert len(positions) == rows, "every trial has the batch's own shape"
        assert all(positions[p] == p for p in set(positions)), "each row stays in its place"
    assert bench.forgotten >= len(bench.batches)


def test_rows_that_are_known_to_be_bad_are_not_tried() -> None:
    bench = Bench(8, fail={2})
    known = {2: SampleFailure("process", "ProcessDied", "killed", "")}
    isolated = bench.isolate(known)
    assert isolated is not None and isolated.good == [0, 1, 3, 4, 5, 6, 7]
    assert bench.spent == [] and len(bench.batches) == 1


def test_a_stop_ends_the_trials() -> None:
    bench = Bench(8, fail={2})
    bench.trials = replace(bench.trials, overdue=lambda: len(bench.batches) == 3)
    with pytest.raises(OutOfTime):
        bench.isolate({})
    assert len(bench.batches) == 3


def test_a_budget_that_is_spent_ends_the_trials() -> None:
    bench = Bench(64, fail=set(range(64)))

    def spend(index: int, failure: SampleFailure) -> None:
        raise batchmill.ErrorBudgetError("enough")

    with pytest.raises(batchmill.ErrorBudgetError) as caught:
        bench.trials.isolate(0, {}, spend)
    assert len(bench.batches) <= 64
    assert caught.value.__context__ is None, "not told as a consequence of the sample's error"


def test_errors_of_the_framework_are_no_rows_fault() -> None:
    bench = Bench(4)

    def process(batch: Any, batch_idx: int) -> Any:
        raise batchmill.OutputError("our own")

    bench.trials = replace(bench.trials, run=MicroBatches(process))
    with pytest.raises(batchmill.OutputError, match="our own"):
        bench.isolate({})


def test_outputs_without_a_value_for_each_row_are_no_rows_fault() -> None:
    bench = Bench(4)
    bench.trials = replace(bench.trials, run=MicroBatches(lambda batch, batch_idx: {"y": [1, 2]}))
    with pytest.raises(batchmill.OutputError, match="Column 'y' has 2 values; expected 4"):
        bench.isolate({1: SampleFailure("load", "OSError", "", "")})


@given(st.integers(1, 50), st.data())
def test_filled_keeps_each_row_in_its_place(rows: int, data: st.DataObject) -> None:
    positions = sorted(data.draw(st.sets(st.integers(0, rows - 1), min_size=1)))
    places = filled(positions, rows)
    assert len(places) == rows and set(places) == set(positions)
    assert all(places[position] == position for position in positions)


def test_nan_is_looked_for_where_it_may_be() -> None:
    nan = float("nan")
    outputs = {
        "a": torch.tensor([0.0, nan, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
        "b": torch.tensor([[1, 2]] * 9),
        "c": [np.float32(1), 1, np.float32(nan), "nan", None, [1.0, [nan]], {"x": nan}, torch.tensor([nan]), nan],
    }
    found = check_finite(outputs, 9, range(100, 109), "quarantine")
    assert list(found) == [1, 2, 5, 6, 7, 8]
    assert found[1].message == "column 'a' holds NaN or infinity" and found[2].message.startswith("column 'c'")
    assert check_finite(outputs, 9, range(100, 109), "keep") == {}
    with pytest.raises(batchmill.OutputError, match="result of sample 101 is not finite: column 'a'"):
        check_finite(outputs, 9, range(100, 109), "fail")
