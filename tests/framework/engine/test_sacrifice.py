import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.engine.grid import Grid
from batchmill.engine.quarantine import SampleFailure
from batchmill.engine.sacrifice import find_deadly_rows


class Mortal:
    """Dies of some samples."""

    def __init__(self, grid, deadly):
        self.grid, self.deadly = grid, deadly
        self.tried, self.closed = [], 0

    def attempt(self, batch_idx, positions):
        start, stop = self.grid.batch_range(batch_idx)
        assert len(positions) == stop - start, "every trial has the batch's own shape"
        indices = {start + position for position in positions}
        self.tried.append(indices)
        return SampleFailure("process", "ProcessDied", "killed", "") if indices & self.deadly else None

    def close(self):
        self.closed += 1


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 4), st.data())
def test_exactly_the_deadly_samples_of_the_chunk_are_found(samples, batch_size, chunk_batches, data):
    grid = Grid(samples, batch_size, chunk_batches)
    deadly = data.draw(st.sets(st.integers(0, samples - 1)))
    chunk = data.draw(st.integers(0, grid.chunks - 1))
    process, spent = Mortal(grid, deadly), []
    found = find_deadly_rows(grid, chunk, lambda: process, lambda index, failure: spent.append(index))
    indices = {grid.batch_range(batch)[0] + position for batch, bad in found.items() for position in bad}
    start, stop = grid.chunk_range(chunk)
    assert indices == {index for index in deadly if start <= index < stop}
    assert sorted(spent) == sorted(indices)
    assert all(bad for bad in found.values())
    assert process.closed == 1


def test_the_process_is_ended_when_there_are_too_many():
    grid = Grid(20, 10, 2)
    process = Mortal(grid, {3, 4})

    def spend(index, failure):
        raise RuntimeError("too many")

    with pytest.raises(RuntimeError, match="too many"):
        find_deadly_rows(grid, 0, lambda: process, spend)
    assert process.closed == 1
