"""Which faults a schedule suffers, when, and how many of each were really injected."""

from __future__ import annotations

import errno
import os
import random
from collections import Counter
from dataclasses import dataclass
from typing import Final

# Faults that strike between two steps.
KILL, KILL_OTHER, KILL_LAUNCH, KILL_ALL, POWER_LOSS = "kill", "kill another", "kill a launch", "kill all", "power loss"
PAUSE, ZOMBIE, CLOCK, PREEMPT = "pause", "zombie", "clock jump", "preemption"
STRIKES: Final = (KILL, KILL_OTHER, KILL_LAUNCH, KILL_ALL, POWER_LOSS, PAUSE, ZOMBIE, CLOCK, PREEMPT)
_STRIKE_WEIGHTS: Final = (6, 2, 2, 2, 4, 5, 3, 1, 2)

# Faults of storage: of system calls, and of requests.
ERROR_BEFORE, ERROR_AFTER, DISK_FULL, SHORT_WRITE = "EIO before", "EIO after", "ENOSPC", "short write"
REFUSED, CONFLICT, UNCLEAR, LATE, REPEATED, STALE = (
    "503 before", "409 before", "time-out after", "time-out, applied late", "sent twice", "stale list",
)  # fmt: skip
REQUEST_FATES: Final = {REFUSED: "before", CONFLICT: "conflict", UNCLEAR: "after", LATE: "late", REPEATED: "repeated"}

# How a schedule is made up; counted like faults, for a campaign without them would prove less.
DOUBLE_LAUNCH, OTHER_SIZE, RESUME, LATE_ZOMBIE, LAST_POWER_LOSS = (
    "double launch",
    "other worker count",
    "resume",
    "zombie woken at the end",
    "power loss at the end",
)
STRANGER: Final = "launch with other settings"
BAD_SAMPLE: Final = "sample that fails"
RETRY: Final = "retry of failed samples"
CLASSES: Final = (
    *STRIKES, ERROR_BEFORE, ERROR_AFTER, DISK_FULL, SHORT_WRITE, *REQUEST_FATES, STALE,
    DOUBLE_LAUNCH, OTHER_SIZE, RESUME, LATE_ZOMBIE, LAST_POWER_LOSS, STRANGER, BAD_SAMPLE, RETRY,
)  # fmt: skip

# Protocols break at changes, and even more between a change and the moment when it is known to be durable.
_CRITICAL: Final = frozenset(["link", "rename", "fsync", "create", "put", "delete"])
_CRITICAL_FACTOR: Final = 3.0
_HALF_DONE_FACTOR: Final = 8.0
# Some schedules spare the rest of the run, and wait for such a moment of one kind of file.
_FOCUSES: Final = ("", "", "", "", "result.json", "_SUCCESS", "commits/", "commits/", "run.json", "parts/")
_FOCUS_FACTOR: Final = 30.0
_ELSEWHERE_FACTOR: Final = 0.2


@dataclass(frozen=True)
class FaultProfile:
    """How rough a schedule is.

    Attributes:
        strike_rate: Chance of a strike at a step.
        strikes: Strikes that may happen, with their weights.
        most_strikes: Strikes at most.
        focus: Beginning of the paths whose half-done changes attract strikes; empty for none.
        storage_rate: Chance of a storage fault at a call.
        disk_full_rate: Chance that the disk becomes full at a call.
    """

    strike_rate: float
    strikes: dict[str, int]
    most_strikes: int
    focus: str
    storage_rate: float
    disk_full_rate: float

    @classmethod
    def draw(cls, rng: random.Random) -> FaultProfile:
        """Draw a profile; some schedules have only interleavings."""
        rate = rng.choice((0.0, 0.003, 0.006, 0.01, 0.02, 0.03))
        weights = {kind: weight for kind, weight in zip(STRIKES, _STRIKE_WEIGHTS, strict=True) if rng.random() < 0.7}
        return cls(
            strike_rate=rate if weights else 0.0,
            strikes=weights,
            most_strikes=rng.randint(1, 8),
            focus=rng.choice(_FOCUSES),
            storage_rate=rng.choice((0.0, 0.0, 0.005, 0.02, 0.08)),
            disk_full_rate=rng.choice((0.0, 0.0, 0.0, 0.003)),
        )


