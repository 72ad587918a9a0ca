import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill import ConfigError
from batchmill.engine.grid import (
    AUTO_CHUNKS,
    AUTO_MOST_BATCHES,
    MIN_CHUNKS,
    Grid,
    check_sizes,
    choose_chunk_batches,
    intervals,
    planned_samples,
)

grids = st.builds(Grid, st.integers(0, 400), st.integers(1, 50), st.integers(1, 12))


@given(grids)
def test_every_sample_is_in_exactly_one_batch_and_one_chunk(grid):
    batches = [grid.batch_range(batch) for batch in range(grid.batches)]
    chunks = [grid.chunk_range(chunk) for chunk in range(grid.chunks)]
    for ranges in (batches, chunks):
        assert [i for start, stop in ranges for i in range(start, stop)] == list(range(grid.samples))
        assert all(start < stop for start, stop in ranges)


@given(grids)
def test_chunks_are_runs_of_whole_batches(grid):
    batches = [batch for chunk in range(grid.chunks) for batch in range(*grid.chunk_batch_range(chunk))]
    assert batches == list(range(grid.batches))
    for chunk in range(grid.chunks):
        first, end = grid.chunk_batch_range(chunk)
        assert {grid.chunk_of_batch(batch) for batch in range(first, end)} == {chunk}
        assert grid.chunk_range(chunk) == (grid.batch_range(first)[0], grid.batch_range(end - 1)[1])
        assert end - first <= grid.chunk_batches


@given(grids)
def test_only_the_last_batch_and_the_last_chunk_may_be_shorter(grid):
    sizes = [stop - start for start, stop in map(grid.batch_range, range(grid.batches))]
    assert set(sizes[:-1]) <= {grid.batch_size}
    lengths = [end - first for first, end in map(grid.chunk_batch_range, range(grid.chunks))]
    assert set(lengths[:-1]) <= {grid.chunk_batches}


@given(grids, st.data())
def test_samples_in_and_intervals_agree_with_the_chunks(grid, data):
    chosen = data.draw(st.lists(st.integers(0, grid.chunks - 1), unique=True)) if grid.chunks else []
    covered = sorted(i for chunk in chosen for i in range(*grid.chunk_range(chunk)))
    found = intervals(grid, chosen)
    assert [i for start, stop in found for i in range(start, stop)] == covered
    assert all(stop < start for (_, stop), (start, _) in itertools.pairwise(found)), "joined"
    assert grid.samples_in(chosen) == len(covered)


def test_an_empty_dataset_has_an_empty_grid():
    grid = Grid(0, 10, 1)
    assert (grid.batches, grid.chunks, intervals(grid, [])) == (0, 0, [])


@given(st.integers(0, 100_000), st.one_of(st.none(), st.integers(1, 1000)), st.integers(1, MIN_CHUNKS))
def test_the_chunk_size_is_the_same_for_every_usual_number_of_workers(batches, interval, world_size):
    assert choose_chunk_batches(batches, interval, world_size) == choose_chunk_batches(batches, interval, 1)


@given(st.integers(0, 100_000), st.integers(1, 1000), st.integers(1, 300))
def test_a_chunk_is_what_was_asked_for_unless_workers_would_idle(batches, interval, world_size):
    chosen = choose_chunk_batches(batches, interval, world_size)
    assert 1 <= chosen <= interval
    fair_part = -(-batches // max(world_size, MIN_CHUNKS))
    if chosen < interval:
        assert chosen == max(1, fair_part), "lowered to one worker's fair part, and no further"
    else:
        assert chosen <= max(1, fair_part)


@given(st.integers(0, 1_000_000))
def test_without_an_interval_commits_are_few_and_little_is_lost(batches):
    chosen = choose_chunk_batches(batches, None, 1)
    assert 1 <= chosen <= AUTO_MOST_BATCHES
    assert -(-batches // chosen) <= max(AUTO_CHUNKS, -(-batches // AUTO_MOST_BATCHES))


@pytest.mark.parametrize(
    ("limit", "max_batches", "world_size", "expected"),
    [
        (None, None, 1, 95),
        (40, None, 1, 40),
        (500, None, 1, 95),
        (None, 3, 1, 30),
        (None, 3, 2, 60),
        (None, 50, 2, 95),
        (25, 3, 1, 25),
    ],
)
def test_planned_samples(limit, max_batches, world_size, expected):
    assert planned_samples(95, 10, limit, max_batches, world_size) == expected


@pytest.mark.parametrize("name", ["batch_size", "checkpoint_interval", "limit", "max_batches"])
@pytest.mark.parametrize("value", [0, -1, 2.0, "3", True, np.int64(2)])
def test_sizes_that_describe_no_grid_are_refused_by_name(name, value):
    sizes = {"batch_size": 1, "checkpoint_interval": None, "limit": None, "max_batches": None, name: value}
    with pytest.raises(ConfigError, match=re.escape(f"{name} should be a positive integer, but is {value!r}.")):
        check_sizes(**sizes)


def test_sizes_may_be_left_open():
    check_sizes(1, None, None, None)
    check_sizes(4, 5, 6, 7)
