"""Batches that do not fit into memory: processed in pieces, every sample once, and the record says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checker import check_complete, rows_of
from planted import Model, Planted, out_of_memory
from process_fixtures import linux_only

import batchmill
from batchmill.contracts.run import Selection
from batchmill.engine import micro_batching

pytestmark = linux_only

N, BATCH, INTERVAL = 440, 48, 2  # ten batches, five chunks, the last batch of eight samples


@pytest.fixture(autouse=True)
def no_collection(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Collecting garbage takes long in the process of many tests; one test does."""
    if "two_runs" not in request.node.name:
        monkeypatch.setattr(micro_batching, "free_memory", lambda: None)


def process(output: Path, run_id: str, **settings: Any) -> list[tuple[int, int]]:
    """Run ``Model`` and return its calls: batch and rows."""
    models: list[Model] = []

    class Processor(Model):
        def __init__(self, context: batchmill.TorchBatchProcessorContext) -> None:
            super().__init__(context, **settings)
            models.append(self)

    reducers = {"total": Selection("sum", {"column": "i"})}
    result = batchmill.torch_batch_process(
        Processor, Planted(N), BATCH, checkpoint_interval=INTERVAL, output=output, run_id=run_id, reducers=reducers
    )
    assert result.complete
    return models[0].calls


@pytest.mark.parametrize("how", ["oom", "cpu_oom"])
@pytest.mark.parametrize("room", [1, 3, 17, 32])
def test_batches_are_processed_in_pieces_that_fit(output: Path, room: int, how: str) -> None:
    process(output, "ample", how=how)
    calls = process(output, "run", how=how, room=room)
    ample, run = check_complete(output / "ample", N), check_complete(output / "run", N)
    largest = next(size for size in (24, 12, 6, 3, 2, 1) if size <= room)
    assert ample.result["bitwise"] is True and all("micro_batch" not in record for record in ample.records)
    assert run.result["bitwise"] is False and run.result["quarantined"] == 0
    for record in run.records:
        assert (record["micro_batch"], record["bitwise"]) == (largest, False)
    assert run.metrics == ample.metrics == {"count": N, "seen": list(range(N)), "total": sum(range(N))}
    rows, expected = rows_of(run), rows_of(ample)
    assert rows["i"] == expected["i"] == list(range(N))
    assert torch.allclose(torch.tensor(rows["scores"]), torch.tensor(expected["scores"]), atol=BATCH * 2**-12)
    assert rows["scores"] != expected["scores"], "the model tells of the shape"
    tried = sorted({rows for _, rows in calls if rows > room}, reverse=True)
    assert tried == [size for size in (48, 24, 12, 6, 3, 2) if size > room], "no size is tried below what fits"


def test_two_runs_in_pieces_are_equal_byte_for_byte(output: Path) -> None:
    for run_id in ("run", "again"):
        process(output, run_id, how="oom", room=17)
    check_complete(output / "run", N)
    assert (output / "run" / "result.json").read_bytes() == (output / "again" / "result.json").read_bytes()


def test_memory_that_was_short_for_a_moment_costs_whole_batches_not_samples(output: Path, tmp_path: Path) -> None:
    process(output, "run", bad=[60], how="oom", once=str(tmp_path / "once"))
    run = check_complete(output / "run", N)
    assert [record.get("micro_batch") for record in run.records] == [24] * 5
    assert run.result["quarantined"] == 0


def test_bad_samples_are_found_in_pieces_too(output: Path) -> None:
    class Both(Model):
        def __init__(self, context: batchmill.TorchBatchProcessorContext) -> None:
            super().__init__(context, how="oom", room=7)

        def process_batch(self, batch: Any, batch_idx: int) -> Any:
            outputs = super().process_batch(batch, batch_idx)
            for index in (5, 47, 130):
                if index in batch["i"]:
                    raise ValueError(f"sample {index}")
            return outputs

    batchmill.torch_batch_process(Both, Planted(N), BATCH, checkpoint_interval=1, output=output, run_id="run")
    run = check_complete(output / "run", N)
    assert [item["index"] for record in run.records for item in record["quarantined"]] == [5, 47, 130]
    assert [record["micro_batch"] for record in run.records] == [6] * 10
    good = [index for index in range(N) if index not in (5, 47, 130)]
    assert run.metrics == {"count": len(good), "seen": good} and rows_of(run)["i"] == good


class Reporting(Model):
    """Reports once for each batch."""

    def __init__(self, context: batchmill.TorchBatchProcessorContext) -> None:
        super().__init__(context, how="late")

    def process_batch(self, batch: Any, batch_idx: int) -> Any:
        if len(batch["i"]) > 20:
            raise out_of_memory("oom")
        return super().process_batch(batch, batch_idx)


def test_a_processor_that_cannot_be_called_on_pieces_is_told_what_to_do(output: Path) -> None:
    with pytest.raises(batchmill.ProcessorError, match=r"Batch \d does not fit.*of 12 samples.*smaller batch_size"):
        batchmill.torch_batch_process(Reporting, Planted(N), BATCH, output=output, run_id="run")


def rows_of_unknown_meaning(samples: list[dict[str, Any]]) -> list[torch.Tensor]:
    return [sample["x"] for sample in samples]


def test_a_batch_whose_rows_cannot_be_told_apart_is_not_cut(output: Path) -> None:
    """Eight tensors of eight numbers: columns or rows?"""

    class Full(batchmill.TorchBatchProcessor):
        def __init__(self, context: batchmill.TorchBatchProcessorContext) -> None:
            pass

        def process_batch(self, batch: Any, batch_idx: int) -> Any:
            raise out_of_memory("oom")

    with pytest.raises(batchmill.ProcessorError, match=r"cannot be cut into pieces: .* may hold columns or rows"):
        batchmill.torch_batch_process(
            Full, Planted(N), 8, output=output, dataloader_kwargs={"collate_fn": rows_of_unknown_meaning}
        )
