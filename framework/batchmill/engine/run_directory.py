"""One run's directory: opening it (create or resume) and its frozen ``run.json``."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from batchmill.contracts.storage import Storage
from batchmill.engine.commit_log import CommitLog
from batchmill.engine.fingerprint import differences, digest_of
from batchmill.engine.grid import Grid
from batchmill.engine.retries import with_retries
from batchmill.engine.retry_view import RESULT as RESULT
from batchmill.engine.retry_view import SUCCESS as SUCCESS
from batchmill.engine.retry_view import current_view, staging_folder
from batchmill.engine.serialization import canonical_json, seal, sha256_hex, unseal
from batchmill.errors import (
    ConfigError,
    ConfigMismatchError,
    CorruptRunError,
    ObjectNotFoundError,
    RunNotFoundError,
)

FORMAT = 1
MANIFEST = "run.json"
LINKS, REPORTS, LOCK = "links", "reports", ".lock"

_MANIFEST_KEYS = ("format", "run_id", "created", "samples", "batch_size", "chunk_batches", "fingerprint", "config")
# More samples than anybody has; a number beyond is a mistake, or meant to fill the memory.
_MOST = 1 << 48
_RUN_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


@dataclass(frozen=True)
class RunDirectory:
    """An opened run: where it is, what was frozen and what is committed."""

    run_id: str
    storage: Storage
    manifest: Mapping[str, Any]
    grid: Grid
    log: CommitLog

    @property
    def path(self) -> str:
        """The run's directory or URL."""
        return self.storage.url

    def read_result(self) -> dict[str, Any] | None:
        """Return ``result.json``, or None while the run is not complete.

        Raises:
            CorruptRunError: It is damaged.
        """
        try:
            data = with_retries(lambda: self.storage.get(RESULT))
        except ObjectNotFoundError:
            return None
        return unseal(data, f"{self.path}/{RESULT}")


def is_run_id(run_id: str) -> bool:
    """Return whether a text can name a directory safely, on every file system and in every object store."""
    return _RUN_ID.fullmatch(run_id) is not None and run_id.strip(".") != ""


def check_run_id(run_id: str) -> str:
    """Return ``run_id`` if it can name a directory safely.

    Raises:
        ConfigError: It has other characters, or is too long.
    """
    if not is_run_id(run_id):
        raise ConfigError(
            f"run_id {run_id!r} cannot name a run; expected 1 to 128 letters, digits, '.', '_' and '-', not only dots."
        )
    return run_id


def local_directory(run: RunDirectory, environ: Mapping[str, str] = os.environ) -> Path:
    """Return where local files of a run go, such as traces: its directory, or one of the user's for runs elsewhere.

    That is not below /tmp, where other users could have put something in its place.
    """
    if "://" not in run.path:
        return Path(run.path)
    given = environ.get("XDG_CACHE_HOME", "")
    cache = Path(given) if os.path.isabs(given) else Path.home() / ".cache"
    return cache / "batchmill" / f"{run.run_id}-{sha256_hex(run.path.encode())[:12]}"


def join_url(base: str, name: str) -> str:
    """Return the directory or URL of ``name`` below ``base``."""
    return f"{base.rstrip('/')}/{name}" if base.rstrip("/") else f"/{name}"


