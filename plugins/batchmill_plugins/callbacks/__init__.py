"""What people see of a run while it goes on: ``progress`` and ``logging``."""

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
