"""Datasets, processors and reducers of the process-level tests, importable as ``jobs:Name`` in any worker.

Everything here is deterministic unless its name says otherwise, so that a run's outputs and metrics can be
computed in plain Python (``oracle.py``) or compared with those of another run, bit for bit.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, TensorDataset, get_worker_info

import batchmill
import batchmill.engine.run

WIDTH = 16
GATED_FROM = 4

if TAKEOVER_PATIENCE := os.environ.get("JOBS_TAKEOVER_PATIENCE"):
    batchmill.engine.run.TAKEOVER_PATIENCE = float(TAKEOVER_PATIENCE)


def value_of(index: int) -> float:
    """A float without a short binary form, different for every sample."""
    return (index * 2654435761 % 1000003) / 997.0


class Values(Dataset):
    """Sample i is ``{"x": value_of(i + shift), "i": i}``; read one by one."""

    def __init__(self, n: int, shift: int = 0) -> None:
        self.n, self.shift = n, shift

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"x": torch.tensor(value_of(index + self.shift), dtype=torch.float64), "i": index}


class BrokenSample(Values):
    """``Values`` whose sample ``bad`` cannot be read."""

    def __init__(self, n: int, bad: int) -> None:
        super().__init__(n)
        self.bad = bad

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == self.bad:
            raise OSError(f"sample {index} is on a bad sector")
        return super().__getitem__(index)


class DeadlySample(Values):
    """``Values`` whose sample ``bad`` does not leave its loader process alive, or does not come back from it.

    Args:
        n: Number of samples.
        bad: The sample.
        how: "killed", "segfault" or "hang".
        once: File that is created the first time; after that the sample can be read. Empty: it never can.
    """

    def __init__(self, n: int, bad: int, how: str, once: str = "") -> None:
        super().__init__(n)
        self.bad, self.how, self.once = bad, how, once

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == self.bad and (not self.once or first_time(self.once)):
            self._strike()
        return super().__getitem__(index)

    def _strike(self) -> None:
        assert get_worker_info() is not None, "read in the worker itself, which it would kill"
        if self.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.how == "segfault":
            faulthandler.disable()
            ctypes.string_at(0)
        else:
            time.sleep(1000)


class LargeSamples(Values):
    """``Values`` with a megabyte beside each, which loader processes hand over in shared memory."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**super().__getitem__(index), "load": torch.ones(2**17, dtype=torch.float64)}


def vectors(n: int, seed: int = 7) -> TensorDataset:
    """n vectors of WIDTH float32 and a label each, in memory, sliced by the engine."""
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(n, WIDTH, generator=generator), torch.randint(0, 4, (n,), generator=generator))


def images(n: int, seed: int = 7) -> TensorDataset:
    """n images of 1 x 12 x 12 float32."""
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(n, 1, 12, 12, generator=generator))


