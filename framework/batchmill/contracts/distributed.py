"""Where a worker stands among its peers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DistributedContext:
    """Rank and size of this worker, as in torch.distributed, with the seed's names.

    Attributes:
        rank: Number of this worker among all, from 0.
        size: Number of workers in all (the world size).
        local_rank: Number of this worker on its machine, from 0; chooses the CUDA device.
        local_size: Number of workers on this machine.
        cross_rank: Number of this machine, from 0.
        cross_size: Number of machines.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    cross_rank: int = 0
    cross_size: int = 1

    def __post_init__(self) -> None:
        for name, number, of in (
            ("rank", self.rank, self.size),
            ("local_rank", self.local_rank, self.local_size),
            ("cross_rank", self.cross_rank, self.cross_size),
        ):
            if not 0 <= number < of:
                raise ValueError(f"{name}={number} is not one of {of} workers; expected 0..{of - 1}.")

    def get_rank(self) -> int:
        """Return this worker's rank."""
        return self.rank

    def get_size(self) -> int:
        """Return the world size."""
        return self.size

    def get_local_rank(self) -> int:
        """Return this worker's rank on its machine."""
        return self.local_rank
