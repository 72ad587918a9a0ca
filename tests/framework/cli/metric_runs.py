"""Real runs that report metrics, for tests of the verbs that show them."""

from pathlib import Path
from typing import Any

import torch
from torch.utils.data import TensorDataset

from batchmill import Reducer, TorchBatchProcessor, client, torch_batch_process

MATRIX = [[50.0 + i for i in range(10)] for _ in range(10)]
THIRD = 1 / 3
HOSTILE = "evil\x1b[2Jname"
TURNED = "group\u202eturned"


def scored(version: Any, accuracy: float, group: str = "inference", **more: Any) -> type[TorchBatchProcessor]:
    """Return a processor that uses a version and reports fixed metrics."""

    class Scored(TorchBatchProcessor):
        def __init__(self, context: Any) -> None:
            self.context = context
            self.total = context.wrap_reducer(Reducer.SUM, "total")
            if version is not None:
                context.report_task_using_model_version(version)

        def process_batch(self, batch: Any, batch_idx: int) -> None:
            self.total.update(batch[0].sum())

        def on_finish(self) -> None:
            self.context.report_metrics(group, 1, {"accuracy": accuracy / 2})
            self.context.report_metrics(group, 2, {"accuracy": accuracy, **more})

    return Scored


def make_runs(folder: Path) -> None:
    """Make runs of two versions of ``digits``, one run that was cut short, and one of no model with hostile names."""
    output = folder / "runs"
    client.connect(str(output))
    try:
        model = client.create_model("digits")
        versions = []
        for number in (1, 2):
            weights = folder / f"weights-{number}"
            weights.write_bytes(bytes([number]))
            versions.append(model.register_version(weights, labels=["production"] if number == 1 else []))
        client.create_model("unused")
    finally:
        client.disconnect()
    small, other = (TensorDataset(torch.arange(size)) for size in (10.0, 12.0))
    old, new = versions
    jobs = {
        "base": (scored(old, 0.99, loss=THIRD, matrix=MATRIX), small),
        "earlier": (scored(new, 0.5, loss=9.0), small),
        "tonight": (scored(new, 0.98, loss=0.5, matrix=MATRIX, name="text"), small),
        "cut": (scored(new, 0.1, loss=9.0), small),
        "wider": (scored(new, 0.99, group="wide"), other),
        "alone": (scored(None, 0.3, TURNED, **{HOSTILE: "value\x1b[31m\r\nnext"}), small),
    }
    for run_id, (processor, data) in jobs.items():
        torch_batch_process(processor, data, 5, output=output, run_id=run_id)
    for name in ("result.json", "_SUCCESS"):
        (output / "cut" / name).unlink()
