"""A job whose rows are scores and labels, some samples of which fail, for metrics of committed rows."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import batchmill

BAD = (3, 77, 78, 202)


class Scored(batchmill.TorchBatchProcessor):
    """Returns a score with many ties and a label for each of ``jobs:Values``.

    Args:
        context: From the engine.
        pause: Seconds to sleep in each batch, so that there is time for faults.
        healed: File without which the samples in BAD fail.
    """

    def __init__(self, context: batchmill.TorchBatchProcessorContext, pause: float = 0.0, healed: str = "") -> None:
        self.pause, self.healed = pause, healed

    def process_batch(self, batch: Any, batch_idx: int) -> Any:
        time.sleep(self.pause)
        if set(batch["i"].tolist()) & set(BAD) and not (self.healed and Path(self.healed).exists()):
            raise ValueError("a sample that does not work")
        label = (batch["x"] * 997 % 3 < 1).long()
        return {"score": (batch["x"] * 7 % 5).round() + label, "x": batch["x"], "label": label}
