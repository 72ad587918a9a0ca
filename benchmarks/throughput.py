"""W1 and W1b: many tiny samples, where a framework's own cost per batch is all there is to see."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

import batchmill
from benchmarks.measure import Goal, Outcome, interleave, timed
from benchmarks.runs import mill

BATCH_SIZE = 256
WIDTH = 64
CLASSES = 10
LARGE_INTERVAL = 512


class LinearProcessor(batchmill.TorchBatchProcessor):
    """One linear layer; keeps nothing, so that only the way to it is measured."""

    def __init__(self, context: batchmill.TorchBatchProcessorContext) -> None:
        self.model = context.prepare_model_for_inference(make_model())

    def process_batch(self, batch: Any, batch_idx: int) -> None:
        """Run the layer on a batch of shape (rows, 64)."""
        with torch.inference_mode():
            self.model(batch[0] if isinstance(batch, (list, tuple)) else batch)


class Rows(Dataset[torch.Tensor]):
    """Has ``__getitem__`` and nothing else, as most datasets of users do."""

    def __init__(self, data: torch.Tensor) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.data[index]


def w1(short: bool) -> Outcome:
    """Sliceable data in memory: Batchmill against a DataLoader loop, and against slicing by hand."""
    data = make_data(short)
    dataset = TensorDataset(data)
    timings = interleave(
        {
            "for batch in DataLoader": lambda: timed(lambda: loop(DataLoader(dataset, batch_size=BATCH_SIZE))),
            "slices by hand": lambda: timed(lambda: loop(slices(data))),
            "batchmill": mill(LinearProcessor, dataset, BATCH_SIZE),
            "batchmill, a commit per 512 batches": mill(
                LinearProcessor, dataset, BATCH_SIZE, checkpoint_interval=LARGE_INTERVAL
            ),
        },
        repeats=1 if short else 7,
        warm_up=not short,
    )
    goal = Goal("at least 3x the samples/s of the DataLoader loop", timings["batchmill"].ratio <= 1 / 3)
    title = f"{len(data):,} x {WIDTH} float32 in memory through Linear({WIDTH}, {CLASSES}), batch {BATCH_SIZE}"
    return Outcome("W1", title, timings, len(data), [goal])


def w1b(short: bool) -> Outcome:
    """The same data behind a ``__getitem__``, where nobody can slice."""
    data = make_data(short)
    dataset = Rows(data)
    timings = interleave(
        {
            "for batch in DataLoader": lambda: timed(lambda: loop(DataLoader(dataset, batch_size=BATCH_SIZE))),
            "batchmill": mill(LinearProcessor, dataset, BATCH_SIZE),
            "batchmill, a commit per 512 batches": mill(
                LinearProcessor, dataset, BATCH_SIZE, checkpoint_interval=LARGE_INTERVAL
            ),
        },
        repeats=1 if short else 9,
        warm_up=not short,
    )
    goal = Goal("at most 1.05x the time of the DataLoader loop", timings["batchmill"].ratio <= 1.05)
    title = f"the same {len(data):,} samples from a dataset with __getitem__ only"
    return Outcome("W1b", title, timings, len(data), [goal])


def make_data(short: bool) -> torch.Tensor:
    """Return float32 data of shape (samples, 64)."""
    return torch.randn(20_000 if short else 1_000_000, WIDTH, generator=torch.Generator().manual_seed(0))


def make_model() -> torch.nn.Module:
    """Return the layer, always with the same weights."""
    torch.manual_seed(0)
    return torch.nn.Linear(WIDTH, CLASSES).eval()


def loop(batches: Iterable[Any]) -> None:
    """The hand-written loop that everything is compared with."""
    model = make_model()
    with torch.inference_mode():
        for batch in batches:
            model(batch[0] if isinstance(batch, (list, tuple)) else batch)


def slices(data: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield batches as plain slices: the floor for data in memory."""
    for start in range(0, len(data), BATCH_SIZE):
        yield data[start : start + BATCH_SIZE]
