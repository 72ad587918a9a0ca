import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from torch.utils.data import TensorDataset

from batchmill import TorchBatchProcessor, torch_batch_process

Invoke = Callable[..., Result]


class Picky(TorchBatchProcessor):
    """Fails on each sample whose number ends in 3."""

    def __init__(self, context: Any) -> None:
        pass

    def process_batch(self, batch: Any, batch_idx: int) -> Any:
        if (batch[0] % 10 == 3).any():
            raise ValueError("no threes,\nplease")
        return {"y": batch[0]}


@pytest.fixture
def failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with 25 quarantined samples."""
    monkeypatch.chdir(tmp_path)
    data = TensorDataset(torch.arange(250))
    result = torch_batch_process(Picky, data, 16, run_id="x", max_errors=25, callbacks={})
    assert result.complete and result.quarantined == 25
    return Path(result.path)


class TestQuarantined:
    def test_the_first_ones_as_a_table(self, invoke: Invoke, failed: Path) -> None:
        done = invoke("quarantined", "x")
        assert done.exit_code == 0
        assert "3       process  ValueError: no threes, please" in done.stdout
        assert done.stdout.count("process  ValueError") == 20
        assert "... and 5 more; --jsonl lists all." in done.stdout
        assert "batchmill retry-quarantined runs/x" in done.stdout

    def test_all_as_json_lines(self, invoke: Invoke, failed: Path) -> None:
        done = invoke("quarantined", str(failed), "--jsonl")
        entries = [json.loads(line) for line in done.stdout.splitlines()]
        assert [entry["index"] for entry in entries] == list(range(3, 250, 10))
        assert {entry["stage"] for entry in entries} == {"process"}
        assert {entry["message"] for entry in entries} == {"no threes,\nplease"}
        assert all('raise ValueError("no threes' in entry["traceback"] for entry in entries)

    def test_none(self, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        torch_batch_process(Picky, TensorDataset(torch.zeros(5)), 5, run_id="x")
        done = invoke("quarantined", "x")
        assert (done.exit_code, done.stdout) == (0, "No sample of runs/x was set aside.\n")

    def test_show_counts_them(self, invoke: Invoke, failed: Path) -> None:
        shown = " ".join(invoke("show", "x").stdout.split())
        assert "25 samples failed: batchmill quarantined" in shown


class TestRetry:
    def test_asks_the_engine(self, invoke: Invoke, engine: Any, result: Any) -> None:
        engine.answers = [result()]
        done = invoke("retry-quarantined", "memory://x/first", "--nproc", "3", "--max-errors", "7")
        assert done.exit_code == 0, done.stderr
        assert engine.resumed == [("memory://x/first", 3)] and engine.changes == [
            {"max_errors": 7, "allow_import": None}
        ]
        assert "Run first is complete" in done.stdout

    def test_a_run_from_python_objects_says_what_to_do(self, invoke: Invoke, failed: Path) -> None:
        done = invoke("retry-quarantined", "x")
        assert done.exit_code == 2
        assert "Run the same script again with run_id='x'" in done.stderr
        again = torch_batch_process(Picky, TensorDataset(torch.arange(250)), 16, run_id="x", max_errors=25)
        assert again.quarantined == 25 and (failed / "retries/0001/result.json").exists()
