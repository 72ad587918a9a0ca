"""The seed's door: ``torch_batch_process`` with a processor class and a dataset object."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from batchmill.api import heeding_interrupts
from batchmill.components import Kind
from batchmill.contracts.distributed import DistributedContext
from batchmill.contracts.launcher import Launcher
from batchmill.contracts.run import RunRequest, RunResult, Selection
from batchmill.engine.grid import check_sizes
from batchmill.errors import ConfigError
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
    return heeding_interrupts(launcher.launch(request))


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
