"""Trials that look for bad samples leave nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch.utils.data import TensorDataset

import batchmill


class ReportsAndUploads(batchmill.TorchBatchProcessor):
    """Hands over a report and a file for each batch, and only then finds out that a sample is bad."""

    def __init__(self, context: batchmill.TorchBatchProcessorContext) -> None:
        self.context = context

    def process_batch(self, batch: list[torch.Tensor], batch_idx: int) -> dict[str, torch.Tensor]:
        rows = len(batch[0])
        self.context.report_metrics("batches", batch_idx, {"rows": rows})
        with self.context.upload_path() as folder:
            (folder / f"{batch_idx}.json").write_text(str(rows))
        if 5.0 in batch[0]:
            raise ValueError("five")
        return {"value": batch[0]}


def test_reports_and_files_of_a_batch_with_a_bad_sample_are_handed_over_once(tmp_path: Path) -> None:
    data = TensorDataset(torch.arange(12.0))
    result = batchmill.torch_batch_process(
        ReportsAndUploads, data, batch_size=4, checkpoint_interval=2, output=str(tmp_path), run_id="run"
    )
    assert result.complete and result.quarantined == 1
    records = [json.loads(path.read_text()) for path in sorted((tmp_path / "run" / "commits").iterdir())]
    reports = [report for record in records for report in record["reports"]]
    assert [(report["steps_completed"], report["metrics"]) for report in reports] == [
        (0, {"rows": 4}),
        (1, {"rows": 3}),
        (2, {"rows": 4}),
    ]
    uploaded = [tmp_path / "run" / named["name"] for record in records for named in record["files"]]
    assert {path.name: path.read_text() for path in uploaded} == {"0.json": "4", "1.json": "3", "2.json": "4"}
