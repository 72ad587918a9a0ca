"""Whole runs of ``planted.Model`` in this process, and what must be left of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from checker import CheckedRun, rows_of
from planted import Model, Planted

import batchmill
from batchmill.contracts.run import Selection

N, BATCH, INTERVAL = 150, 16, 2  # 10 batches, five chunks, the last batch of six samples
FEW = [37, 38, 70]


def process(
    output: Path,
    run_id: str,
    dataset: Any = None,
    settings: Mapping[str, Any] | None = None,
    built: list[Model] | None = None,
    **arguments: Any,
) -> batchmill.RunResult:
    """Run ``Model`` with settings in this process; the processor is added to ``built``."""
    models = [] if built is None else built

    class Processor(Model):
        def __init__(self, context: batchmill.TorchBatchProcessorContext) -> None:
            super().__init__(context, **(settings or {}))
            models.append(self)

    Processor.__qualname__ = Processor.__name__ = "Processor"
    options: dict[str, Any] = {
        "batch_size": BATCH,
        "checkpoint_interval": INTERVAL,
        "reducers": {"total": Selection("sum", {"column": "i"})},
        "max_errors": 1000,
        "device": "cpu",
    }
    return batchmill.torch_batch_process(
        Processor, dataset or Planted(N), output=output, run_id=run_id, **{**options, **arguments}
    )


def set_aside(run: CheckedRun) -> dict[int, dict[str, Any]]:
    return {item["index"]: item for record in run.records for item in record["quarantined"]}


def assert_only_they_are_missing(run: CheckedRun, healthy: CheckedRun, bad: list[int], bits: bool = True) -> None:
    """Assert that a run of ``Model`` has everything of the good samples that a healthy run has, once."""
    good = [index for index in range(N) if index not in bad]
    assert sorted(set_aside(run)) == sorted(bad)
    assert run.result["quarantined"] == len(bad)
    rows, whole = rows_of(run), rows_of(healthy)
    assert rows["_index"] == rows["i"] == good
    expected = [whole["scores"][index] for index in good]
    if bits:
        assert rows["scores"] == expected
    else:
        assert torch.allclose(torch.tensor(rows["scores"]), torch.tensor(expected), atol=BATCH * 2**-12)
    assert run.metrics == {"count": len(good), "seen": good, "total": sum(good)}
