"""The Python door: start, resume, retry and plan runs that config composes."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from batchmill.components import Kind
from batchmill.contracts.launcher import Launcher
from batchmill.contracts.run import RunRequest, RunResult, Selection
from batchmill.engine.assembly import Assembler, open_storage
from batchmill.engine.finish import confirmed_result, read_records, result_of
from batchmill.engine.retry_view import begin_retry, read_retries
from batchmill.engine.run_directory import RunDirectory, check_run_id, join_url, open_existing
from batchmill.engine.stopping import stop_reason
from batchmill.engine.trust import check_leave_to_import
from batchmill.errors import ConfigError, PluginError, RunNotFoundError
from batchmill.plugin_manager import get_catalog

if TYPE_CHECKING:
    from batchmill.contracts.processor import TorchBatchProcessor


def run(
    overrides: Sequence[str] | RunRequest,
    *,
    processor: type[TorchBatchProcessor] | None = None,
    dataset: Any = None,
) -> RunResult:
    """Compose a run from config, as ``batchmill run`` does, and run it.

    Args:
        overrides: Hydra overrides (``["dataset=parquet", "dataset.path=data.parquet"]``), or a composed request.
        processor: A processor class in place of a registered one.
        dataset: A dataset object in place of a registered one.

    Raises:
        ConfigError: The overrides do not fit.
        BatchmillError: The run failed; what is committed stays.
    """
    given: dict[str, Any] = {
        name: Selection("", instance=value)
        for name, value in (("processor", processor), ("dataset", dataset))
        if value is not None
    }
    if isinstance(overrides, RunRequest):
        return heeding_interrupts(run_request(dataclasses.replace(overrides, **given)))
    from batchmill.settings import compose

    return heeding_interrupts(run_request(compose(overrides, given=given)))


def run_request(request: RunRequest) -> RunResult:
    """Run a composed request with the launcher that it selects; a run that is complete needs none."""
    assembler = Assembler(get_catalog().registry, request.allow_import)
    if (result := _finished(request, assembler)) is not None:
        return result
    selection = assembler.complete_one(Kind.LAUNCHER, "launcher", request.launcher)
    launcher = assembler.build(Kind.LAUNCHER, selection)
    if not isinstance(launcher, Launcher):
        raise PluginError(f"Launcher {selection.name!r} is a {type(launcher).__name__}; expected batchmill.Launcher.")
    return launcher.launch(request)


def _finished(request: RunRequest, assembler: Assembler) -> RunResult | None:
    """Return the result of a run that is complete, without starting workers; None if there is anything to do.

    Raises:
        ConfigMismatchError: It is complete with other settings or data.
    """
    named_code = any(":" in selection.name for _, selection in request.selections())
    if request.run_id is None or (named_code and not request.allow_import):  # the usual way refuses that
        return None
    selection = assembler.complete_one(Kind.STORAGE, "storage", request.storage)
    try:
        path = join_url(request.output, check_run_id(request.run_id))
        existing = open_existing(open_storage(assembler, path, selection), working=True)
    except RunNotFoundError:
        return None
    stored = confirmed_result(existing)
    if stored is None:
        return None
    from batchmill.engine.opening import check_same  # here, for it loads torch

    check_same(existing, request, get_catalog().registry)
    return result_of(existing, stored)


def resume(
    run: str,
    nproc: int | None = None,
    *,
    max_errors: int | None = None,
    on_error: str | None = None,
    allow_import: bool | None = None,
) -> RunResult:
    """Go on with a run that was started from config.

    Args:
        run: Its directory or URL.
        nproc: Workers on this machine; None keeps the number it was started with.
        max_errors: Samples that may be set aside from now on; None keeps the number.
        on_error: "quarantine" or "fail" from now on; None keeps the choice.
        allow_import: Whether its configuration may name code to import; None: as when it was started, if nobody but
            this user can have written its folder.

    Raises:
        RunNotFoundError: There is no run.
        ConfigError: It was started from Python objects, which are not stored; or somebody else may have written which
            code it imports.
    """
    opened = open_existing(open_storage(Assembler(get_catalog().registry), run))
    request = _stored_request(opened, run)
    if allow_import is None:
        check_leave_to_import(request, opened.path)
    changes: dict[str, Any] = {"max_errors": max_errors, "on_error": on_error, "allow_import": allow_import}
    request = dataclasses.replace(request, **{key: value for key, value in changes.items() if value is not None})
    if nproc is not None:
        request = dataclasses.replace(request, launcher=Selection("local", {"nproc": nproc}))
    return run_request(request)


def retry_quarantined(
    run: str, nproc: int | None = None, *, max_errors: int | None = None, allow_import: bool | None = None
) -> RunResult:
    """Process the chunks that hold quarantined samples again, after what made them fail was mended.

    The first result stays; the new one lies beside it (``retries/0001/``) and is what readers see once it is
    complete. A retry that was stopped is gone on with by this function or by ``resume``.

    Args:
        run: A complete run's directory or URL.
        nproc: Workers on this machine; None keeps the number it was started with.
        max_errors: Samples that may fail again; None keeps the number.
        allow_import: As for ``resume``.

    Returns:
        The new result; the old one if no sample is quarantined.

    Raises:
        RunNotFoundError: There is no run.
        ConfigError: The run is not complete; or ``resume`` refuses, and its message says how to go on, for the retry
            has begun.
    """
    storage = open_storage(Assembler(get_catalog().registry), run)
    opened = open_existing(storage, working=True)
    stored = confirmed_result(opened)
    retries = read_retries(storage)
    if stored is None and not retries:
        raise ConfigError(
            f"Run {opened.run_id} is not complete, so its failed samples are not all known yet. "
            f"Go on with 'batchmill resume {opened.path}' first."
        )
    if stored is not None:
        chunks = [
            record["chunk"] for record in read_records(opened, range(opened.grid.chunks)) if record["quarantined"]
        ]
        if not chunks:
            return result_of(opened, stored)
        begin_retry(storage, len(retries) + 1, chunks)
    return resume(run, nproc, max_errors=max_errors, allow_import=allow_import)


def _stored_request(opened: RunDirectory, run: str) -> RunRequest:
    """Return the request that a run was started with.

    Raises:
        ConfigError: It was started from Python objects, or its directory was renamed.
    """
    config = opened.manifest["config"]
    if "request" not in config:
        given = ", ".join(f"{key}={name}" for key, name in config.get("python", {}).items())
        raise ConfigError(
            f"Run {opened.run_id} was started from Python ({given}), so it cannot be rebuilt from its directory. "
            f"Run the same script again with run_id={opened.run_id!r}."
        )
    request = RunRequest.from_json(config["request"])
    base, _, name = opened.path.rstrip("/").rpartition("/")
    if name != opened.run_id:
        raise ConfigError(f"{run} is run {opened.run_id!r}, but its directory is named {name!r}. Rename it back.")
    return dataclasses.replace(request, output=base or "/", run_id=opened.run_id)


def plan(request: RunRequest) -> dict[str, Any]:
    """Return what a run would do, without starting it: the dataset is built, no processor or model is.

    Args:
        request: The run; without a ``run_id`` the plan is for a new run.

    Raises:
        ConfigError: The request cannot be run.
        ConfigMismatchError: The run exists with other settings or data.
    """
    from batchmill.engine.opening import plan_run
    from batchmill.launch.naming import new_run_id

    if request.run_id is None:
        request = dataclasses.replace(request, run_id=new_run_id())
    workers = int(request.launcher.settings.get("nproc", 1))
    return plan_run(request, get_catalog().registry, workers)


def heeding_interrupts(result: RunResult) -> RunResult:
    """Return a result, unless Ctrl-C stopped the run: the script or notebook that called is to stop as well."""
    if not result.complete and result.stop_reason == stop_reason(signal.SIGINT):
        raise KeyboardInterrupt(f"run {result.run_id} stopped at {result.coverage:.0%}; the same run_id resumes it")
    return result
