"""Pieces of batches: halved until they fit, remembered, and grown again."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from batchmill import OutputError, ProcessorError
from batchmill.engine import micro_batching
from batchmill.engine.micro_batching import MicroBatches, RowOutOfMemory, is_out_of_memory
from batchmill.engine.user_code import drop_frames

B = 64


@pytest.fixture(autouse=True, scope="module")
def no_collection():
    """Collecting garbage takes long in the process of many tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(micro_batching, "free_memory", lambda: None)
        yield


class Device:
    """Takes so many rows at once."""

    def __init__(self, room):
        self.room, self.sizes = room, []

    def __call__(self, batch, batch_idx):
        self.sizes.append(len(batch["x"]))
        if len(batch["x"]) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"y": batch["x"] * 2}


def batch_of(rows=B):
    return {"x": torch.arange(rows)}


def run_one(run, rows=B):
    """Process a batch as a worker does: smaller after each time that memory was short."""
    while True:
        try:
            return run(batch_of(rows), 0, rows)
        except torch.OutOfMemoryError:
            run.shrink(rows)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_says_that_memory_has_run_out(error, expected):
    assert is_out_of_memory(error) is expected


@given(st.integers(1, 100), st.integers(1, 100))
def test_pieces_are_the_largest_halvings_that_fit(rows, room):
    device = Device(room)
    run = MicroBatches(device)
    assert run_one(run, rows)["y"].tolist() == [2 * i for i in range(rows)]
    halvings = [rows]
    while halvings[-1] > room:
        halvings.append(-(-halvings[-1] // 2))
    assert (run.smallest or rows) == halvings[-1]
    assert run.latest == (None if rows <= room else halvings[-1])
    assert max(device.sizes[len(halvings) - 1 :]) == halvings[-1]


def test_a_piece_size_is_remembered_and_grows_after_fifty_batches():
    device = Device(20)
    run = MicroBatches(device)
    run_one(run)
    assert run.size == 16
    device.room = 1000
    sizes = []
    for _ in range(200):
        run.begin_chunk()
        run_one(run)
        sizes.append(run.smallest)
    # The size is chosen for the batch after the one in which it was due.
    assert sizes.index(None) < 110
    assert sizes[:45] == [16] * 45 and set(sizes[:110]) == {16, 32, None}
    assert sizes[110:] == [None] * 90


def test_a_larger_piece_that_does_not_fit_is_tried_more_seldom_each_time():
    device = Device(20)
    run = MicroBatches(device)
    tries = []
    for batch in range(1000):
        before = device.sizes.count(32)
        run_one(run)
        tries += [batch] * (device.sizes.count(32) - before)
    assert run.size == 16
    gaps = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert 4 <= len(tries) <= 6 and all(later > 1.8 * gap for gap, later in itertools.pairwise(gaps))


def test_pieces_do_not_grow_while_a_chunk_is_recovered():
    device = Device(20)
    run = MicroBatches(device)
    run.may_grow = False
    for _ in range(500):
        run_one(run)
    assert device.sizes.count(32) == 1 and run.size == 16


def test_whole_batches_come_back_when_what_did_not_fit_is_set_aside():
    run = MicroBatches(Device(20))
    run_one(run)
    run.restore(None)
    assert run.size is None


def test_a_row_that_does_not_fit_alone_is_named():
    def process(batch, batch_idx):
        if 5 in batch["x"]:
            raise torch.OutOfMemoryError("out of memory")
        return None

    run = MicroBatches(process)
    with pytest.raises(RowOutOfMemory) as caught:
        run_one(run)
    assert caught.value.position == 5 and isinstance(caught.value.__cause__, torch.OutOfMemoryError)
    assert run.size == 1


def test_other_errors_pass():
    def process(batch, batch_idx):
        raise KeyError("label")

    run = MicroBatches(process)
    run.shrink(B)
    with pytest.raises(KeyError, match="label"):
        run(batch_of(), 0, B)
    run.shrink(1)
    with pytest.raises(KeyError):
        run(batch_of(), 0, B)


def test_what_cannot_be_cut_is_told_with_the_batch():
    run = MicroBatches(Device(20))
    run.shrink(B)
    with pytest.raises(ProcessorError, match=r"Batch 7 does not fit.*cannot be cut into pieces.*smaller batch_size"):
        run(object(), 7, B)


def test_outputs_that_do_not_fit_together_are_refused():
    run = MicroBatches(lambda batch, batch_idx: {"y": torch.zeros(len(batch["x"]), int(batch["x"][0]) + 1)})
    run.shrink(B)
    with pytest.raises(OutputError, match="do not fit together"):
        run(batch_of(), 0, B)


def test_frames_of_an_error_let_go_of_what_they_hold():
    class Large:
        alive = 0

        def __init__(self):
            Large.alive += 1

        def __del__(self):
            Large.alive -= 1

    def fail():
        large = Large()
        try:
            raise ValueError("first")
        except ValueError as error:
            raise RuntimeError(f"second {np.size(large)}") from error

    try:
        fail()
    except RuntimeError as error:
        kept = error
    assert Large.alive == 1
    drop_frames(kept)
    assert Large.alive == 0 and str(kept) == "second 1"
