"""The Python door: the seed's ``torch_batch_process`` and the composed ``run``."""

from __future__ import annotations

import dataclasses
import os
import signal
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from batchmill.components import Kind
from batchmill.contracts.distributed import DistributedContext
from batchmill.contracts.launcher import Launcher
from batchmill.contracts.run import RunRequest, RunResult, Selection
from batchmill.engine.assembly import Assembler, open_storage
from batchmill.engine.finish import confirmed_result, read_records, result_of
from batchmill.engine.grid import check_sizes
from batchmill.engine.retry_view import begin_retry, read_retries
from batchmill.engine.run_directory import RunDirectory, open_existing
from batchmill.engine.stopping import stop_reason
from batchmill.engine.trust import check_leave_to_import
from batchmill.errors import ConfigError, PluginError
from batchmill.plugin_manager import get_catalog

if TYPE_CHECKING:
    from batchmill.contracts.processor import TorchBatchProcessor

DEFAULT_BATCH_SIZE = 1
# What the grid decides, and so a loader's arguments may not.
_GRID_ARGUMENTS = {
    "sampler": "sampler",
    "batch_sampler": "batch_sampler",
    "drop_last": "drop_last=True",
    "shuffle": "shuffle=True",
}

Component = str | Selection | object


def torch_batch_process(
    batch_processor_cls: type[TorchBatchProcessor],
    dataset: Any,
    batch_size: int | None = None,
    max_batches: int | None = None,
    checkpoint_interval: int = 5,
    dataloader_kwargs: Mapping[str, Any] | None = None,
    distributed_context: DistributedContext | None = None,
    *,
    output: str | os.PathLike[str] = "runs",
    run_id: str | None = None,
    writer: Component = "parquet",
    claims: Component = "static",
    tracker: Component = "sqlite",
    reducers: Mapping[str, Component] | None = None,
    callbacks: Mapping[str, Component] | Sequence[str] = (),
    hparams: Mapping[str, Any] | None = None,
    limit: int | None = None,
    on_error: str = "quarantine",
    on_nonfinite: str = "keep",
    max_errors: int | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = 1,
    profile: bool = False,
    join: bool = False,
) -> RunResult:
    """Run a processor over a dataset: on one worker here, or on every worker that torchrun or SLURM started.

    Call it on all ranks with equal arguments. The same ``run_id`` resumes, on any number of workers.

    Args:
        batch_processor_cls: Your subclass of ``TorchBatchProcessor``.
        dataset: A sized ``torch.utils.data.Dataset``.
        batch_size: Samples per batch; None takes it from ``dataloader_kwargs``, else 1.
        max_batches: At most so many batches per worker; None processes everything. A number that is not positive or
            exceeds a worker's share is ignored with a warning.
        checkpoint_interval: Batches per chunk, the unit of committing and resuming.
        dataloader_kwargs: For ``torch.utils.data.DataLoader``: ``num_workers``, ``collate_fn``, ... Samples keep
            their order, so shuffling, samplers and ``drop_last`` are refused.
        distributed_context: Where this worker stands; None reads the environment.
        output: Directory or URL that holds runs.
        run_id: Name of the run; None makes a new one (agreed by all ranks).
        writer: Name of a writer for what ``process_batch`` returns, a ``Selection`` with settings, or a ``Writer``.
        claims: "static" shares chunks out as the seed does; "dynamic" lets fast workers take more.
        tracker: Where models are found and metrics reported.
        reducers: Metric name to config reducer, next to those that the processor wraps.
        callbacks: Callback names, or a mapping from alias to name or object.
        hparams: What ``context.get_hparams()`` returns.
        limit: Only the first so many samples.
        on_error: "quarantine" sets samples that fail in loading or processing aside, with their reason, and goes on;
            "fail" ends the run.
        on_nonfinite: What to do with NaN or infinity in a result: "keep", "quarantine" or "fail".
        max_errors: Samples that may be set aside before the run ends; None: 10, or one in a thousand.
        seed: Seed of torch, numpy and random on every worker.
        device: "auto", or a torch device; "cuda" means ``cuda:local_rank``.
        threads: CPU threads of torch operators per worker. One keeps results equal bit by bit for any number of
            workers; None shares the machine's cores out.
        profile: Whether ``processor.profiler`` records.
        join: Work beside a launcher that is already on this run.

    Returns:
        The result; ``complete`` is False, and ``exit_code`` 75, if the run was preempted.

    Raises:
        KeyboardInterrupt: Ctrl-C stopped the run, after the chunk in progress.
        ValueError: ``checkpoint_interval`` is not positive, or ``dataloader_kwargs`` would change the order.
        BatchmillError: The run failed; what is committed stays.
    """
    from batchmill.engine.reading import check_dataset

    _check_processor(batch_processor_cls)
    if type(checkpoint_interval) is not int or checkpoint_interval <= 0:
        raise ValueError(f"checkpoint_interval should be a positive integer, but is {checkpoint_interval!r}.")
    loader, batch_size = _loader_arguments(dataloader_kwargs or {}, batch_size)
    check_sizes(batch_size, checkpoint_interval, limit, None)
    distributed, launcher = _surrounding_workers(distributed_context)
    length = check_dataset(dataset)
    samples = length if limit is None else min(length, limit)
    if isinstance(callbacks, str):
        raise ConfigError(f"callbacks is the string {callbacks!r}; expected a list of names, as [{callbacks!r}].")
    names = callbacks if isinstance(callbacks, Mapping) else {name: name for name in callbacks}
    request = RunRequest(
        processor=Selection("", instance=batch_processor_cls),
        dataset=Selection("", instance=dataset),
        writer=_selection(writer),
        storage=_storage_for(str(output)),
        tracker=_selection(tracker),
        claims=_selection(claims),
        launcher=Selection("", instance=launcher),
        reducers={name: _selection(item) for name, item in (reducers or {}).items()},
        callbacks={name: _selection(item) for name, item in names.items()},
        output=str(output),
        run_id=run_id,
        batch_size=batch_size,
        checkpoint_interval=checkpoint_interval,
        limit=limit,
        on_error=on_error,
        on_nonfinite=on_nonfinite,
        max_errors=max_errors,
        max_batches=_valid_max_batches(max_batches, samples, batch_size, distributed.size),
        seed=seed,
        device=device,
        threads=threads,
        hparams=dict(hparams or {}),
        loader=loader,
        profile=profile,
        join=join,
    )
    return _heeding_interrupts(launcher.launch(request))


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
        return _heeding_interrupts(run_request(dataclasses.replace(overrides, **given)))
    from batchmill.settings import compose

    return _heeding_interrupts(run_request(compose(overrides, given=given)))


