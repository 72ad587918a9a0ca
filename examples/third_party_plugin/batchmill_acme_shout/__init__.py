"""A processor that shouts: the light part, which every ``batchmill`` command imports.

Nothing here imports torch; what does lies in ``_shout.py`` and is imported when a run has chosen it.
"""

from __future__ import annotations

from dataclasses import dataclass

import batchmill


@dataclass
class ShoutSettings:
    """Settings of ``processor=shout``.

    Attributes:
        column: Batch column with the texts.
        marks: Exclamation marks to add.
    """

    column: str = "text"
    marks: int = 1


@batchmill.hookimpl
def register_components(registry: batchmill.ComponentRegistry) -> None:
    """Register the processor under the name that config uses."""
    registry.add(
        batchmill.Kind.PROCESSOR,
        "shout",
        "batchmill_acme_shout._shout:ShoutProcessor",
        schema=ShoutSettings,
        summary="Turns texts into capitals, with exclamation marks.",
    )


@batchmill.hookimpl
def config_packages() -> list[str]:
    """Name the package with our presets: ``conf/processor/shout_loud.yaml`` is ``processor=shout_loud``."""
    return ["batchmill_acme_shout.conf"]
