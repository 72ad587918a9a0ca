"""How chunks are shared among workers: ``static`` and ``dynamic``."""

from __future__ import annotations

from dataclasses import dataclass

from batchmill import ComponentRegistry, Kind, hookimpl


@dataclass
class ClaimsSettings:
    """Claims take no settings."""


@hookimpl
def register_components(registry: ComponentRegistry) -> None:
    """Register the first-party claims."""
    registry.add(
        Kind.CLAIMS,
        "static",
        "batchmill:StaticClaims",
        schema=ClaimsSettings,
        summary="Chunk c belongs to rank c mod world size, as in the seed.",
    )
    registry.add(
        Kind.CLAIMS,
        "dynamic",
        "batchmill:DynamicClaims",
        schema=ClaimsSettings,
        summary="Workers take the next free chunk when they have time.",
    )
