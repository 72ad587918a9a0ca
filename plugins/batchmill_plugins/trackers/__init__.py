"""Where models, versions and metrics are kept: an SQLite file beside the runs."""

from __future__ import annotations

from dataclasses import dataclass

import batchmill


@dataclass
class SqliteSettings:
    """Settings of ``tracker=sqlite``.

    Attributes:
        path: The database file. Empty: ``batchmill.sqlite`` in the output directory; for an output that is a
            URL, a file of its own in ``$XDG_DATA_HOME/batchmill`` (``~/.local/share/batchmill``).
    """

    path: str = batchmill.setting(fingerprint=False, default="")


@batchmill.hookimpl
def register_components(registry: batchmill.ComponentRegistry) -> None:
    """Register the first-party trackers."""
    registry.add(
        batchmill.Kind.TRACKER,
        "sqlite",
        "batchmill_plugins.trackers._sqlite:SqliteTracker",
        schema=SqliteSettings,
        summary="Models and metrics in one SQLite file beside the runs; no server.",
    )
