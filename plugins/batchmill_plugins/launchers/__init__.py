"""How workers are started: ``in_process``, ``local`` and ``environment``."""

from __future__ import annotations

from dataclasses import dataclass

from batchmill import ComponentRegistry, Kind, hookimpl


@dataclass
class NoSettings:
    """A launcher without settings."""


@dataclass
class LocalSettings:
    """Settings of ``local``.

    Attributes:
        nproc: Number of workers on this machine.
        batch_timeout: Seconds for a batch, or ten times as long as the slowest before if that is more, after which its
            worker is taken to hang and is replaced.
    """

    nproc: int = 1
    batch_timeout: float = 60.0


@hookimpl
def register_components(registry: ComponentRegistry) -> None:
    """Register the first-party launchers."""
    registry.add(
        Kind.LAUNCHER,
        "in_process",
        "batchmill:InProcessLauncher",
        schema=NoSettings,
        summary="One worker in this process; for notebooks and debuggers.",
    )
    registry.add(
        Kind.LAUNCHER,
        "local",
        "batchmill:LocalLauncher",
        schema=LocalSettings,
        summary="nproc workers on this machine; dead ones are replaced, and only their chunk is repeated.",
    )
    registry.add(
        Kind.LAUNCHER,
        "environment",
        "batchmill:EnvironmentLauncher",
        schema=NoSettings,
        summary="One worker of a group that torchrun, SLURM or Kubernetes started.",
    )
