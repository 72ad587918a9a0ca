"""Datasets and processors with planted bad samples, importable as ``planted:Name`` in any worker.

Each comes with a healthy twin on the same data (``bad=[]``), so that what a run leaves of the good samples can be
compared bit for bit.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from jobs import first_time
from torch.utils.data import Dataset, TensorDataset

import batchmill

WIDTH = 8


def vector(index: int) -> torch.Tensor:
    """Return sample ``index``: WIDTH float32, different for every sample."""
    return torch.tensor([((index * 31 + i) * 2654435761 % 1000003) / 99991.0 for i in range(WIDTH)])


class Planted(Dataset[Any]):
    """Sample i is ``{"x": vector(i), "i": i}``, read one by one; bad ones are not.

    Args:
        n: Samples.
        bad: Indices of bad samples.
        how: What they do: "load" raises, "shape" has another width (so collating fails), "kill", "segfault", "exit"
            and "hang" do that to the process that reads them.
        once: File that remembers that one failed: then the next time it is good; empty for never.
    """

    def __init__(self, n: int, bad: Iterable[int] = (), how: str = "load", once: str = "") -> None:
        self.n, self.bad, self.how, self.once = n, frozenset(bad), how, once

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index in self.bad and (not self.once or first_time(f"{self.once}-{index}")):
            if self.how == "shape":
                return {"x": torch.zeros(WIDTH + 1), "i": index}
            self.fail(index)
        return {"x": vector(index), "i": index}

    def fail(self, index: int) -> None:
        """Do what a bad sample does."""
        if self.how == "load":
            raise OSError(f"sample {index} is on a bad sector")
        if self.how == "exit":
            os._exit(3)
        if self.how == "hang":
            time.sleep(3600)
        os.kill(os.getpid(), {"kill": signal.SIGKILL, "segfault": signal.SIGSEGV}[self.how])

    def identity(self) -> str:
        """Good and bad ones are the same data: a bad sector is not another file."""
        return f"planted {self.n}"


class PlantedItems(Planted):
    """Asked for all samples of a batch in one call."""

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        return [self[index] for index in indices]


class PlantedRanges(Planted):
    """Read by ranges, as file datasets are."""

    def read_batch(self, start: int, stop: int) -> dict[str, torch.Tensor]:
        samples = [self[index] for index in range(start, stop)]
        return {
            "x": torch.stack([sample["x"] for sample in samples]),
            "i": torch.tensor([sample["i"] for sample in samples]),
        }


def tensors(n: int) -> TensorDataset:
    """Return n samples ``[vector(i), i]`` in memory, column by column in memory so that strides are unusual."""
    rows = torch.stack([vector(index) for index in range(n)])
    return TensorDataset(rows.t().contiguous().t(), torch.arange(n))


class Model(batchmill.TorchBatchProcessor):
    """A linear layer whose results tell of the batch's shape, and everything that a processor can hand over.

    Args:
        context: From the engine.
        bad: Indices of bad samples.
        how: What they do: "raise"; "late", raises only after everything was handed over; "nan" gives such a result;
            "oom" needs more memory than there is, "cpu_oom" the CPU's; "reducer" has a value that a reducer refuses.
        room: Rows that fit into memory at once; 0 for any number.
        once: File that remembers that a sample failed: then it is good; empty for never.
        rows: Whether rows are returned.
        extras: Whether reducers are fed, and files and reports handed over.
        pause: Seconds to sleep in each batch.
    """

    def __init__(
        self,
        context: batchmill.TorchBatchProcessorContext,
        bad: Iterable[int] = (),
        how: str = "raise",
        room: int = 0,
        once: str = "",
        rows: bool = True,
        extras: bool = True,
        pause: float = 0.0,
    ) -> None:
        self.context, self.bad, self.how, self.room, self.once = context, frozenset(bad), how, room, once
        self.rows, self.extras, self.pause = rows, extras, pause
        torch.manual_seed(5)
        self.model = context.prepare_model_for_inference(torch.nn.Linear(WIDTH, 3))
        if extras:
            self.count = context.wrap_reducer(batchmill.Reducer.SUM, "count")
            self.seen = context.wrap_reducer(_flat, "seen")
        self.calls: list[tuple[int, int]] = []

    @torch.no_grad()
    def process_batch(self, batch: Any, batch_idx: int) -> Any:
        x, indices = (batch["x"], batch["i"]) if isinstance(batch, Mapping) else batch
        self.calls.append((batch_idx, len(x)))
        time.sleep(self.pause)
        found = [index for index in indices.tolist() if index in self.bad and self._fails(index)]
        if self.how in ("oom", "cpu_oom") and (found or (self.room and len(x) > self.room)):
            raise out_of_memory(self.how)
        if found and self.how == "raise":
            self.trip_over(found)
        scores = self.model(x) + len(x) * 2**-12
        if self.extras:
            self._hand_over(indices, batch_idx, refused=bool(found) and self.how == "reducer")
        if found and self.how == "late":
            self.trip_over(found)
        if found and self.how == "nan":
            scores[torch.isin(indices, torch.tensor(found))] = torch.nan
        return {"scores": scores, "i": indices} if self.rows else None

    def trip_over(self, found: list[int]) -> None:
        raise ValueError(f"cannot make sense of samples {found}")

    def _fails(self, index: int) -> bool:
        return not self.once or first_time(f"{self.once}-{index}")

    def _hand_over(self, indices: torch.Tensor, batch_idx: int, refused: bool) -> None:
        self.count.update(float("nan") if refused else len(indices))
        self.seen.update(indices.tolist())
        if self.how not in ("oom", "cpu_oom"):  # a name may be used once only, also if a batch comes in pieces
            self.context.report_metrics("batches", batch_idx, {"seen": indices.tolist()})
            with self.context.upload_path() as folder:
                (folder / f"batch-{batch_idx}.txt").write_text(repr(indices.tolist()))


def out_of_memory(how: str) -> Exception:
    """Return what PyTorch raises when the device, or the host, has no memory left."""
    if how == "oom":
        return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    return RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried")


def _flat(values: list[list[int]]) -> list[int]:
    return [index for some in values for index in some]


def uploaded(run: Path) -> dict[str, str]:
    """Return what was uploaded per batch, by file name."""
    files = [file for file in (run / "files").rglob("batch-*.txt")]
    assert len({file.name for file in files}) == len(files), "a file is there twice"
    return {file.name: file.read_text() for file in files}
