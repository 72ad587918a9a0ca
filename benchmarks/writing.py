"""W2 and W3: results that are written, where the writer and the commits have to hide behind the work."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import batchmill
from benchmarks.measure import Outcome, Spent, interleave, timed
from benchmarks.runs import mill

CNN_BATCH = 64
EMBEDDING_BATCH = 256
EMBEDDING_WIDTH = 384


class CnnProcessor(batchmill.TorchBatchProcessor):
    """A small convolutional network whose logits are kept."""

    def __init__(self, context: batchmill.TorchBatchProcessorContext) -> None:
        self.model = context.prepare_model_for_inference(make_cnn())

    def process_batch(self, batch: Any, batch_idx: int) -> dict[str, torch.Tensor]:
        """Return logits of shape (rows, 10) for images of shape (rows, 3, 32, 32)."""
        with torch.inference_mode():
            return {"logits": self.model(batch[0])}


class PassThrough(batchmill.TorchBatchProcessor):
    """Returns its batch, so that only storing it is measured."""

    def __init__(self, context: batchmill.TorchBatchProcessorContext) -> None:
        pass

    def process_batch(self, batch: Any, batch_idx: int) -> dict[str, torch.Tensor]:
        """Return embeddings of shape (rows, 384)."""
        return {"embedding": batch[0]}


def w2(short: bool) -> Outcome:
    """Real compute with small outputs: what is left of the framework."""
    samples = 256 if short else 20_000
    images = torch.randn(samples, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    dataset = TensorDataset(images)
    timings = interleave(
        {
            "DataLoader loop, one write at the end": lambda: timed(lambda: cnn_loop(dataset)),
            "batchmill": mill(CnnProcessor, dataset, CNN_BATCH, writer="parquet"),
        },
        repeats=1 if short else 5,
        warm_up=not short,
    )
    title = f"a small CNN on {samples:,} images of 3x32x32, batch {CNN_BATCH}, logits to Parquet"
    return Outcome("W2", title, timings, samples)


def w3(short: bool) -> Outcome:
    """Large outputs and no compute: the whole run against pyarrow's own write of the finished table."""
    samples = 2_000 if short else 200_000
    rows = torch.randn(samples, EMBEDDING_WIDTH, generator=torch.Generator().manual_seed(0))
    dataset = TensorDataset(rows)
    timings = interleave(
        {
            "pyarrow.parquet.write_table of all rows": lambda: timed_in_folder(rows),
            "batchmill": mill(PassThrough, dataset, EMBEDDING_BATCH, writer="parquet"),
        },
        repeats=1 if short else 5,
        warm_up=not short,
    )
    title = f"{samples:,} embeddings of {EMBEDDING_WIDTH} float32, batch {EMBEDDING_BATCH}, to Parquet"
    return Outcome("W3", title, timings, samples)


def make_cnn() -> nn.Module:
    """Return the network, always with the same weights."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    ).eval()


def cnn_loop(dataset: TensorDataset) -> None:
    """The hand-written loop: everything in memory, one unsynced file at the end."""
    model = make_cnn()
    logits = []
    with torch.inference_mode():
        for (batch,) in DataLoader(dataset, batch_size=CNN_BATCH):
            logits.append(model(batch))
    with tempfile.TemporaryDirectory() as folder:
        write_default(torch.cat(logits), Path(folder))


def timed_in_folder(rows: torch.Tensor) -> Spent:
    """Return what it takes for pyarrow's write alone."""
    with tempfile.TemporaryDirectory() as folder:
        return timed(lambda: write_default(rows, Path(folder)))


def write_default(rows: torch.Tensor, folder: Path) -> None:
    """Write float32 rows of shape (samples, width) with pyarrow's defaults."""
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1).numpy()), rows.shape[1])
    pq.write_table(pa.table({"rows": column}), folder / "rows.parquet")
