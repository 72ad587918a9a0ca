"""Sweeps: from overrides with several values to one named job for each combination."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hydra.core.override_parser.types import Override

from batchmill import client
from batchmill.components import Kind
from batchmill.contracts.run import RunRequest
from batchmill.errors import ConfigError
from batchmill.models import Model
from batchmill.plugin_manager import Catalog, get_catalog
from batchmill.settings.bind import bind
from batchmill.settings.session import Session, open_session
from batchmill.tracked_values import ALL

VERSION_KEY = "model.version"
# Hydra gives swept values as Python spells them; people and overrides write them so.
_SPELT = {"True": "true", "False": "false"}
# A run id may have 128 characters; this leaves room for the sweep's name.
_LONGEST_LABEL = 60


@dataclass(frozen=True)
class SweepJob:
    """One job of a sweep.

    Attributes:
        swept: The overrides that differ between jobs, key to value as text, in the order given.
        request: What the job runs.
    """

    swept: Mapping[str, str]
    request: RunRequest


@dataclass(frozen=True)
class Sweep:
    """All jobs of a sweep.

    Attributes:
        name: Its name, if the configuration gives it one.
        jobs: The jobs, in order.
    """

    name: str | None
    jobs: Sequence[SweepJob]


def expand(overrides: Sequence[str], catalog: Catalog | None = None, config_dir: str | Path | None = None) -> Sweep:
    """Compose every job of a sweep: the product of all ``a,b``, ``choice()``, ``range()`` and ``glob()``.

    ``model.version=all`` stands for every version of the model that is not archived.

    The product is taken here, with Hydra's own override parser, and not by ``hydra.main`` and its sweeper:
    in Hydra 1.3 that returns None, hands results to callbacks only, and learns that the last job has a typo
    after running all others. Here every job is composed before the first one runs.

    Raises:
        ConfigError: As ``compose``; or a sweep has no values or is given twice, or its jobs share a run id.
        ModelError: ``model.version=all`` is asked for a model that is unknown or has no versions.
    """
    catalog = catalog or get_catalog()
    with open_session(catalog, config_dir) as session:
        jobs, names = [], set[str | None]()
        for lines, swept in product(_all_versions(session, catalog, session.parse(overrides))):
            try:
                tree = session.compose(lines)
                names.add(tree["sweep"]["name"])
                jobs.append(SweepJob(swept, bind(tree, catalog)))
            except ConfigError as error:
                if not swept:
                    raise
                job = " ".join(f"{key}={value}" for key, value in swept.items())
                raise ConfigError(f"Job {job} of the sweep cannot run: {error}") from error
    if len(names) > 1:
        raise ConfigError(f"A sweep has one sweep.name, but {len(names)} are given.")
    (name,) = names
    return Sweep(name, name_runs(name, jobs) if name is not None else checked_runs(jobs))


def product(parsed: Iterable[Override | list[str]]) -> list[tuple[list[str], dict[str, str]]]:
    """Return each job's overrides and, of these, the swept keys with their values.

    Args:
        parsed: Overrides; or the values of ``model.version``, as texts.

    Raises:
        ConfigError: A sweep has no values, cannot be counted, or is given twice.
    """
    axes: list[list[tuple[str, str, str | None]]] = []
    swept_keys: set[str] = set()
    for override in parsed:
        if isinstance(override, list):
            key, line, values = VERSION_KEY, f"{VERSION_KEY}={ALL}", override
        else:
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


def _all_versions(session: Session, catalog: Catalog, parsed: list[Override]) -> Iterable[Override | list[str]]:
    """Replace ``model.version=all`` by the versions there are."""
    asked = [override for override in parsed if override.key_or_group == VERSION_KEY and _says_all(override)]
    if not asked:
        return parsed
    others = [override for override in parsed if override.key_or_group != VERSION_KEY]
    swept = [override.key_or_group for override in others if override.is_sweep_override()]
    for key in ("model.name", "output", "tracker"):
        if any(each == key or each.startswith(f"{key}.") for each in swept):
            raise ConfigError(f"{VERSION_KEY}={ALL} needs one model to ask for its versions, but {key} is swept.")
    first = product(others)[0][0]
    request = bind(session.compose(first), catalog)
    if request.model_name is None:
        raise ConfigError(f"{VERSION_KEY}={ALL} says all versions of no model: give model.name=NAME too.")
    versions = [str(version.version) for version in _model_of(request, catalog).list_versions() if not version.archived]
    if not versions:
        raise ConfigError(f"Model {request.model_name!r} has no versions that are not archived, so there are no jobs.")
    return [versions if override is asked[0] else override for override in parsed]


def _says_all(override: Override) -> bool:
    if not override.is_sweep_override():
        return override.value() == ALL
    if override.is_discrete_sweep() and ALL in override.sweep_string_iterator():
        raise ConfigError(f"{override.input_line}: {ALL!r} is every version already; give it alone.")
    return False


def _model_of(request: RunRequest, catalog: Catalog) -> Model:
    tracker = catalog.registry.get(Kind.TRACKER, request.tracker.name).load()
    with client.use(tracker(request.output, **request.tracker.settings)):
        return client.get_model(str(request.model_name))


def name_runs(sweep: str, jobs: Sequence[SweepJob]) -> list[SweepJob]:
    """Return the jobs with a run id each, made from the sweep's name and what is swept.

    So the same command with the same ``sweep.name`` goes on with the same runs, whichever jobs come to it.

    Args:
        sweep: The sweep's name.
        jobs: Its jobs; one that has a run id keeps it.

    Raises:
        ConfigError: Two jobs come to the same run.
    """
    return checked_runs(
        [
            job
            if job.request.run_id is not None
            else replace(job, request=replace(job.request, run_id=f"{sweep}-{label_of(job.swept)}"))
            for job in jobs
        ]
    )


def label_of(swept: Mapping[str, str]) -> str:
    """Return what tells a job from the others, fit for a run id: ``version-2_batch_size-64``.

    Where characters had to be replaced, or keys shortened to the same word, the beginning of a digest keeps two
    jobs apart.
    """
    words = [key.rpartition(".")[2].rpartition("@")[2] for key in swept]
    plain = "_".join(f"{word}-{value}" for word, value in zip(words, swept.values(), strict=True)) or "job"
    label = re.sub(r"[^A-Za-z0-9._-]+", "-", plain)[:_LONGEST_LABEL]
    if label == plain and len(set(words)) == len(words):
        return label
    digest = hashlib.sha256(json.dumps(dict(swept), sort_keys=True).encode()).hexdigest()
    return f"{label}-{digest[:8]}"


def checked_runs(jobs: Sequence[SweepJob]) -> list[SweepJob]:
    """Return the jobs after checking that no two of them are the same run.

    Raises:
        ConfigError: Two are.
    """
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
    return list(jobs)
