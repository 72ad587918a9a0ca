"""The Python API: a processor and a reducer of your own, and files that are committed with their chunk.

    python examples/python_api/run.py
    torchrun --nproc-per-node 2 examples/python_api/run.py

Both give the same bytes. Run it twice with the same --run-id: the second time there is nothing left to do.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch.utils.data import Dataset

import batchmill


class Digits(Dataset[dict[str, Any]]):
    """Scikit-learn's 1,797 handwritten digits, as any PyTorch dataset gives them: one by one."""

    def __init__(self) -> None:
        digits = load_digits()
        self.images = torch.tensor(digits.images, dtype=torch.int64)
        self.labels = torch.tensor(digits.target, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index], "label": self.labels[index]}


class BrightnessByDigit(batchmill.MetricReducer):
    """Mean brightness (0 to 16) of a pixel, for each digit."""

    def reset(self) -> None:
        """Forget everything seen."""
        self.sums, self.pixels = torch.zeros(10, dtype=torch.int64), torch.zeros(10, dtype=torch.int64)

    def update(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Take images, int64 of shape (rows, 8, 8), and their labels, int64 of shape (rows,)."""
        self.sums.index_add_(0, labels, images.sum(dim=(1, 2)))
        self.pixels.index_add_(0, labels, torch.full_like(labels, images[0].numel()))

    def per_slot_reduce(self) -> Mapping[str, torch.Tensor]:
        """Return what was seen since the last reset: whole numbers, so that no order of adding them matters."""
        return {"sums": self.sums, "pixels": self.pixels}

    def cross_slot_reduce(self, per_slot_metrics: Sequence[Mapping[str, torch.Tensor]]) -> list[float]:
        """Return the ten means from the partials of all chunks."""
        sums = sum(partial["sums"] for partial in per_slot_metrics)
        pixels = sum(partial["pixels"] for partial in per_slot_metrics)
        return (sums / pixels).tolist()


class Inspector(batchmill.TorchBatchProcessor):
    """Keeps the ink of each image as a row, and the inkiest image of each chunk as a file."""

    def __init__(self, context: batchmill.TorchBatchProcessorContext) -> None:
        self.context = context
        self.brightness = context.wrap_reducer(BrightnessByDigit(), name="brightness_by_digit")
        self.inkiest: torch.Tensor | None = None

    def process_batch(self, batch: Mapping[str, torch.Tensor], batch_idx: int) -> dict[str, torch.Tensor]:
        """Return one value per image; the rows are written by the run's writer."""
        images, labels = batch["image"], batch["label"]
        self.brightness.update(images, labels)
        ink = images.sum(dim=(1, 2))
        best = images[ink.argmax()]
        if self.inkiest is None or best.sum() > self.inkiest.sum():
            self.inkiest = best
        return {"ink": ink, "label": labels}

    def on_checkpoint_start(self) -> None:
        """Hand over the chunk's file; it exists exactly if the chunk's rows do."""
        assert self.inkiest is not None, "a chunk has at least one batch"
        with self.context.upload_path() as folder:
            rows = "\n".join(" ".join(map(str, row)) for row in self.inkiest.tolist())
            (folder / "inkiest.pgm").write_text(f"P2 8 8 16\n{rows}\n")
        self.inkiest = None


def main() -> None:
    """Run it and tell what came of it."""
    parser = argparse.ArgumentParser(description="The Python API over 1,797 handwritten digits.")
    parser.add_argument("--output", default="runs", help="directory that holds runs")
    parser.add_argument("--run-id", help="name of the run; the same name resumes it")
    given = parser.parse_args()
    result = batchmill.torch_batch_process(
        Inspector, Digits(), batch_size=64, checkpoint_interval=4, output=given.output, run_id=given.run_id
    )
    if os.environ.get("RANK", "0") != "0":  # torchrun: one worker tells
        return
    print(f"run {result.run_id}: {result.samples:,} samples, complete: {result.complete}")
    for digit, brightness in enumerate(result.metrics["brightness_by_digit"]):
        print(f"  digit {digit}: mean brightness {brightness:.3f}")
    rows = batchmill.read_outputs(result)
    print(f"{rows.num_rows:,} rows below {result.path}/parts, {rows.schema.names}")
    print(f"the inkiest image of each chunk: {result.path}/files/*/*/inkiest.pgm")


if __name__ == "__main__":
    main()
