"""Opening a run: build what it reads and writes, freeze or check ``run.json``; no processor, no model."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batchmill import client
from batchmill.components import ComponentRegistry, Kind
from batchmill.contracts.run import RunRequest
from batchmill.contracts.storage import Storage
from batchmill.contracts.tracker import Tracker
from batchmill.engine.assembly import Assembler, open_storage
from batchmill.engine.fingerprint import digest_of, fingerprint_facts
from batchmill.engine.grid import Grid, check_sizes, choose_chunk_batches, planned_samples
from batchmill.engine.policy import check_policy
from batchmill.engine.reading import check_dataset
from batchmill.engine.run_directory import (
    RunDirectory,
    check_fingerprint,
    check_run_id,
    join_url,
    open_existing,
    open_or_create,
)
from batchmill.engine.serialization import canonical_json
from batchmill.errors import ConfigError, RunNotFoundError, StorageError
from batchmill.models import ModelVersion


@dataclass(frozen=True)
class OpenedRun:
    """A run that is open, with what was assembled to open it."""

    request: RunRequest
    assembler: Assembler
    directory: RunDirectory
    dataset: Any
    tracker: Tracker
    model_version: ModelVersion | None


@dataclass(frozen=True)
class RunParts:
    """What a run reads and writes, built but not yet opened."""

    request: RunRequest
    assembler: Assembler
    storage: Storage
    dataset: Any
    tracker: Tracker
    model_version: ModelVersion | None
    grid: Grid
    facts: Mapping[str, Any]


def assemble(request: RunRequest, registry: ComponentRegistry, world_size: int) -> RunParts:
    """Build what a run reads and writes, and check that it can be run. Nothing is written.

    Args:
        request: The run.
        registry: All components.
        world_size: Workers of this launch.

    Raises:
        ConfigError: The request cannot be run.
        StorageError: The storage cannot commit exactly once.
    """
    assembler = Assembler(registry, request.allow_import)
    request = assembler.complete(request)
    if request.run_id is None:
        raise ConfigError("run_id is not set; a launcher sets it before workers open the run.")
    check_run_id(request.run_id)
    check_sizes(request.batch_size, request.checkpoint_interval, request.limit, request.max_batches)
    check_policy(request.on_error, request.on_nonfinite, request.max_errors)
    tracker = assembler.build(Kind.TRACKER, request.tracker, request.output)
    version = find_model_version(request, tracker)
    dataset = assembler.build(Kind.DATASET, request.dataset)
    grid = plan_grid(request, check_dataset(dataset), world_size)
    storage = open_storage(assembler, join_url(request.output, request.run_id), request.storage)
    if not storage.exclusive_create:
        raise StorageError(
            f"Storage at {storage.url} cannot create an object exclusively, so results could not be committed exactly "
            f"once. Choose another storage; 'batchmill doctor' tells what one can do."
        )
    if world_size > 1 and not storage.shared_between_processes:
        raise ConfigError(
            f"Storage at {storage.url} is inside one process, so {world_size} workers would not see each other's "
            f"results. Use one worker, or an output that all of them reach."
        )
    model = None
    if version is not None:
        model = {"name": version.model_name, "version": version.version, "digest": version.checkpoint.digest}
    facts = fingerprint_facts(request, registry, dataset, model)
    return RunParts(request, assembler, storage, dataset, tracker, version, grid, facts)


def open_run(request: RunRequest, registry: ComponentRegistry, world_size: int) -> OpenedRun:
    """Assemble what a run reads and writes, and create or resume it. No processor or model is built.

    Args:
        request: The run; its ``run_id`` is set.
        registry: All components.
        world_size: Workers of this launch.

    Raises:
        ConfigError: The request cannot be run.
        ConfigMismatchError: The run exists with other settings or data.
    """
    parts = assemble(request, registry, world_size)
    directory = open_or_create(
        parts.storage,
        str(parts.request.run_id),
        facts=parts.facts,
        grid=parts.grid,
        config=describe_request(parts.request),
        versions={name: importlib.metadata.version(name) for name in ("batchmill", "torch", "numpy")},
    )
    return OpenedRun(parts.request, parts.assembler, directory, parts.dataset, parts.tracker, parts.model_version)


def check_same(existing: RunDirectory, request: RunRequest, registry: ComponentRegistry) -> None:
    """Check that a run has the settings and data of a request; the dataset is built for it.

    Raises:
        ConfigError: The request cannot be run.
        ConfigMismatchError: The run was begun with other settings or data.
    """
    check_fingerprint(existing, json.loads(canonical_json(assemble(request, registry, 1).facts)))


def plan_grid(request: RunRequest, length: int, world_size: int) -> Grid:
    """Return the grid that a first launch would freeze."""
    samples = planned_samples(length, request.batch_size, request.limit, request.max_batches, world_size)
    batches = -(-samples // request.batch_size)
    return Grid(samples, request.batch_size, choose_chunk_batches(batches, request.checkpoint_interval, world_size))


def find_model_version(request: RunRequest, tracker: Tracker) -> ModelVersion | None:
    """Return the model version that config links, after checking that its files are unchanged.

    Raises:
        ModelError: The model or version is unknown, or its files were changed.
    """
    if request.model_name is None:
        return None
    with client.use(tracker):
        version = client.get_model(request.model_name).get_version(
            -1 if request.model_version in (None, "latest") else request.model_version
        )
        version.checkpoint.verify()
    return version


def describe_request(request: RunRequest) -> Mapping[str, Any]:
    """Return the request as JSON for ``run.json``; Python objects are described, and so cannot be resumed from it."""
    try:
        return {"request": request.to_json()}
    except ConfigError:
        return {
            "python": {
                key: selection.name or "python"
                if selection.instance is None
                else getattr(selection.instance, "__qualname__", type(selection.instance).__qualname__)
                for key, selection in request.selections()
            }
        }


def plan_run(request: RunRequest, registry: ComponentRegistry, world_size: int) -> dict[str, Any]:
    """Return what a run would do; nothing is created.

    Args:
        request: The run.
        registry: All components.
        world_size: Workers it would have.

    Raises:
        ConfigMismatchError: The run exists with other settings or data.
    """
    parts = assemble(request, registry, world_size)
    facts = json.loads(canonical_json(parts.facts))
    grid, committed = parts.grid, set[int]()
    try:
        existing = open_existing(parts.storage, working=True)
    except RunNotFoundError:
        pass  # the usual case: a plan for a run to come
    else:
        check_fingerprint(existing, facts)
        grid, committed = existing.grid, existing.log.committed()
    return {
        "run_id": request.run_id,
        "path": parts.storage.url,
        "samples": grid.samples,
        "batch_size": grid.batch_size,
        "chunk_batches": grid.chunk_batches,
        "batches": grid.batches,
        "chunks": grid.chunks,
        "committed_chunks": len(committed),
        "writer": request.writer.name,
        "workers": world_size,
        "fingerprint": digest_of(facts),
    }
