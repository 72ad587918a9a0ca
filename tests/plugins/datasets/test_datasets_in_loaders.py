import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import DataLoader

from batchmill_plugins.datasets._jsonl import JsonlDataset
from batchmill_plugins.datasets._parquet import ParquetDataset
from batchmill_plugins.datasets._tensors import TensorsDataset

ROWS = 12


class Together(torch.utils.data.Dataset):
    """Reads one range of several datasets at once, as plain lists."""

    def __init__(self, datasets):
        self.datasets = datasets

    def __getitem__(self, key):
        return [{name: torch.as_tensor(v).tolist() for name, v in d.read_batch(*key).items()} for d in self.datasets]


def unchanged(batch):
    return batch


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_every_file_dataset_reads_in_loader_processes(tmp_path, start_method):
    x = np.arange(ROWS)
    np.savez(tmp_path / "x.npz", x=x)
    pq.write_table(pa.table({"x": x}), tmp_path / "x.parquet", row_group_size=5)
    (tmp_path / "x.jsonl").write_text("".join(json.dumps({"x": i}) + "\n" for i in range(ROWS)))
    datasets = [
        TensorsDataset(str(tmp_path / "x.npz")),
        ParquetDataset(str(tmp_path / "x.parquet")),
        JsonlDataset(str(tmp_path / "x.jsonl")),
    ]
    for dataset in datasets:
        dataset.read_batch(0, 1)  # opens what a worker process must open anew
    loader = DataLoader(
        Together(datasets),
        batch_size=None,
        sampler=[(i, i + 3) for i in range(0, ROWS, 3)],
        num_workers=2 if start_method == "fork" else 1,
        collate_fn=unchanged,
        multiprocessing_context=start_method,
    )
    assert list(loader) == [[{"x": list(range(i, i + 3))}] * 3 for i in range(0, ROWS, 3)]
