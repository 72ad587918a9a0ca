"""What people see of a run while it goes on, ``progress`` and ``logging``, and ``deadline``, which ends it in time."""

from __future__ import annotations

from dataclasses import dataclass

from batchmill import ComponentRegistry, Kind, hookimpl, setting


@dataclass
class ProgressSettings:
    """Settings of ``progress``.

    Attributes:
        every: Seconds between lines where the output is not a terminal.
        per_worker: Whether to show a line per worker, where there are several.
    """

    every: float = setting(default=10.0, fingerprint=False)
    per_worker: bool = setting(default=True, fingerprint=False)


@dataclass
class LoggingSettings:
    """Settings of ``logging``.

    Attributes:
        level: Level of the logger ``batchmill``: DEBUG tells each committed chunk, INFO start, end and errors.
    """

    level: str = setting(default="INFO", fingerprint=False)


@dataclass
class DeadlineSettings:
    """Settings of ``deadline``. Whatever comes first stops the run; each worker looks at the end of each chunk.

    Attributes:
        minutes: Minutes from the worker's start; null for none.
        at: A moment: seconds since 1970, or ISO 8601, as in ``2026-01-31T18:30`` (this machine's time); null for none.
        margin: Seconds before ``at`` at which to stop.
        file: A file whose appearance means "stop", on a file system that all workers see; empty for none.
    """

    minutes: float | None = setting(default=None, fingerprint=False)
    at: int | float | str | None = setting(default=None, fingerprint=False)
    margin: float = setting(default=60.0, fingerprint=False)
    file: str = setting(default="", fingerprint=False)


@hookimpl
def register_components(registry: ComponentRegistry) -> None:
    """Register the first-party callbacks."""
    registry.add(
        Kind.CALLBACK,
        "progress",
        "batchmill_plugins.callbacks._progress:ProgressCallback",
        schema=ProgressSettings,
        summary="Shows samples done, rate and time left; a bar on a terminal, lines elsewhere.",
    )
    registry.add(
        Kind.CALLBACK,
        "logging",
        "batchmill_plugins.callbacks._logging:LoggingCallback",
        schema=LoggingSettings,
        summary="Tells Python's logging what happens on each worker.",
    )
    registry.add(
        Kind.CALLBACK,
        "deadline",
        "batchmill_plugins.callbacks._deadline:DeadlineCallback",
        schema=DeadlineSettings,
        summary="Stops the run, resumable, after a time, before a moment, or when a file appears.",
    )
