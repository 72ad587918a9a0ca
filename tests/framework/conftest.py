import json
from dataclasses import replace

import pytest

from batchmill import RunRequest, Selection, api, run

COPYING = """
import os
import batchmill

class Copying(batchmill.TorchBatchProcessor):
    def __init__(self, context):
        pass
    def process_batch(self, batch, batch_idx):
        with open("processed", "a") as file:
            file.write(f"{batch_idx}\\n")
        if 7 in batch["x"].tolist() and os.path.exists("broken"):
            raise ValueError("seven")
        return {"x": batch["x"]}
"""


@pytest.fixture
def named(tmp_path, monkeypatch):
    """A run from names alone, which can be rebuilt from its directory; four chunks of five samples."""
    (tmp_path / "repaired_job.py").write_text(COPYING)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    numbers = tmp_path / "numbers.jsonl"
    numbers.write_text("".join(json.dumps({"x": i}) + "\n" for i in range(20)))
    request = RunRequest(
        Selection("repaired_job:Copying"),
        Selection("jsonl", {"path": str(numbers)}),
        launcher=Selection("in_process"),
        output=str(tmp_path / "runs"),
        run_id="x",
        batch_size=5,
        checkpoint_interval=1,
        allow_import=True,
    )
    assert run(request).complete
    (tmp_path / "processed").unlink()
    return tmp_path / "runs" / "x"


@pytest.fixture
def retried(named, tmp_path):
    """A run whose sample 7 failed, and did not when it was tried again."""
    request = RunRequest.from_json(json.loads((named / "run.json").read_bytes())["config"]["request"])
    (tmp_path / "broken").touch()
    assert run(replace(request, output=str(tmp_path / "retried"))).quarantined == 1
    (tmp_path / "broken").unlink()
    assert api.retry_quarantined(str(tmp_path / "retried" / "x")).quarantined == 0
    return tmp_path / "retried" / "x"
