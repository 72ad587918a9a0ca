"""Jobs with samples that kill or hang the process that handles them."""

from __future__ import annotations

import ctypes
import os
import time
from typing import Any

import torch
from torch.utils.data import Dataset

import batchmill


def end_badly(how: str) -> None:
    """Do to this process what a deadly sample does."""
    if how == "segfault":
        ctypes.string_at(0)
    elif how == "exit":
        os._exit(3)
    while True:
        time.sleep(1)


class Vectors(Dataset):
    """Sample i is eight floats that depend on i; reading the samples in ``deadly`` ends badly."""

    def __init__(self, n: int, deadly: list[int], how: str) -> None:
        self.values = torch.randn(n, 8, generator=torch.Generator().manual_seed(5))
        self.deadly, self.how = set(deadly), how

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index in self.deadly:
            end_badly(self.how)
        return {"x": self.values[index], "i": index}


class Linear(batchmill.TorchBatchProcessor):
    """A linear layer, whose bits depend on the batch's shape; processing the samples in ``deadly`` ends badly."""

    def __init__(self, context: batchmill.TorchBatchProcessorContext, deadly: list[int], how: str) -> None:
        torch.manual_seed(1)
        self.layer = torch.nn.Linear(8, 5)
        self.rows = context.wrap_reducer(batchmill.Reducer.SUM, "rows")
        self.deadly, self.how = set(deadly), how

    def process_batch(self, batch: Any, batch_idx: int) -> Any:
        if self.deadly & set(batch["i"].tolist()):
            end_badly(self.how)
        self.rows.update(len(batch["i"]))
        with torch.inference_mode():
            return {"y": self.layer(batch["x"])}
