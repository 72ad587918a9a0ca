from typing import Any

import pytest

from batchmill.launch.worker_process import Patience, WorkerProcess

PATIENCE = Patience(silence=60.0, batch=60.0, first_batch=1800.0)


def worker(**changes: Any) -> WorkerProcess:
    values: dict[str, Any] = {"heard": 1000.0, "moved": 1000.0, "processing": 7, "steps": 5, **changes}
    return WorkerProcess(0, None, None, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "now", "told"),
    [
        ({}, 1059.0, None),
        ({"heard": 1061.0}, 1061.0, "has not come to the end of a batch of chunk 7 for 60 s"),
        ({"heard": 1000.0}, 1061.0, "has given no sign of life for 60 s"),
        ({"heard": 1100.0, "slowest": 20.0}, 1100.0, None),
        ({"heard": 1201.0, "slowest": 20.0}, 1201.0, "has not come to the end of a batch of chunk 7 for 200 s"),
        ({"heard": 2000.0, "steps": 0}, 2000.0, None),
        ({"heard": 2801.0, "steps": 0}, 2801.0, "has not come to the end of a batch of chunk 7 for 1800 s"),
        ({"heard": 9000.0, "processing": None}, 9000.0, None),
    ],
    ids=["works", "hangs", "silent", "slow", "too slow", "compiles", "never begins", "waits for others"],
)
def test_a_worker_is_taken_to_hang(changes: dict[str, Any], now: float, told: str | None) -> None:
    assert worker(**changes).overdue(PATIENCE, now) == told


def test_only_the_end_of_a_batch_or_a_new_chunk_counts_as_movement() -> None:
    one = worker(heard=1030.0)
    one.note({"kind": "progress", "samples": 10, "steps": 5, "slowest": 0.5})
    assert one.moved == 1000.0, "a sign of life, no more"
    one.note({"kind": "progress", "samples": 15, "steps": 6, "slowest": 0.5})
    assert (one.moved, one.samples, one.slowest) == (1030.0, 15, 0.5)
    one.heard = 1050.0
    one.note({"kind": "processing", "chunk": 8})
    assert (one.moved, one.processing) == (1050.0, 8)
    one.note({"kind": "processing", "chunk": None})
    assert one.overdue(PATIENCE, 1100.0) is None
