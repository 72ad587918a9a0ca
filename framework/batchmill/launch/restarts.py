"""When a dead worker is started again, and when its run is given up; pure bookkeeping."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Restarts:
    """Deaths of a run's workers.

    Attributes:
        most: Deaths within ``window`` that are made good; one more and the run is given up.
        window: Seconds for which a death counts.
        first_backoff: Seconds until the first restart; doubled with each further death that counts.
        longest_backoff: Seconds until a restart at most.
    """

    most: int = 5
    window: float = 600.0
    first_backoff: float = 0.5
    longest_backoff: float = 30.0
    _deaths: list[float] = field(default_factory=list)
    _due: dict[int, float] = field(default_factory=dict)

    def died(self, rank: int, now: float) -> float | None:
        """Note a death; return the seconds until the worker's restart, or None if the run is to be given up."""
        recent = [moment for moment in self._deaths if now - moment < self.window]
        self._deaths = [*recent, now]
        if len(recent) >= self.most:
            return None
        backoff = min(self.first_backoff * 2.0 ** len(recent), self.longest_backoff)
        self._due[rank] = now + backoff
        return backoff

    def forgive(self, deaths: int) -> None:
        """Forget the latest deaths; their cause is known."""
        self._deaths = self._deaths[: max(0, len(self._deaths) - deaths)]

    def due(self, now: float) -> list[int]:
        """Return the ranks to start again now; each is returned once."""
        ranks = sorted(rank for rank, moment in self._due.items() if moment <= now)
        for rank in ranks:
            del self._due[rank]
        return ranks

    @property
    def pending(self) -> bool:
        """Whether a restart is still to come."""
        return bool(self._due)

    def cancel(self) -> None:
        """Forget the restarts to come."""
        self._due.clear()
