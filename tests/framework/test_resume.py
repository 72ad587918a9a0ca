import json
import shutil
import sys
import textwrap

import pytest
import torch
from torch.utils.data import TensorDataset

import batchmill
from batchmill import (
    ConfigError,
    Reducer,
    RunNotFoundError,
    RunRequest,
    Selection,
    TorchBatchProcessor,
    hookimpl,
    read_outputs,
    resume,
    run,
    torch_batch_process,
)


class Doubling(TorchBatchProcessor):
    def __init__(self, context):
        self.total = context.wrap_reducer(Reducer.SUM, "total")

    def process_batch(self, batch, batch_idx):
        self.total.update(batch[0].sum())
        return {"y": batch[0] * 2}


DATA = TensorDataset(torch.arange(50.0))


@pytest.fixture
def output(tmp_path):
    return tmp_path / "runs"


@pytest.fixture
def numbers(tmp_path):
    path = tmp_path / "numbers.jsonl"
    path.write_text("".join(json.dumps({"x": i}) + "\n" for i in range(20)))
    return path


class StopAfter:
    """A callback that stops a run after some checkpoints."""

    def __init__(self, checkpoints):
        self.left = checkpoints

    @hookimpl
    def should_stop(self):
        self.left -= 1
        return "enough" if self.left == 0 else None


def test_a_run_from_python_objects_says_how_it_can_be_resumed(output):
    torch_batch_process(Doubling, DATA, 5, output=output, run_id="x", callbacks={"stop": StopAfter(1)})
    with pytest.raises(ConfigError, match=r"started from Python \(.*processor=Doubling.*run_id='x'"):
        resume(str(output / "x"))


def test_what_is_no_run_cannot_be_resumed(output):
    with pytest.raises(RunNotFoundError, match="There is no run at"):
        resume(str(output / "x"))


JOB = """
    import sys
    from pathlib import Path
    import batchmill

    class Stop(batchmill.TorchBatchProcessor):
        def __init__(self, context):
            self.total = context.wrap_reducer(batchmill.Reducer.SUM, "total")
        def process_batch(self, batch, batch_idx):
            self.total.update(sum(map(int, batch["x"])))
            if batch_idx == 3 and Path("broken").exists():
                raise RuntimeError("broken")
            return {"y": [int(x) for x in batch["x"]]}
"""


@pytest.fixture
def broken_run(output, numbers, tmp_path, monkeypatch):
    """A run from names alone that failed after three chunks, and is whole again."""
    (tmp_path / "job_of_test_api.py").write_text(textwrap.dedent(JOB))
    (tmp_path / "broken").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    request = RunRequest(
        processor=Selection("job_of_test_api:Stop"),
        dataset=Selection("jsonl", {"path": str(numbers)}),
        launcher=Selection("in_process"),
        output=str(output),
        run_id="x",
        batch_size=4,
        checkpoint_interval=1,
        allow_import=True,
        on_error="fail",
    )
    with pytest.raises(batchmill.ProcessorError, match="broken"):
        run(request)
    (tmp_path / "broken").unlink()
    yield output / "x"
    sys.modules.pop("job_of_test_api", None)


def test_a_composed_run_is_resumed_from_its_directory_alone(broken_run):
    result = resume(str(broken_run))
    assert (result.complete, result.metrics) == (True, {"total": 190.0})
    assert read_outputs(result)["y"].to_pylist() == list(range(20))
    assert resume(f"{broken_run}/") == result, "a complete run stays as it is"


def test_a_run_may_be_resumed_from_within_its_output(broken_run, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(broken_run.parents[1]))
    (broken_run.parent / "job_of_test_api.py").symlink_to(broken_run.parents[1] / "job_of_test_api.py")
    monkeypatch.chdir(broken_run.parent)
    assert resume("x").complete


def test_a_renamed_run_is_not_resumed_under_its_old_name(broken_run):
    moved = broken_run.with_name("y")
    shutil.move(broken_run, moved)
    with pytest.raises(ConfigError, match=r"is run 'x', but its directory is named 'y'"):
        resume(str(moved))
    assert not broken_run.exists()
