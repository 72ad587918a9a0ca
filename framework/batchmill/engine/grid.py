"""The fixed grid of batches and chunks: pure arithmetic on sample indices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from batchmill.errors import ConfigError

# Chunks wanted at least, so that this many workers have work on a small dataset. A constant, and not the world
# size, because the size of chunks decides how float partials are grouped: runs begun on 1..8 workers must agree
# in every bit. Only with more workers than this does the world size at first launch count.
MIN_CHUNKS = 8
# Chosen when no checkpoint interval is asked for: few enough commits to cost nothing, many enough to lose little.
AUTO_CHUNKS = 64
AUTO_MOST_BATCHES = 128


@dataclass(frozen=True)
class Grid:
    """Samples 0..samples-1 cut into batches of ``batch_size`` and chunks of ``chunk_batches`` batches.

    Nothing here depends on rank, world size or resume. The last batch and the last chunk may be shorter; nothing is
    padded, dropped or repeated.
    """

    samples: int
    batch_size: int
    chunk_batches: int

    @property
    def batches(self) -> int:
        """Number of batches."""
        return -(-self.samples // self.batch_size)

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return -(-self.batches // self.chunk_batches)

    def batch_range(self, batch: int) -> tuple[int, int]:
        """Return the samples ``[start, stop)`` of a batch."""
        start = batch * self.batch_size
        return start, min(start + self.batch_size, self.samples)

    def chunk_batch_range(self, chunk: int) -> tuple[int, int]:
        """Return the batches ``[first, end)`` of a chunk."""
        first = chunk * self.chunk_batches
        return first, min(first + self.chunk_batches, self.batches)

    def chunk_range(self, chunk: int) -> tuple[int, int]:
        """Return the samples ``[start, stop)`` of a chunk."""
        first, end = self.chunk_batch_range(chunk)
        return first * self.batch_size, min(end * self.batch_size, self.samples)

    def chunk_of_batch(self, batch: int) -> int:
        """Return the chunk that holds a batch."""
        return batch // self.chunk_batches

    def samples_in(self, chunks: Iterable[int]) -> int:
        """Return how many samples the given chunks hold together."""
        return sum(stop - start for start, stop in map(self.chunk_range, chunks))


def choose_chunk_batches(batches: int, checkpoint_interval: int | None, world_size: int) -> int:
    """Return k, the number of batches per chunk, to be frozen at the first launch.

    Args:
        batches: Batches in the run.
        checkpoint_interval: Batches per chunk asked for; None chooses from ``batches`` alone.
        world_size: Workers of the first launch; counts only above ``MIN_CHUNKS``.
    """
    if checkpoint_interval is None:
        checkpoint_interval = min(-(-batches // AUTO_CHUNKS), AUTO_MOST_BATCHES)
    so_that_all_have_work = -(-batches // max(MIN_CHUNKS, world_size))
    return max(1, min(checkpoint_interval, so_that_all_have_work))


def planned_samples(length: int, batch_size: int, limit: int | None, max_batches: int | None, world_size: int) -> int:
    """Return how many of the dataset's samples the run covers.

    Args:
        length: Length of the dataset.
        batch_size: Samples per batch.
        limit: Only the first so many samples.
        max_batches: At most so many batches per worker, as in the seed, so ``max_batches * world_size`` in all.
        world_size: Workers of the first launch.
    """
    samples = length if limit is None else min(length, limit)
    if max_batches is not None:
        samples = min(samples, max_batches * world_size * batch_size)
    return samples


def check_sizes(batch_size: int, checkpoint_interval: int | None, limit: int | None, max_batches: int | None) -> None:
    """Refuse sizes that describe no grid.

    Raises:
        ConfigError: A size is not a positive whole number.
    """
    for name, value in (
        ("batch_size", batch_size),
        ("checkpoint_interval", checkpoint_interval),
        ("limit", limit),
        ("max_batches", max_batches),
    ):
        if value is None and name != "batch_size":
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name} should be a positive integer, but is {value!r}.")


def intervals(grid: Grid, chunks: Iterable[int]) -> list[tuple[int, int]]:
    """Return the sample ranges ``[start, stop)`` that the chunks cover, ascending, neighbours joined."""
    joined: list[tuple[int, int]] = []
    for chunk in sorted(chunks):
        start, stop = grid.chunk_range(chunk)
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return joined
