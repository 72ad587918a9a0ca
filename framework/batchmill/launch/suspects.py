"""Which chunks kill the workers that process them; pure bookkeeping."""

from __future__ import annotations

# Deaths of workers in one chunk that may be chance: a kill from outside, a machine short of memory.
_CHANCE = 1


class Suspects:
    """Counts the workers that died, or hung, while they processed a chunk."""

    def __init__(self) -> None:
        self._deaths: dict[int, int] = {}

    @property
    def chunks(self) -> list[int]:
        """Chunks that are tried in a process of their own before a worker touches them, ascending."""
        return sorted(chunk for chunk, deaths in self._deaths.items() if deaths > _CHANCE)

    def died(self, chunk: int | None) -> bool:
        """Note a death; return whether this makes the chunk a suspect.

        Args:
            chunk: The chunk that the worker was processing; None if it was not.
        """
        if chunk is None:
            return False
        self._deaths[chunk] = self._deaths.get(chunk, 0) + 1
        return self._deaths[chunk] == _CHANCE + 1
