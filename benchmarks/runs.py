"""How the workloads run Batchmill: as a whole, with its records on the disk, everything from opening to result."""

from __future__ import annotations

import tempfile
from typing import Any

import batchmill
from benchmarks.measure import Case, Spent, timed


def mill(
    processor: type[batchmill.TorchBatchProcessor],
    dataset: Any,
    batch_size: int,
    *,
    writer: str = "none",
    checkpoint_interval: int | None = None,
) -> Case:
    """Return a case that runs a processor over a dataset on one worker with one CPU thread.

    Args:
        processor: The processor class.
        dataset: The dataset.
        batch_size: Samples per batch.
        writer: Name of the writer.
        checkpoint_interval: Batches per commit; None leaves it to Batchmill, as ``batchmill run`` does.
    """

    def case() -> Spent:
        with tempfile.TemporaryDirectory() as output:
            request = batchmill.RunRequest(
                processor=batchmill.Selection("", instance=processor),
                dataset=batchmill.Selection("", instance=dataset),
                writer=batchmill.Selection(writer),
                output=output,
                batch_size=batch_size,
                checkpoint_interval=checkpoint_interval,
                device="cpu",
            )
            results: list[batchmill.RunResult] = []
            spent = timed(lambda: results.append(batchmill.run(request)))
        if not results[0].complete or results[0].samples != len(dataset):
            raise AssertionError(f"the run is not complete: {results[0]}")
        return spent

    return case
