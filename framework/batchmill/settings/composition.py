"""From overrides to run requests: one, or one per job of a sweep."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from batchmill.contracts.run import RunRequest, Selection
from batchmill.errors import ConfigError
from batchmill.plugin_manager import Catalog, get_catalog
from batchmill.settings.bind import as_config, bind
from batchmill.settings.root import GROUPS, NAME_KEY, NAMED_KINDS
from batchmill.settings.safety import refuse_code
from batchmill.settings.session import open_session

# Hydra gives swept values as Python spells them; people and overrides write them so.
_SPELT = {"True": "true", "False": "false"}


@dataclass(frozen=True)
class SweepJob:
    """One job of a sweep.

    Attributes:
        swept: The overrides that differ between jobs, key to value as text, in the order given.
        request: What the job runs.
    """

    swept: Mapping[str, str]
    request: RunRequest


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
        return bind(session.compose(overrides), catalog, given)


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


def expand(
    overrides: Sequence[str], catalog: Catalog | None = None, config_dir: str | Path | None = None
) -> list[SweepJob]:
    """Compose every job of a sweep: the product of all ``a,b``, ``choice()``, ``range()`` and ``glob()``.

    The product is taken here, with Hydra's own override parser, and not by ``hydra.main`` and its sweeper:
    in Hydra 1.3 that returns None, hands results to callbacks only, and learns that the last job has a typo
    after running all others. Here every job is composed before the first one runs.

    Raises:
        ConfigError: As ``compose``; or a sweep has no values or is given twice, or its jobs share a run id.
    """
    catalog = catalog or get_catalog()
    with open_session(catalog, config_dir) as session:
        jobs = []
        for lines, swept in product(session.parse(overrides)):
            try:
                jobs.append(SweepJob(swept, bind(session.compose(lines), catalog)))
            except ConfigError as error:
                if not swept:
                    raise
                job = " ".join(f"{key}={value}" for key, value in swept.items())
                raise ConfigError(f"Job {job} of the sweep cannot run: {error}") from error
    _refuse_shared_run_ids(jobs)
    return jobs


def product(parsed: list[Override]) -> list[tuple[list[str], dict[str, str]]]:
    """Return each job's overrides and, of these, the swept keys with their values.

    Raises:
        ConfigError: A sweep has no values, cannot be counted, or is given twice.
    """
    axes: list[list[tuple[str, str, str | None]]] = []
    swept_keys: set[str] = set()
    for override in parsed:
        key, line = override.get_key_element(), override.input_line or ""
        if not override.is_sweep_override():
            axes.append([(key, line, None)])
            continue
        if not override.is_discrete_sweep():
            raise ConfigError(f"{line} cannot be counted: use a list (1,2,3), choice(), range() or glob().")
        values = [_SPELT.get(value, value) for value in override.sweep_string_iterator()]
        if not values:
            raise ConfigError(f"{line} matches nothing, so the sweep has no jobs.")
        swept_keys.add(key)
        axes.append([(key, f"{key}={value}", value) for value in values])
    keys = [axis[0][0] for axis in axes]
    for key in swept_keys:
        if keys.count(key) > 1:
            raise ConfigError(f"{key} is swept and given a second time; keep one of them.")
    return [
        ([line for _, line, _ in job], {key.lstrip("+"): value for key, _, value in job if value is not None})
        for job in itertools.product(*axes)
    ]


def _refuse_shared_run_ids(jobs: list[SweepJob]) -> None:
    seen: dict[tuple[str, str], SweepJob] = {}
    for job in jobs:
        if job.request.run_id is None:
            continue
        if seen.setdefault((job.request.output, job.request.run_id), job) is not job:
            key = next(iter(job.swept), "KEY")
            raise ConfigError(
                f"run_id={job.request.run_id} is the same for several jobs of the sweep, which need a run "
                f"each: leave it out, or make it differ, as in 'run_id={job.request.run_id}-${{{key}}}'."
            )


def to_yaml(config: Mapping[str, Any]) -> str:
    """Return a plain mapping as YAML, keys in their order."""
    return OmegaConf.to_yaml(OmegaConf.create(dict(config)))