def open_or_create(
    storage: Storage,
    run_id: str,
    *,
    facts: Mapping[str, Any],
    grid: Grid,
    config: Mapping[str, Any],
    versions: Mapping[str, str],
) -> RunDirectory:
    """Open a run to work on it. Called on every rank; whoever comes first freezes ``run.json``.

    Args:
        storage: Storage whose root is the run's directory.
        run_id: The run's name.
        facts: What can change results, see ``fingerprint_facts``.
        grid: The grid this launch would choose; the frozen one wins, for it never changes.
        config: What was asked for, for people and for ``batchmill resume``.
        versions: Versions of the software that began the run.

    Raises:
        ConfigMismatchError: The run was begun with other facts.
    """
    facts = json.loads(canonical_json(facts))
    manifest = {
        "format": FORMAT,
        "run_id": run_id,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": dict(versions),
        "samples": grid.samples,
        "batch_size": grid.batch_size,
        "chunk_batches": grid.chunk_batches,
        "fingerprint": {"sha256": digest_of(facts), "covers": facts},
        "config": dict(config),
    }
    data = manifest_bytes(json.loads(seal(manifest)))
    if not with_retries(lambda: storage.exists(MANIFEST)):
        with_retries(lambda: storage.put_if_absent(MANIFEST, data))
    opened = open_existing(storage, working=True)
    check_fingerprint(opened, facts)
    return opened


def manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    """Return the one form in which a sealed ``run.json`` is written: laid out for people."""
    return json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False).encode()


def check_fingerprint(run: RunDirectory, facts: Mapping[str, Any]) -> None:
    """Refuse to go on with a run under other settings or data.

    Raises:
        ConfigMismatchError: The facts differ from the frozen ones; the message lists how.
    """
    frozen = run.manifest["fingerprint"]
    if frozen["sha256"] != digest_of(facts):
        raise ConfigMismatchError(run.run_id, differences(frozen["covers"], facts))


def open_existing(storage: Storage, *, working: bool = False) -> RunDirectory:
    """Open a run as its latest retry of quarantined samples sees it.

    Args:
        storage: Storage whose root is the run's directory.
        working: Whether to work on the run; readers see the latest retry that is complete.

    Raises:
        RunNotFoundError: There is no ``run.json``.
        CorruptRunError: ``run.json`` is damaged, or of a later format.
    """
    try:
        data = with_retries(lambda: storage.get(MANIFEST))
    except ObjectNotFoundError:
        raise RunNotFoundError(
            f"There is no run at {storage.url} (no {MANIFEST} there). 'batchmill ls' lists the runs."
        ) from None
    manifest = unseal(data, f"{storage.url}/{MANIFEST}")
    if manifest.get("format", FORMAT) != FORMAT:
        raise CorruptRunError(
            f"{storage.url} has format {manifest.get('format')}; this version of Batchmill reads format {FORMAT}."
        )
    fault = _fault_of(manifest)
    if fault:
        raise CorruptRunError(f"{storage.url}/{MANIFEST} is damaged: it is another document, {fault}.")
    grid = Grid(manifest["samples"], manifest["batch_size"], manifest["chunk_batches"])
    storage = current_view(storage, working=working)
    fingerprint, folder_of = manifest["fingerprint"]["sha256"], partial(staging_folder, storage)
    log = CommitLog(storage, grid.chunks, fingerprint, grid.chunk_range, folder_of)
    return RunDirectory(manifest["run_id"], storage, manifest, grid, log)


def _fault_of(manifest: Mapping[str, Any]) -> str:
    """Return what keeps a sealed document from being a manifest, or an empty string. Anybody may have sealed it."""
    lacking = [key for key in _MANIFEST_KEYS if key not in manifest]
    if lacking:
        return f"without {', '.join(lacking)}"
    for key, least in (("samples", 0), ("batch_size", 1), ("chunk_batches", 1)):
        if type(manifest[key]) is not int or not least <= manifest[key] < _MOST:
            return f"with {key} {str(manifest[key])[:40]!r}, which is no number of that kind"
    run_id = manifest["run_id"]
    if not isinstance(run_id, str) or not is_run_id(run_id):
        return f"with the run_id {str(run_id)[:200]!r}, which cannot name a run"
    frozen, config = manifest["fingerprint"], manifest["config"]
    if not isinstance(frozen, dict) or not isinstance(frozen.get("sha256"), str) or "covers" not in frozen:
        return "without a digest and what it covers as its fingerprint"
    if not isinstance(config, dict) or not isinstance(config.get("request", {}), dict):
        return "with something else as its config"
    return ""
