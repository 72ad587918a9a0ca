"""Chunks that start afresh: nothing is counted twice, nothing learned is forgotten, and it comes to an end."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch.utils.data import TensorDataset

import batchmill
from batchmill import Selection
from batchmill.engine import micro_batching

_runs = itertools.count()

N, B, K = 160, 16, 2  # ten batches, five chunks

Rows = torch.Tensor
Outputs = Callable[[Rows, int], Any]


@pytest.fixture(autouse=True)
def no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collecting garbage takes long in the process of many tests."""
    monkeypatch.setattr(micro_batching, "free_memory", lambda: None)


class Recovering(batchmill.TorchBatchProcessor):
    """Calls a function of the test for each batch and keeps what it was called with."""

    function: Outputs
    calls: list[tuple[int, list[int]]]
    feed = True

    def __init__(self, context: batchmill.TorchBatchProcessorContext) -> None:
        self.count = context.wrap_reducer(batchmill.Reducer.SUM, "count") if self.feed else None

    def process_batch(self, batch: Any, batch_idx: int) -> Any:
        self.calls.append((batch_idx, batch[0].int().tolist()))
        if self.count is not None:
            self.count.update(len(batch[0]))
        return type(self).function(batch[0], batch_idx)


class Done:
    """A run that is over."""

    def __init__(self, result: batchmill.RunResult, calls: list[tuple[int, list[int]]]) -> None:
        self.result, self.calls = result, calls
        self.bad = [item["index"] for item in batchmill.iter_quarantined(result)]
        outputs = batchmill.read_outputs(result)
        self.rows = dict(zip(outputs["_index"].to_pylist(), outputs["value"].to_pylist(), strict=True))


def run(function: Outputs, *, feed: bool = True, k: int = K, **arguments: Any) -> Done:
    """Run a function of rows and batch number over N samples, in memory."""
    seen: list[tuple[int, list[int]]] = []
    name = f"recovery-{next(_runs)}"

    class Processor(Recovering):
        calls = seen

    Processor.function, Processor.feed = staticmethod(function), feed
    result = batchmill.torch_batch_process(
        Processor,
        TensorDataset(torch.arange(float(N))),
        B,
        checkpoint_interval=k,
        output=f"memory://{name}",
        run_id="run",
        **arguments,
    )
    return Done(result, seen)


def test_what_is_fed_before_an_error_counts_once() -> None:
    def function(rows: Rows, batch_idx: int) -> Any:
        if 20 in rows or 90 in rows:
            raise ValueError("after the reducer was fed")
        return {"value": rows}

    done = run(function)
    assert done.bad == [20, 90]
    assert done.result.metrics == {"count": N - 2}
    assert done.rows == {index: float(index) for index in range(N) if index not in (20, 90)}


def test_an_error_that_no_row_explains_ends_the_run_after_three_vain_starts() -> None:
    calls = itertools.count(1)

    def function(rows: Rows, batch_idx: int) -> Any:
        if batch_idx == 3 and ((call := next(calls)) == 1 or call % 2 == 0):
            raise RuntimeError("every other time")
        return {"value": rows}

    with pytest.raises(batchmill.ProcessorError, match=r"Chunk 1 failed 3 times.*RuntimeError: every other time"):
        run(function)


def test_what_fails_twice_and_then_passes_is_not_set_aside() -> None:
    calls = itertools.count(1)

    def function(rows: Rows, batch_idx: int) -> Any:
        if batch_idx == 3 and next(calls) <= 2:
            raise RuntimeError("warming up")
        return {"value": rows}

    done = run(function)
    assert done.bad == [] and done.result.metrics == {"count": N}


@pytest.mark.parametrize("feed", [True, False])
def test_memory_that_runs_short_while_bad_rows_are_looked_for_loses_nothing_that_was_learned(feed: bool) -> None:
    """Nor is a sample that fails again counted again: the budget is just enough."""
    bad, calls = {33, 34, 40, 44}, itertools.count(1)

    def function(rows: Rows, batch_idx: int) -> Any:
        found = bad & set(rows.int().tolist())
        if batch_idx == 2 and next(calls) > 12 and len(rows) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if found:
            raise ValueError(f"{found}")
        return {"value": rows}

    done = run(function, feed=feed, max_errors=len(bad))
    assert done.bad == sorted(bad)
    assert done.rows == {index: float(index) for index in range(N) if index not in bad}
    assert done.result.metrics == ({"count": N - len(bad)} if feed else {})


