"""What the jobs of ``jobs.py`` must come to, computed sample by sample in plain Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from checker import CheckedRun
from jobs import value_of


def doubler_rows(samples: int) -> dict[str, list[Any]]:
    """Return the rows that ``jobs:Doubler`` gives for ``jobs:Values``."""
    indices = list(range(samples))
    return {"_index": indices, "y": [2 * value_of(i) + 1 for i in indices], "i": indices}


def doubler_metrics(samples: int, batch_size: int, chunk_batches: int) -> dict[str, float | None]:
    """Return the metrics of ``jobs:Doubler`` for ``jobs:Values``: float sums per chunk, added in chunk order."""
    values = doubler_rows(samples)["y"]
    step = batch_size * chunk_batches
    total = 0.0
    for start in range(0, samples, step):
        of_chunk = 0.0
        for value in values[start : start + step]:
            of_chunk += value
        total += of_chunk
    return {"plain_sum": total, "largest": max(values, default=None)}


def assert_doubler(run: CheckedRun, extra_metrics: Sequence[str] = ()) -> None:
    """Assert that a run of ``jobs:Doubler`` over ``jobs:Values`` has exactly the oracle's rows and metrics."""
    samples = run.manifest["samples"]
    expected = doubler_rows(samples)
    for name, values in expected.items():
        assert run.column(name) == values, f"column {name} differs"
    metrics = {name: value for name, value in run.metrics.items() if name not in extra_metrics}
    assert metrics == doubler_metrics(samples, run.manifest["batch_size"], run.manifest["chunk_batches"])
