import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from batchmill import DistributedContext, RunRequest, Selection, WorkerError
from batchmill.engine.isolation import OutOfTime
from batchmill.engine.stopping import StopFlag
from batchmill.launch.trial_process import LocalTrialProcess

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals and /proc as Linux has them")

JOB = """
    import ctypes, os, time
    import torch
    import batchmill

    def data():
        return torch.utils.data.TensorDataset(torch.arange(20))

    class Job(batchmill.TorchBatchProcessor):
        def __init__(self, context, broken=False):
            if broken:
                raise OSError("no weights")
            self.context = context
            self.seen = context.wrap_reducer(batchmill.Reducer.SUM, "seen")

        def process_batch(self, batch, batch_idx):
            values = batch[0].tolist()
            with self.context.upload_path() as path:
                (path / "same-name").write_text("x")
            self.context.report_metrics("mine", 1, {"rows": len(values)})
            self.seen.update(len(values))
            if 7 in values:
                ctypes.string_at(0)
            if 8 in values:
                time.sleep(600)
            if 9 in values:
                raise ValueError("nine")
"""


@pytest.fixture
def make_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    (tmp_path / "trial_job.py").write_text(textwrap.dedent(JOB))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def make(**settings: object) -> RunRequest:
        return RunRequest(
            processor=Selection("trial_job:Job", settings),
            dataset=Selection("trial_job:data"),
            output=str(tmp_path / "runs"),
            run_id="x",
            batch_size=5,
            device="cpu",
            allow_import=True,
        )

    return make


def start(request: RunRequest, stop: StopFlag | None = None, limit: float = 2.0) -> LocalTrialProcess:
    return LocalTrialProcess(request, DistributedContext(), limit, stop or StopFlag(), lambda: None)


def test_it_tells_who_dies_who_hangs_and_who_lives(make_request, tmp_path):  # type: ignore[no-untyped-def]
    process = start(make_request())
    try:
        assert process.attempt(0, [0, 1, 2, 3, 4]) is None
        assert process.attempt(0, [0, 1, 2, 3, 4]) is None, "what a trial hands over is forgotten"
        assert process.attempt(1, [4, 4, 4, 4, 4]) is None, "an error is not a death"
        died = process.attempt(1, [0, 1, 2, 2, 2])
        assert died is not None and died.error == "ProcessDied" and "SIGSEGV" in died.message
        assert "trial_job.py" in died.traceback and "process_batch" in died.traceback
        hung = process.attempt(1, [3, 3, 3, 3, 3])
        assert hung is not None and hung.error == "Hung" and "process_batch" in hung.traceback
        assert process.attempt(1, [0, 0, 0, 0, 0]) is None, "a new process is there"
    finally:
        process.close()
    assert not list((tmp_path / "runs/x").glob("files/*")) and not list((tmp_path / "runs/x").glob("reports/*"))
    children = subprocess.run(["pgrep", "-P", str(os.getpid()), "-f", "trial_worker"], capture_output=True, check=False)
    assert children.stdout == b""


def test_a_processor_that_cannot_be_built_is_told(make_request):  # type: ignore[no-untyped-def]
    process = start(make_request(broken=True))
    try:
        with pytest.raises(WorkerError, match="not be started: The processor could not be built: OSError: no weights"):
            process.attempt(0, [0])
    finally:
        process.close()


def test_a_stop_ends_the_trials(make_request):  # type: ignore[no-untyped-def]
    stop = StopFlag()
    process = start(make_request(), stop, limit=600.0)
    try:
        assert process.attempt(0, [0] * 5) is None
        stop.request(signal.Signals.SIGTERM.name, now=True)
        began = time.monotonic()
        with pytest.raises(OutOfTime):
            process.attempt(1, [3] * 5)
        assert time.monotonic() - began < 5
    finally:
        process.close()
