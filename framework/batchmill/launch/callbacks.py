"""Building the callbacks of a process: a launcher's hear of progress, a worker's of its batches and chunks."""

from __future__ import annotations

from batchmill.components import ComponentRegistry, Kind
from batchmill.contracts.run import RunRequest
from batchmill.engine.assembly import Assembler


def build_callbacks(request: RunRequest, registry: ComponentRegistry) -> list[tuple[str, object]]:
    """Return the request's callbacks with their config keys, in config order."""
    assembler = Assembler(registry, request.allow_import)
    return [
        (
            f"callbacks.{alias}",
            assembler.build(Kind.CALLBACK, assembler.complete_one(Kind.CALLBACK, f"callbacks.{alias}", item)),
        )
        for alias, item in request.callbacks.items()
    ]
