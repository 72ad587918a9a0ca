"""One worker's whole run: assemble, open, build the processor, work, fold, finish. Read this file first."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from batchmill import client
from batchmill.components import ComponentRegistry, Kind
from batchmill.contracts.claims import ChunkQueue, Claims, ClaimScope
from batchmill.contracts.distributed import DistributedContext
from batchmill.contracts.processor import TorchBatchProcessor
from batchmill.contracts.profiler import DISABLED_PROFILER, Profiler
from batchmill.contracts.run import RunRequest, RunResult
from batchmill.contracts.writer import Writer
from batchmill.engine.claims import Takeover, UncommittedClaims
from batchmill.engine.commit_log import CommitLog
from batchmill.engine.committer import Committer
from batchmill.engine.context import TorchBatchProcessorContext, choose_device
from batchmill.engine.cores import available_cores
from batchmill.engine.finish import confirmed_result, final_reports, finish_run, read_records, result_of, settle_run
from batchmill.engine.opening import OpenedRun, open_run
from batchmill.engine.policy import FailurePolicy
from batchmill.engine.profiling import TraceProfiler
from batchmill.engine.quarantine import ErrorBudget
from batchmill.engine.reading import BatchSource
from batchmill.engine.reduction import ReducerSet
from batchmill.engine.run_directory import RunDirectory, local_directory
from batchmill.engine.sacrifice import TrialProcess
from batchmill.engine.sideline import Sideline, restore_reports
from batchmill.engine.states import ComponentStates
from batchmill.engine.stopping import StopFlag
from batchmill.engine.user_code import user_error
from batchmill.engine.worker import Progress, Worker
from batchmill.errors import ConfigError, ConfigMismatchError, PluginError
from batchmill.models import ModelVersion
from batchmill.plugin_manager import make_run_manager

# Seconds without any new commit record before an idle worker takes over someone's chunk.
TAKEOVER_PATIENCE = 60.0


@dataclass
class Surroundings:
    """What a launcher gives a worker.

    Attributes:
        distributed: Where the worker stands among its peers.
        stop: Set when the worker should stop.
        queue: The launcher's chunk queue, where it keeps one.
        counter: A counter shared by the launch, where its environment has one.
        callbacks: The request's callbacks with their config keys, built by the launcher.
        progress: Counts the worker's samples.
        opened: Called when the run is open, with the chunks committed so far.
        committed: Called in the commit thread after each of this worker's chunks, and in the worker's own thread for
            each chunk given to it that others have committed.
        worked: Called when this worker has seen every chunk of the run committed.
        processing: Called with the chunk that is begun, and with None at its end.
        suspects: Chunks that have killed workers, by now.
        start_trials: Starts a process in which rows of such chunks are tried; None if there can be none.
        asks_for_outputs: Whether the result of a stopped run should tell its outputs, for which all records are read.
    """

    distributed: DistributedContext = field(default_factory=DistributedContext)
    stop: StopFlag = field(default_factory=StopFlag)
    queue: ChunkQueue | None = None
    counter: Callable[[], int] | None = None
    callbacks: Sequence[tuple[str, object]] = ()
    progress: Progress = field(default_factory=Progress)
    opened: Callable[[RunDirectory, set[int]], None] = lambda run, committed: None
    committed: Callable[[int], None] = lambda chunk: None
    worked: Callable[[], object] = lambda: None
    processing: Callable[[int | None], object] = lambda chunk: None
    suspects: Collection[int] = ()
    start_trials: Callable[[], TrialProcess] | None = None
    asks_for_outputs: bool = True


def execute(request: RunRequest, registry: ComponentRegistry, surroundings: Surroundings) -> RunResult:
    """Do one worker's part of a run. Called on every rank with equal requests.

    Returns:
        The result; complete unless a stop was asked for.

    Raises:
        BatchmillError: The run failed; what is committed stays, and the same run id resumes.
    """
    opened = open_run(request, registry, surroundings.distributed.size)
    run = opened.directory
    committed = run.log.committed()
    surroundings.opened(run, committed)
    stored = run.read_result()
    if stored is not None:
        if confirmed_result(run) is None:  # a crash came between result and _SUCCESS
            settle_run(run, stored, partial(restore_reports, opened.tracker, run.run_id), collect=True)
        return result_of(run, stored)
    with ExitStack() as stack:
        stack.enter_context(client.use(opened.tracker))
        stack.enter_context(torch_threads(request.threads, surroundings.distributed.local_size))
        return _execute_open(opened, committed, surroundings, stack)


def _execute_open(opened: OpenedRun, committed: set[int], surroundings: Surroundings, stack: ExitStack) -> RunResult:
    request, run, distributed = opened.request, opened.directory, surroundings.distributed
    seed_everything(request.seed)
    selected = [
        (f"reducers.{alias}", opened.assembler.build(Kind.REDUCER, item)) for alias, item in request.reducers.items()
    ]
    writer = opened.assembler.build(Kind.WRITER, request.writer)
    reducers = ReducerSet(writer)
    claims, takeover = _build_claims(opened, committed, surroundings)
    others = {"tracker": opened.tracker, "writer": writer, "dataset": opened.dataset, "claims": claims}
    components = [*selected, *surroundings.callbacks, *others.items()]
    hooks, states = make_run_manager(components), ComponentStates(components)
    sideline = Sideline(
        run.storage,
        opened.tracker,
        run.run_id,
        distributed.rank,
        lambda group, steps, metrics: hooks.hook.report_metrics(group=group, steps_completed=steps, metrics=metrics),
    )
    tensorboard = local_directory(run) / "tensorboard" / f"rank-{distributed.rank:05d}"
    profiler: Profiler = DISABLED_PROFILER
    if request.profile:
        recording = TraceProfiler(tensorboard, distributed.rank)
        stack.callback(recording.close)
        profiler = recording
    context = TorchBatchProcessorContext(
        run_id=run.run_id,
        device=choose_device(request.device, distributed.local_rank),
        distributed=distributed,
        hparams=hparams_of(request, opened.model_version),
        reducers=reducers,
        sideline=sideline,
        profiler=profiler,
        tensorboard_path=tensorboard,
        resolve=opened.assembler.resolve,
        model_version=opened.model_version,
    )
    try:
        if opened.model_version is not None:
            context.report_task_using_model_version(opened.model_version)
        for alias, reducer in zip(request.reducers, (item for _, item in selected), strict=True):
            reducers.wrap(reducer, alias)
        processor = build_processor(opened, context)
        _check_partials(run, committed, reducers)
        states.restore(lambda: read_records(run, sorted(committed)))
        hooks.hook.on_run_start(context=context)
        tools = _Tools(context, reducers, sideline, hooks, states, writer, claims, takeover)
        complete = _work(opened, surroundings, processor, tools)
        if not complete:
            return result_of(run, None, surroundings.stop.reason, surroundings.asks_for_outputs)
        surroundings.worked()
        stored = finish_run(run, reducers, sideline.restore)
        if distributed.rank == 0:
            sideline.announce(final_reports(run, stored))
        result = result_of(run, stored)
        try:
            processor.on_finish()
        except Exception as error:  # user code may raise anything
            raise user_error("on_finish failed (all results are committed)", error) from error
        hooks.hook.on_finish(result=result)
        return result
    except BaseException as error:
        hooks.hook.on_run_error(error=error)
        raise


@dataclass(frozen=True)
class _Tools:
    """What a worker works with besides its processor."""

    context: TorchBatchProcessorContext
    reducers: ReducerSet
    sideline: Sideline
    hooks: Any
    states: ComponentStates
    writer: Writer
    claims: Claims
    takeover: Takeover


def build_processor(opened: OpenedRun, context: TorchBatchProcessorContext) -> TorchBatchProcessor:
    """Return the processor, built on this worker.

    Raises:
        ProcessorError: Its constructor failed; the message has the traceback.
        ConfigError: It is not a TorchBatchProcessor.
    """
    try:
        processor = opened.assembler.build(Kind.PROCESSOR, opened.request.processor, context)
    except Exception as error:  # user code may raise anything
        raise user_error("The processor could not be built", error) from error
    if not isinstance(processor, TorchBatchProcessor):
        raise ConfigError(
            f"The processor is a {type(processor).__qualname__}; expected a subclass of batchmill.TorchBatchProcessor."
        )
    if "profiler" not in vars(processor):
        processor.profiler = context.profiler
    return processor


def _build_claims(opened: OpenedRun, committed: set[int], surroundings: Surroundings) -> tuple[Claims, Takeover]:
    request, run = opened.request, opened.directory
    scope = ClaimScope(
        chunks=run.grid.chunks,
        rank=surroundings.distributed.rank,
        world_size=surroundings.distributed.size,
        missing=_missing(run.log, committed),
        queue=surroundings.queue,
        counter=surroundings.counter,
        joined=request.join,
    )
    claims = opened.assembler.build(Kind.CLAIMS, request.claims, scope)
    if not isinstance(claims, Claims):
        raise PluginError(f"claims {request.claims.name!r} is a {type(claims).__name__}; expected batchmill.Claims.")
    return claims, Takeover(scope, TAKEOVER_PATIENCE)


def _missing(log: CommitLog, committed: set[int]) -> Callable[[], list[int]]:
    """Return what tells the missing chunks; the first answer is from the listing that was made on opening the run.

    A listing of many records takes long, and chunks committed since then are passed over one by one.
    """
    first = [[chunk for chunk in range(log.chunks) if chunk not in committed]]
    return lambda: first.pop() if first else log.missing()


def _work(
    opened: OpenedRun,
    surroundings: Surroundings,
    processor: TorchBatchProcessor,
    tools: _Tools,
) -> bool:
    request, run = opened.request, opened.directory

    def committed(chunk: int, record: Mapping[str, Any], ours: bool) -> None:
        if ours:
            tools.sideline.deliver(record["reports"])
            if record["quarantined"]:
                tools.hooks.hook.on_quarantine(chunk=chunk, samples=record["quarantined"])
        tools.hooks.hook.on_checkpoint_end(chunk=chunk, record=record)
        surroundings.committed(chunk)

    worker = Worker(
        grid=run.grid,
        source=BatchSource(opened.dataset, run.grid, request.loader),
        processor=processor,
        context=tools.context,
        reducers=tools.reducers,
        sideline=tools.sideline,
        hooks=tools.hooks,
        claims=UncommittedClaims(tools.claims, run.log.is_committed, surroundings.committed),
        takeover=tools.takeover,
        committer=Committer(run.log, tools.writer, committed),
        stop=surroundings.stop,
        progress=surroundings.progress,
        policy=FailurePolicy(request.on_error, request.on_nonfinite),
        budget=ErrorBudget(request.max_errors, run.grid.samples, run.log),
        own_reducers=len(tools.reducers.names) > len(request.reducers),
        states=tools.states,
        processing=surroundings.processing,
        suspects=surroundings.suspects,
        start_trials=surroundings.start_trials,
    )
    return worker.work()


def seed_everything(seed: int) -> None:
    """Seed torch, numpy and random; called on every rank before the processor is built."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def torch_threads(threads: int | None, local_workers: int) -> Iterator[None]:
    """Let torch operators use ``threads`` CPU threads, or an equal share of the cores, inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or max(1, available_cores() // local_workers))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check_partials(run: RunDirectory, committed: set[int], reducers: ReducerSet) -> None:
    """Refuse to go on with other reducers than the run began with."""
    if not committed:
        return
    before = list(run.log.read_partials(run.log.read(min(committed))))
    if sorted(before) != sorted(reducers.names):
        raise ConfigMismatchError(run.run_id, {"reducers": (sorted(before), sorted(reducers.names))})


def hparams_of(request: RunRequest, version: ModelVersion | None) -> dict[str, Any]:
    """Return the run's ``hparams``, with the model that config links."""
    hparams = dict(request.hparams)
    if version is not None:
        hparams.setdefault("model_name", version.model_name)
        hparams.setdefault("model_version", version.version)
    return hparams