class PlainFloatSum(batchmill.MetricReducer):
    """A user's reducer that adds floats as they come: its result depends on how samples are grouped."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.total, self.count = 0.0, 0

    def update(self, values: list[float]) -> None:
        for value in values:
            self.total += value
            self.count += 1

    def per_slot_reduce(self) -> dict[str, float | int]:
        return {"total": self.total, "count": self.count}

    def cross_slot_reduce(self, per_slot_metrics: Any) -> float:
        total = 0.0
        for partial in per_slot_metrics:
            total += partial["total"]
        return total


class Doubler(batchmill.TorchBatchProcessor):
    """Returns ``y = 2 x + 1`` and reduces; the cheapest processor with outputs and float metrics.

    Args:
        context: From the engine.
        pause: Seconds to sleep in each batch, so that there is time for faults.
        journal: File to append ``pid batch_idx`` to, one line per batch processed; empty for none.
        gate: File without which nothing beyond the first batches is processed; empty for none.
    """

    def __init__(
        self,
        context: batchmill.TorchBatchProcessorContext,
        pause: float = 0.0,
        journal: str = "",
        gate: str = "",
    ) -> None:
        self.context, self.pause, self.journal, self.gate = context, pause, journal, gate
        self.plain_sum = context.wrap_reducer(PlainFloatSum(), "plain_sum")
        self.largest = context.wrap_reducer(batchmill.Reducer.MAX, "largest")

    def process_batch(self, batch: Any, batch_idx: int) -> Any:
        if self.journal:
            with open(self.journal, "a") as file:
                file.write(f"{os.getpid()} {batch_idx}\n")
        while self.gate and batch_idx >= GATED_FROM and not Path(self.gate).exists():
            time.sleep(0.01)
        if self.pause:
            time.sleep(self.pause)
        y = 2 * batch["x"] + 1
        self.plain_sum.update(y.tolist())
        self.largest.update(y.max())
        return {"y": y, "i": batch["i"]}


class Linear(batchmill.TorchBatchProcessor):
    """A linear layer with fixed weights over ``vectors``; float32 outputs and a plain float sum of losses."""

    def __init__(self, context: batchmill.TorchBatchProcessorContext, pause: float = 0.0) -> None:
        self.pause = pause
        torch.manual_seed(11)
        self.model = context.prepare_model_for_inference(torch.nn.Linear(WIDTH, 4))
        self.losses = context.wrap_reducer(PlainFloatSum(), "loss")

    @torch.no_grad()
    def process_batch(self, batch: Any, batch_idx: int) -> Any:
        time.sleep(self.pause)
        vectors, labels = batch
        scores = self.model(vectors)
        losses = torch.nn.functional.cross_entropy(scores, labels, reduction="none")
        self.losses.update(losses.tolist())
        return {"scores": scores, "prediction": scores.argmax(dim=1), "label": labels}


class SmallCnn(batchmill.TorchBatchProcessor):
    """A small convolutional network over ``images``."""

    def __init__(self, context: batchmill.TorchBatchProcessorContext) -> None:
        torch.manual_seed(12)
        self.model = context.prepare_model_for_inference(
            torch.nn.Sequential(
                torch.nn.Conv2d(1, 8, 3),
                torch.nn.ReLU(),
                torch.nn.MaxPool2d(2),
                torch.nn.Conv2d(8, 16, 3),
                torch.nn.ReLU(),
                torch.nn.Flatten(),
                torch.nn.Linear(16 * 9, 10),
                torch.nn.Softmax(dim=1),
            )
        )
        self.sum = context.wrap_reducer(PlainFloatSum(), "sum")

    @torch.no_grad()
    def process_batch(self, batch: Any, batch_idx: int) -> Any:
        scores = self.model(batch[0])
        self.sum.update(scores[:, 0].tolist())
        return scores


class Random(Doubler):
    """Not deterministic on purpose: each attempt at a batch gives other numbers, the same within the batch."""

    def process_batch(self, batch: Any, batch_idx: int) -> Any:
        rows = super().process_batch(batch, batch_idx)
        return {**rows, "attempt": [random.SystemRandom().random()] * len(rows["y"])}


class Fails(Doubler):
    """Raises on one batch while the file ``unless`` is not there."""

    def __init__(
        self, context: batchmill.TorchBatchProcessorContext, batch: int, unless: str = "", pause: float = 0.0
    ) -> None:
        super().__init__(context, pause)
        self.batch, self.unless = batch, unless

    def process_batch(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == self.batch and not (self.unless and Path(self.unless).exists()):
            self.trip_over(batch)
        return super().process_batch(batch, batch_idx)

    def trip_over(self, batch: Any) -> None:
        raise ZeroDivisionError("the user's own bug")


class Dies(Doubler):
    """Leaves its process without a word on one batch, by exit or by SIGKILL."""

    def __init__(
        self, context: batchmill.TorchBatchProcessorContext, batch: int, how: str = "exit", once: str = ""
    ) -> None:
        super().__init__(context)
        self.batch, self.how, self.once = batch, how, once

    def process_batch(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == self.batch and (not self.once or first_time(self.once)):
            if self.how == "exit":
                os._exit(3)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().process_batch(batch, batch_idx)


class ThreadCount(Doubler):
    """Returns the number of torch threads with every row, and a matrix product whose bits depend on it."""

    def process_batch(self, batch: Any, batch_idx: int) -> Any:
        rows = super().process_batch(batch, batch_idx)
        threads = torch.full((len(rows["y"]),), torch.get_num_threads())
        return {**rows, "threads": threads}


class Hangs(Doubler):
    """Comes to no end on one batch, the first time: asleep but alive, or stopped as by SIGSTOP."""

    def __init__(self, context: batchmill.TorchBatchProcessorContext, batch: int, once: str, how: str) -> None:
        super().__init__(context)
        self.batch, self.once, self.how = batch, once, how

    def process_batch(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == self.batch and first_time(self.once):
            if self.how == "stopped":
                os.kill(os.getpid(), signal.SIGSTOP)
            while True:
                time.sleep(1)
        return super().process_batch(batch, batch_idx)


def first_time(path: str) -> bool:
    """Return whether no process has called this with ``path`` before."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    return True


class Everything(Doubler):
    """Uses every way out of a chunk: rows, files, reports, and a partial too large for the commit record."""

    def __init__(self, context: batchmill.TorchBatchProcessorContext) -> None:
        super().__init__(context)
        self.blobs = context.wrap_reducer(_total_size, "blob_bytes")
        self.seen: list[int] = []

    def process_batch(self, batch: Any, batch_idx: int) -> Any:
        self.seen.append(batch_idx)
        self.blobs.update(bytes([batch_idx % 256]) * 220_000)
        self.context.report_metrics("batches", batch_idx, {"first": int(batch["i"][0])})
        return super().process_batch(batch, batch_idx)

    def on_checkpoint_start(self) -> None:
        with self.context.upload_path() as folder:
            (folder / "notes").mkdir()
            (folder / "notes" / "batches.txt").write_text(repr(self.seen))
        self.seen = []


class Reporting(Everything):
    """``Everything``, with a report from outside of chunks and uploaded files that tell of the data."""

    def __init__(self, context: batchmill.TorchBatchProcessorContext) -> None:
        super().__init__(context)
        context.report_metrics("start", 0, {"width": 0.00001})

    def process_batch(self, batch: Any, batch_idx: int) -> Any:
        self.seen.append(int(batch["x"][0]))
        return super().process_batch(batch, batch_idx)


def _total_size(blobs: list[bytes]) -> int:
    return sum(map(len, blobs))
