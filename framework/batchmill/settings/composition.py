"""From overrides, or a plain mapping, to a run request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from batchmill.contracts.run import RunRequest, Selection
from batchmill.errors import ConfigError
from batchmill.plugin_manager import Catalog, get_catalog
from batchmill.settings.bind import as_config, bind
from batchmill.settings.root import GROUPS, NAME_KEY, NAMED_KINDS, NO_SWEEP
from batchmill.settings.safety import refuse_code
from batchmill.settings.session import open_session
from batchmill.tracked_values import ALL


def compose(
    overrides: Sequence[str],
    catalog: Catalog | None = None,
    config_dir: str | Path | None = None,
    *,
    given: Mapping[str, Selection] | None = None,
) -> RunRequest:
    """Compose one run from command-line overrides.

    Args:
        overrides: ``key=value`` in Hydra's grammar; ``processor=NAME`` selects a component or a preset.
        catalog: Where names are looked up; the process's own by default.
        config_dir: Folder with presets of the user's own (``<config_dir>/<kind>/<preset>.yaml``).
        given: Config key (``processor``, ``dataset``, ...) to a selection made in Python, which wins.

    Raises:
        ConfigError: Something is unknown, missing, of the wrong type, or would run code.
    """
    catalog = catalog or get_catalog()
    with open_session(catalog, config_dir) as session:
        tree = session.compose(overrides)
    if tree["sweep"] != NO_SWEEP:
        raise ConfigError("sweep.* is about several runs, and this is one: add -m (--multirun), or leave it out.")
    if tree["model"]["version"] == ALL:
        raise ConfigError("model.version=all is one job for each version: add -m (--multirun), or name one version.")
    return bind(tree, catalog, given)


def compose_config(
    overrides: Sequence[str], catalog: Catalog | None = None, config_dir: str | Path | None = None
) -> dict[str, Any]:
    """Return the composed, resolved and checked configuration as plain values, for printing.

    Raises:
        ConfigError: As ``compose``.
    """
    return as_config(compose(overrides, catalog, config_dir))


def from_mapping(
    config: Mapping[str, Any],
    catalog: Catalog | None = None,
    config_dir: str | Path | None = None,
    *,
    given: Mapping[str, Selection] | None = None,
) -> RunRequest:
    """Compose one run from a plain mapping in the shape that ``compose_config`` returns.

    Args:
        config: Top-level keys, and per kind a name, or a mapping of ``name`` and settings (without ``name``,
            settings of the default component). ``reducers`` and ``callbacks`` are a list of names, or a
            mapping of such entries. What is left out has the default of ``config.yaml``.
        catalog: Where names are looked up; the process's own by default.
        config_dir: Folder with presets of the user's own.
        given: Config key to a selection made in Python, which wins.

    Raises:
        ConfigError: As ``compose``.
    """
    catalog = catalog or get_catalog()
    refuse_code(dict(config))
    with open_session(catalog, config_dir) as session:
        tree = session.compose([])
    kinds = {kind.value: kind for kind in GROUPS}
    for key, value in config.items():
        kind, default = kinds.get(key), tree.get(key)
        if kind in NAMED_KINDS and isinstance(value, (list, tuple)):
            tree[key] = {str(name): name for name in value}
        elif kind not in NAMED_KINDS and isinstance(value, Mapping) and isinstance(default, Mapping):
            replaces = kind is not None and NAME_KEY in value
            tree[key] = dict(value) if replaces else {**default, **value}
        else:
            tree[key] = value
    return bind(tree, catalog, given)


def to_yaml(config: Mapping[str, Any]) -> str:
    """Return a plain mapping as YAML, keys in their order."""
    return OmegaConf.to_yaml(OmegaConf.create(dict(config)))
