"""Seeds that once failed, in ``regressions.json``; the per-change tests replay them.

A seed decides every turn and fault, but which step it meets them at depends on the code. After a change to the engine
the same seed is another schedule: a bug that was found also gets a test of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

_FILE = Path(__file__).parent / "regressions.json"
_SHOWN = 300  # characters of a violation
_MOST = 20  # of one campaign: what breaks everything needs no thousand examples


def known_failures() -> dict[int, str]:
    """Return seeds with what they violated when they were found."""
    return {int(seed): why for seed, why in json.loads(_FILE.read_text()).items()}


def remember(violations: Mapping[int, list[str]]) -> Path:
    """Add seeds that failed, as far as they are not too many, and return the file that keeps them."""
    found = known_failures()
    for seed, violated in sorted(violations.items())[:_MOST]:
        found.setdefault(seed, violated[0][:_SHOWN])
    _FILE.write_text(json.dumps({str(seed): found[seed] for seed in sorted(found)}, indent=2) + "\n")
    return _FILE
