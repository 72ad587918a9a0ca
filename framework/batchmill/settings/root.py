"""The top of the composed configuration: its keys, their types and their ranges."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from batchmill.components import PLAIN_KINDS, Kind
from batchmill.engine.policy import check_policy
from batchmill.errors import ConfigError

# All kinds with a config group; those of which a run has any number, each under a name; and the others.
GROUPS: tuple[Kind, ...] = tuple(kind for kind in Kind if kind not in PLAIN_KINDS)
NAMED_KINDS: tuple[Kind, ...] = (Kind.REDUCER, Kind.CALLBACK)
SINGLE_KINDS: tuple[Kind, ...] = tuple(kind for kind in GROUPS if kind not in NAMED_KINDS)
# Key of a component's own name inside its config group.
NAME_KEY = "name"

_NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass
class ModelConfig:
    """Which registered model the run uses."""

    name: str | None = None
    version: int | str | None = None


@dataclass
class SweepConfig:
    """What is said about a sweep as a whole; ``-m`` only."""

    name: str | None = None


# What the configuration of one run has there.
NO_SWEEP = {"name": None}


@dataclass
class RootConfig:
    """Everything at the top that is no component; ``conf/batchmill_conf/config.yaml`` explains each key."""

    output: str = "runs"
    run_id: str | None = None
    batch_size: int = 32
    checkpoint_interval: int | None = None
    limit: int | None = None
    max_batches: int | None = None
    on_error: str = "quarantine"
    on_nonfinite: str = "keep"
    max_errors: int | None = None
    seed: int = 0
    device: str = "auto"
    threads: int | None = 1
    profile: bool = False
    allow_import: bool = False
    join: bool = False
    hparams: dict[str, Any] = field(default_factory=dict)
    loader: dict[str, Any] = field(default_factory=lambda: {"num_workers": 0})
    model: ModelConfig = field(default_factory=ModelConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)


FREE_MAPPINGS = ("hparams", "loader")


def check_ranges(root: Mapping[str, Any]) -> None:
    """Check what types alone cannot say.

    Args:
        root: Plain values of ``RootConfig``'s keys.

    Raises:
        ConfigError: A value is out of its range; the message names the key and the range.
    """
    for key in ("batch_size", "checkpoint_interval", "limit", "max_batches", "threads"):
        if root[key] is not None and root[key] < 1:
            raise ConfigError(f"{key}={root[key]} is out of range: expected a whole number of at least 1.")
    check_policy(root["on_error"], root["on_nonfinite"], root["max_errors"])
    if not 0 <= root["seed"] < 2**32:
        raise ConfigError(f"seed={root['seed']} is out of range: expected 0 to {2**32 - 1}.")
    for key, name, longest in (("run_id", root["run_id"], 128), ("sweep.name", root["sweep"]["name"], 50)):
        if name is not None and (not _NAME.fullmatch(name) or not name.strip(".") or len(name) > longest):
            raise ConfigError(
                f"{key}={name!r} cannot name a {'run' if key == 'run_id' else 'sweep'}: expected 1 to {longest} "
                f"letters, digits, '.', '_' and '-', and not dots alone."
            )
    for key in ("output", "device"):
        if not root[key].strip():
            raise ConfigError(f"{key} is empty: expected {'a directory or URL' if key == 'output' else 'a device'}.")
    workers = root["loader"].get("num_workers", 0)
    if not isinstance(workers, int) or isinstance(workers, bool) or workers < 0:
        raise ConfigError(f"loader.num_workers={workers!r} is out of range: expected a whole number of at least 0.")
    if root["model"]["version"] is not None and root["model"]["name"] is None:
        raise ConfigError(
            f"model.version={root['model']['version']} says a version of no model: give model.name=NAME too."
        )