def run_request(request: RunRequest) -> RunResult:
    """Run a composed request with the launcher that it selects."""
    assembler = Assembler(get_catalog().registry, request.allow_import)
    selection = assembler.complete_one(Kind.LAUNCHER, "launcher", request.launcher)
    launcher = assembler.build(Kind.LAUNCHER, selection)
    if not isinstance(launcher, Launcher):
        raise PluginError(f"Launcher {selection.name!r} is a {type(launcher).__name__}; expected batchmill.Launcher.")
    return launcher.launch(request)


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


def retry_quarantined(run: str, nproc: int | None = None, *, max_errors: int | None = None) -> RunResult:
    """Process the chunks that hold quarantined samples again, after what made them fail was mended.

    The first result stays; the new one lies beside it (``retries/0001/``) and is what readers see once it is
    complete. A retry that was stopped is gone on with by this function or by ``resume``.

    Args:
        run: A complete run's directory or URL.
        nproc: Workers on this machine; None keeps the number it was started with.
        max_errors: Samples that may fail again; None keeps the number.

    Returns:
        The new result; the old one if no sample is quarantined.

    Raises:
        RunNotFoundError: There is no run.
        ConfigError: The run is not complete, or was started from Python objects, which are not stored. For the
            latter the retry has begun: run the same script again with the same ``run_id``.
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
    return resume(run, nproc, max_errors=max_errors)


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


def _heeding_interrupts(result: RunResult) -> RunResult:
    """Return a result, unless Ctrl-C stopped the run: the script or notebook that called is to stop as well."""
    if not result.complete and result.stop_reason == stop_reason(signal.SIGINT):
        raise KeyboardInterrupt(f"run {result.run_id} stopped at {result.coverage:.0%}; the same run_id resumes it")
    return result


def _selection(component: Component) -> Selection:
    if isinstance(component, Selection):
        return component
    return Selection(component) if isinstance(component, str) else Selection("", instance=component)


def _storage_for(output: str) -> Selection:
    scheme = output.partition("://")[0] if "://" in output else "local"
    return Selection(get_catalog().registry.get(Kind.STORAGE, scheme).name)


def _surrounding_workers(distributed: DistributedContext | None) -> tuple[DistributedContext, Launcher]:
    from batchmill.launch.environment import EnvironmentLauncher, read_environment, started_by_launcher
    from batchmill.launch.in_process import InProcessLauncher

    if distributed is not None:
        return distributed, EnvironmentLauncher(distributed)
    if started_by_launcher(os.environ):
        return read_environment(os.environ), EnvironmentLauncher()
    return DistributedContext(), InProcessLauncher()


def _loader_arguments(given: Mapping[str, Any], batch_size: int | None) -> tuple[dict[str, Any], int]:
    loader = dict(given)
    for name, shown in _GRID_ARGUMENTS.items():
        value = loader.pop(name, None)
        if value is not None and value is not False:
            raise ValueError(
                f"dataloader_kwargs may not hold {shown}: samples are processed in dataset order on a fixed grid."
            )
    if "batch_size" in loader:
        if batch_size is not None:
            raise ValueError(
                f"batch_size is given twice: {batch_size} as an argument and {loader['batch_size']} in "
                f"dataloader_kwargs. Give it once."
            )
        batch_size = loader.pop("batch_size")
    return loader, DEFAULT_BATCH_SIZE if batch_size is None else batch_size


def _valid_max_batches(max_batches: int | None, samples: int, batch_size: int, world_size: int) -> int | None:
    if max_batches is None:
        return None
    if type(max_batches) is not int:
        raise ConfigError(f"max_batches should be a positive integer, but is {max_batches!r}.")
    per_worker = -(-samples // (batch_size * world_size))
    if not 0 < max_batches <= per_worker:
        warnings.warn(
            f"max_batches={max_batches} is not between 1 and {per_worker}, the batches of one worker. "
            f"Ignoring this argument and iterate over entire dataset once.",
            stacklevel=3,
        )
    # A number too large limits nothing, and is kept: the run may have been begun on fewer workers, where it did.
    return max_batches if max_batches > 0 else None


def _check_processor(given: Any) -> None:
    from batchmill.contracts.processor import TorchBatchProcessor

    if not isinstance(given, type) or not issubclass(given, TorchBatchProcessor):
        described = f"the class {given.__qualname__}" if isinstance(given, type) else f"a {type(given).__qualname__}"
        raise ConfigError(f"batch_processor_cls is {described}; expected a subclass of batchmill.TorchBatchProcessor.")
    missing = ", ".join(sorted(given.__abstractmethods__))
    if missing:
        raise ConfigError(f"{given.__qualname__} is abstract: it does not define {missing}.")
