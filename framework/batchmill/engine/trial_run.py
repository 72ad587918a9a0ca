"""The inside of a trial process: a dataset and a processor as a worker has them, and nothing that is kept."""

from __future__ import annotations

from collections.abc import Sequence

from batchmill import client
from batchmill.components import ComponentRegistry
from batchmill.contracts.distributed import DistributedContext
from batchmill.contracts.profiler import DISABLED_PROFILER
from batchmill.contracts.run import RunRequest
from batchmill.engine.context import TorchBatchProcessorContext, choose_device
from batchmill.engine.opening import open_run
from batchmill.engine.ranges import ReadFailure
from batchmill.engine.reading import BatchSource
from batchmill.engine.reduction import ReducerSet
from batchmill.engine.run import build_processor, hparams_of, seed_everything
from batchmill.engine.run_directory import local_directory
from batchmill.engine.sideline import Sideline
from batchmill.errors import BatchmillError


class TrialRun:
    """Processes rows and forgets the results.

    Args:
        request: The run.
        registry: All components.
        distributed: Where the worker that asks stands.

    Raises:
        BatchmillError: The run cannot be opened, or the processor not be built.
    """

    def __init__(self, request: RunRequest, registry: ComponentRegistry, distributed: DistributedContext) -> None:
        opened = open_run(request, registry, distributed.size)
        run = opened.directory
        self._grid = run.grid
        self._reducers = ReducerSet()
        self._sideline = Sideline(run.storage, opened.tracker, run.run_id, distributed.rank, lambda *told: None)
        self._sideline.open_chunk()  # so that nothing it hands over is stored
        self._source = BatchSource(opened.dataset, run.grid, request.loader)
        seed_everything(request.seed)
        with client.use(opened.tracker):
            self._processor = build_processor(
                opened,
                TorchBatchProcessorContext(
                    run_id=run.run_id,
                    device=choose_device(request.device, distributed.local_rank),
                    distributed=distributed,
                    hparams=hparams_of(request, opened.model_version),
                    reducers=self._reducers,
                    sideline=self._sideline,
                    profiler=DISABLED_PROFILER,
                    tensorboard_path=local_directory(run) / "tensorboard" / "trials",
                    resolve=opened.assembler.resolve,
                    model_version=opened.model_version,
                ),
            )

    def attempt(self, batch_idx: int, positions: Sequence[int]) -> str | None:
        """Process rows of a batch.

        Args:
            batch_idx: The batch.
            positions: Positions of the rows.

        Returns:
            The error that was raised, for people; None if none was.
        """
        start, _ = self._grid.batch_range(batch_idx)
        batch = self._source.pick([start + position for position in positions])
        if isinstance(batch, ReadFailure):
            return f"{batch.error}: {batch.message}"
        try:
            self._processor.process_batch(batch, batch_idx)
        except BatchmillError as error:
            return str(error)
        except Exception as error:  # user code may raise anything; whoever asked only wants to know who dies
            return f"{type(error).__name__}: {error}"
        finally:
            self._sideline.drop_chunk()
            self._sideline.open_chunk()
            self._reducers.reset()
        return None