class Faults:
    """Draws faults from a profile and counts those that were injected.

    Args:
        profile: How rough it is.
        rng: Decides.
    """

    def __init__(self, profile: FaultProfile, rng: random.Random) -> None:
        self.profile, self._rng = profile, rng
        self.injected: Counter[str] = Counter()
        self.active = False
        self._strikes = self._disk_full_calls = 0
        self._kinds, self._weights = list(profile.strikes), list(profile.strikes.values())

    def begin(self) -> None:
        """Let faults strike from now on, as many as the profile allows."""
        self.active, self._strikes, self._disk_full_calls = True, 0, 0

    def strike(self, verb: str, half_done: str) -> str | None:
        """Return the fault that strikes at a step, if any.

        Args:
            verb: What the process is about to do.
            half_done: Path of what it has changed last, if it does not know yet that it is durable; else empty.
        """
        profile = self.profile
        if self._strikes >= profile.most_strikes:
            return None
        if self._rng.random() >= profile.strike_rate * self._weight(verb, half_done):
            return None
        self._strikes += 1
        return self._rng.choices(self._kinds, self._weights)[0]

    def _weight(self, verb: str, half_done: str) -> float:
        focus = self.profile.focus
        if focus:
            return _FOCUS_FACTOR if half_done.startswith(focus) else _ELSEWHERE_FACTOR
        if half_done:
            return _HALF_DONE_FACTOR
        return _CRITICAL_FACTOR if verb in _CRITICAL else 1.0

    def pause(self) -> float:
        """Return the seconds of a pause: from a hiccup to longer than anyone's patience."""
        return float(10 ** self._rng.uniform(-2, 2.5))

    def jump(self) -> float:
        """Return the seconds of a clock jump."""
        return float(10 ** self._rng.uniform(-1, 4))

    def before_call(self, call: str, path: str) -> OSError | None:
        """Return the error that a system call fails with, without effect."""
        if call in ("create", "write", "link", "mkdir"):
            if self._disk_full_calls == 0 and self._rng.random() < self.profile.disk_full_rate:
                self._disk_full_calls = self._rng.randint(1, 40)
            if self._disk_full_calls:
                self._disk_full_calls -= 1
                return self._failed(DISK_FULL, errno.ENOSPC, path)
        if self._rng.random() < self.profile.storage_rate:
            return self._failed(ERROR_BEFORE, errno.EIO, path)
        return None

    def after_call(self, path: str) -> OSError | None:
        """Return the error that a system call fails with although it was carried out."""
        if self._rng.random() < self.profile.storage_rate:
            return self._failed(ERROR_AFTER, errno.EIO, path)
        return None

    def write_size(self, size: int) -> int:
        """Return how many of ``size`` bytes a write takes."""
        if self.active and size > 1 and self._rng.random() < self.profile.storage_rate:
            self.injected[SHORT_WRITE] += 1
            return self._rng.randint(1, size - 1)
        return size

    def request_fate(self, verb: str) -> str:
        """Return what happens to a request to an object store: "" or a word that the server knows."""
        if not self.active or self._rng.random() >= 2 * self.profile.storage_rate:
            return ""
        if verb in ("get", "head"):
            fate = REFUSED
        elif verb == "list":
            fate = self._rng.choice((REFUSED, STALE))
        else:
            fate = self._rng.choice(list(REQUEST_FATES))
        self.injected[fate] += 1
        return "stale" if fate == STALE else REQUEST_FATES[fate]

    def _failed(self, fault: str, number: int, path: str) -> OSError:
        self.injected[fault] += 1
        return OSError(number, os.strerror(number), path)
