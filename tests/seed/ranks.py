"""Several ranks of one run, side by side in threads, each a real call of ``torch_batch_process``."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import TensorDataset

import batchmill
from batchmill import DistributedContext, RunResult, TorchBatchProcessor, hookimpl, torch_batch_process


@dataclass
class Calls:
    """What one rank was asked to do."""

    batches: list[int] = field(default_factory=list)
    checkpoints: int = 0
    finishes: int = 0
    result: RunResult | None = None


class Progress:
    """A callback that counts progress reports."""

    def __init__(self) -> None:
        self.snapshots: list[batchmill.ProgressSnapshot] = []

    @hookimpl
    def on_progress(self, progress: batchmill.ProgressSnapshot) -> None:
        self.snapshots.append(progress)


class StopAt:
    """A callback that asks to stop when it is polled for the n-th time."""

    def __init__(self, poll: int) -> None:
        self.left = poll

    @hookimpl
    def should_stop(self) -> str | None:
        self.left -= 1
        return "asked to" if self.left == 0 else None


def run_ranks(
    output: Path,
    size: int,
    *,
    n: int,
    batch_size: int,
    callbacks: Callable[[int], dict[str, Any]] = lambda rank: {},
    reducer: bool = False,
    **arguments: Any,
) -> list[Calls]:
    """Run ``n`` samples on ``size`` ranks and return what each rank was asked to do."""
    calls = [Calls() for _ in range(size)]

    class Recorder(TorchBatchProcessor):
        def __init__(self, context: batchmill.TorchBatchProcessorContext) -> None:
            self.mine = calls[context.get_distributed_rank()]
            self.sum = context.wrap_reducer(sum, "sum_metric") if reducer else None

        def process_batch(self, batch: Any, batch_idx: int) -> dict[str, torch.Tensor]:
            self.mine.batches.append(batch_idx)
            if self.sum is not None:
                self.sum.update(int(batch[0].sum()))
            return {"value": batch[0]}

        def on_checkpoint_start(self) -> None:
            self.mine.checkpoints += 1

        def on_finish(self) -> None:
            self.mine.finishes += 1

    def run(rank: int) -> None:
        context = DistributedContext(rank=rank, size=size, local_rank=rank, local_size=size) if size > 1 else None
        calls[rank].result = torch_batch_process(
            Recorder,
            TensorDataset(torch.arange(n)),
            batch_size,
            distributed_context=context,
            output=output,
            run_id="run",
            callbacks=callbacks(rank),
            **arguments,
        )

    with ThreadPoolExecutor(size) as pool:
        list(pool.map(run, range(size)))
    return calls


def values_of(output: Path) -> list[int]:
    """Return the committed rows of the run, in dataset order."""
    return batchmill.read_outputs(str(output / "run"))["value"].to_pylist()