def test_results_that_were_found_in_pieces_are_told_of_though_the_chunk_then_starts_afresh() -> None:
    """The only batch of the chunk is not processed again, for nothing but its rows is kept."""

    def function(rows: Rows, batch_idx: int) -> Any:
        if batch_idx == 2 and len(rows) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if 40 in rows:
            raise ValueError("forty")
        return {"value": rows}

    told: list[int | None] = []

    class Told:
        @batchmill.hookimpl
        def on_checkpoint_end(self, chunk: int, record: Any) -> None:
            told.append(record.get("micro_batch"))

    done = run(function, feed=False, k=1, callbacks={"told": Told()})
    assert done.bad == [40] and told[2] == 4


def test_a_row_that_does_not_fit_brings_whole_batches_back_for_the_others() -> None:
    def function(rows: Rows, batch_idx: int) -> Any:
        if {33, 35, 50} & set(rows.int().tolist()):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"value": rows + len(rows)}

    done = run(function, feed=False)
    assert done.bad == [33, 35, 50]
    assert set(done.rows.values()) == {float(index + B) for index in range(N) if index not in (33, 35, 50)}
    assert {len(rows) for batch_idx, rows in done.calls if batch_idx > 3} == {B}


def test_errors_and_results_that_are_not_finite_are_found_together() -> None:
    def function(rows: Rows, batch_idx: int) -> Any:
        if {17, 30} & set(rows.int().tolist()):
            raise ValueError("no")
        return {"value": torch.where((rows == 18) | (rows == 64), torch.inf, rows)}

    done = run(function, on_nonfinite="quarantine")
    stages = {item["index"]: item["stage"] for item in batchmill.iter_quarantined(done.result)}
    assert stages == {17: "process", 18: "output", 30: "process", 64: "output"}
    assert done.result.metrics == {"count": N - 4}


def test_a_reducer_of_a_column_meets_only_what_is_kept() -> None:
    def function(rows: Rows, batch_idx: int) -> Any:
        return {"value": torch.where(rows == 18, torch.nan, rows)}

    reducers = {"total": Selection("sum", {"column": "value"})}
    done = run(function, on_nonfinite="quarantine", reducers=reducers)
    assert done.result.metrics == {"total": float(sum(range(N)) - 18), "count": N - 1}
    with pytest.raises(batchmill.ReducerError, match=r"holds nan at row 2 of batch 1"):
        run(function, reducers=reducers)


def test_a_batch_is_tried_as_it_is_before_any_row_is_blamed() -> None:
    failed: list[int] = []

    def function(rows: Rows, batch_idx: int) -> Any:
        if batch_idx == 1 and not failed:
            failed.append(batch_idx)
            raise RuntimeError("once")
        return {"value": rows}

    done = run(function)
    assert [batch_idx for batch_idx, _ in done.calls] == [0, 1, *range(10)]


def test_pieces_do_not_grow_in_a_chunk_that_starts_afresh() -> None:
    """Each time they did not fit would be another start of a chunk of many batches."""
    short: list[int] = []

    def function(rows: Rows, batch_idx: int) -> Any:
        if len(rows) > 1:
            short.append(batch_idx)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"value": rows}

    class Processor(Recovering):
        calls: ClassVar[list[tuple[int, list[int]]]] = []

    Processor.function = staticmethod(function)
    result = batchmill.torch_batch_process(
        Processor,
        TensorDataset(torch.arange(1200.0)),
        2,
        checkpoint_interval=75,
        output=f"memory://recovery-{next(_runs)}",
        run_id="run",
    )
    assert result.complete and result.metrics == {"count": 1200}
    # The first chunk, of 75 batches, starts afresh once, and then goes on with single samples; later ones may grow.
    assert [batch for batch in short if batch < 75] == [0] and 1 < len(short) <= 5
