"""What can change a run's results, as flat facts with one digest; a resume with other facts is refused."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

from batchmill.components import ComponentRegistry, Kind
from batchmill.contracts.dataset import Identified
from batchmill.contracts.run import RunRequest, Selection
from batchmill.engine.confidential import refuse_plain_secrets
from batchmill.engine.serialization import canonical_json, sha256_hex
from batchmill.errors import ConfigError

# Rows of in-memory data that stand for its contents; reading all of it at every start would cost too much.
_SAMPLED_ROWS = 64


def fingerprint_facts(
    request: RunRequest, registry: ComponentRegistry, dataset: Any, model: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return everything that may change results, as flat keys.

    World size, loader workers, logging, launcher and credentials are left out on purpose.

    Args:
        request: The run asked for.
        registry: Tells where named components come from.
        dataset: The built dataset.
        model: Name, version and digest of the linked model version, if there is one.

    Raises:
        ConfigError: A value is not JSON, so it could not be compared on resume, or is a secret in plain text; the
            message names its key.
    """
    _refuse_plain_secrets(request)
    facts: dict[str, Any] = {
        "batch_size": request.batch_size,
        "checkpoint_interval": request.checkpoint_interval,
        "limit": request.limit,
        "max_batches": request.max_batches,
        "on_nonfinite": request.on_nonfinite,
        "seed": request.seed,
        "threads": request.threads,
        "dataset.length": len(dataset),
        "dataset.identity": dataset_identity(dataset),
    }
    for name in sorted(model or {}):
        facts[f"model.{name}"] = (model or {})[name]
    chosen = [
        (Kind.PROCESSOR, "processor", request.processor),
        (Kind.DATASET, "dataset", request.dataset),
        (Kind.WRITER, "writer", request.writer),
        *((Kind.REDUCER, f"reducers.{alias}", selection) for alias, selection in request.reducers.items()),
    ]
    for kind, key, selection in chosen:
        facts.update(_selection_facts(kind, key, selection, registry))
    for name in sorted(request.hparams):
        facts[f"hparams.{name}"] = request.hparams[name]
    for key, value in facts.items():
        _check_json(f"identity() of dataset {type(dataset).__qualname__}" if key == "dataset.identity" else key, value)
    return facts


def _refuse_plain_secrets(request: RunRequest) -> None:
    """Refuse them before anything of the request is written; of a secret by reference, the reference is a fact."""
    for key, selection in request.selections():
        refuse_plain_secrets(selection.settings, key)
    refuse_plain_secrets({"output": request.output, "hparams": request.hparams, "loader": request.loader}, "")


def digest_of(facts: Mapping[str, Any]) -> str:
    """Return the digest of fingerprint facts."""
    return sha256_hex(canonical_json(facts))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the keys whose values differ, with both values."""
    keys = sorted({*old, *new})
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def dataset_identity(dataset: Any) -> Any:
    """Return JSON that changes with the dataset's contents as far as can be told cheaply.

    A dataset's own ``identity()`` comes first; tensors in memory are told apart by shape, dtype and evenly spread
    rows; of any other dataset only the class is known.
    """
    if isinstance(dataset, Identified):
        return dataset.identity()
    name = type(dataset).__qualname__
    tensors = getattr(dataset, "tensors", None)
    if not isinstance(tensors, tuple) or not all(_is_tensor(tensor) for tensor in tensors):
        return {"class": name}
    digest = hashlib.sha256()
    shapes = []
    for tensor in tensors:
        shapes.append([str(tensor.dtype), *tensor.shape])
        rows = len(tensor)
        step = max(1, rows // _SAMPLED_ROWS)
        digest.update(repr(tensor[:rows:step].tolist()).encode())
        digest.update(repr(tensor[max(0, rows - 1) :].tolist()).encode())
    return {"class": name, "tensors": shapes, "rows": digest.hexdigest()}


def _is_tensor(value: Any) -> bool:
    import torch  # not at the top: runs are also opened for reading, without torch

    return isinstance(value, torch.Tensor)


def _check_json(key: str, value: Any) -> None:
    try:
        canonical_json(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{key} is {value!r}, which is not JSON ({error}); it is kept in run.json and compared on resume. "
            f"Give plain numbers, strings, lists and dicts."
        ) from error


def _selection_facts(kind: Kind, key: str, selection: Selection, registry: ComponentRegistry) -> dict[str, Any]:
    if selection.instance is not None:
        given = selection.instance
        described = given if isinstance(given, type) else type(given)
        return {key: f"python:{described.__qualname__}"}
    facts: dict[str, Any] = {key: selection.name}
    properties: dict[str, Mapping[str, Any]] = {}
    if ":" not in selection.name:
        component = registry.get(kind, selection.name)
        facts[f"{key}.plugin"] = component.version
        if component.schema is not None:
            properties = {field.name: field.metadata for field in dataclasses.fields(component.schema)}
    for name in sorted(selection.settings):
        known, value = properties.get(name, {}), selection.settings[name]
        if known.get("file") and value:
            facts[f"{key}.{name}.sha256"] = _file_digest(f"{key}.{name}", value)
        elif known.get("fingerprint", True):
            facts[f"{key}.{name}"] = value
    return facts


def _file_digest(key: str, path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{key}={path} cannot be read: {error.strerror}.") from error
