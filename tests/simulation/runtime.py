"""The simulation that is going on, for the stand-ins that the code under test calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .simulation import Simulation

_active: Simulation | None = None


def active() -> Simulation:
    """Return the simulation that is going on."""
    assert _active is not None, "the code under test ran outside of a simulation"
    return _active


def activate(simulation: Simulation | None) -> None:
    """Make a simulation the one that is going on; None ends it."""
    global _active
    _active = simulation
