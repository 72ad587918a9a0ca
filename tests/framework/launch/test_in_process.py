"""One worker in the calling process: Ctrl-C reaches the script, and handlers are given back."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

import batchmill
from batchmill.contracts.run import Selection
from batchmill.launch.in_process import InProcessLauncher


class Interrupting(batchmill.TorchBatchProcessor):
    """Presses Ctrl-C in batch 3, unless told otherwise."""

    def __init__(self, context: batchmill.TorchBatchProcessorContext) -> None:
        self.press = context.get_hparams()["press"]

    def process_batch(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        if self.press and batch_idx == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return batch[0]


def run(output: Path, press: bool) -> batchmill.RunResult:
    dataset = TensorDataset(torch.arange(40.0))
    return batchmill.torch_batch_process(
        Interrupting,
        dataset,
        batch_size=2,
        checkpoint_interval=2,
        output=output,
        run_id="run",
        hparams={"press": press},
    )


def test_ctrl_c_stops_the_script_after_the_chunk_in_progress(output: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match=r"run run stopped at 20%; the same run_id resumes it"):
        run(output, press=True)
    assert signal.getsignal(signal.SIGINT) is before
    assert len(list((output / "run" / "commits").glob("*.json"))) == 2


def test_ctrl_c_is_a_preemption_for_whoever_asked_the_launcher(output: Path) -> None:
    result = InProcessLauncher().launch(
        batchmill.RunRequest(
            processor=Selection("", instance=Interrupting),
            dataset=Selection("", instance=TensorDataset(torch.arange(40.0))),
            output=str(output),
            run_id="run",
            batch_size=2,
            checkpoint_interval=2,
            hparams={"press": True},
        )
    )
    assert (result.complete, result.exit_code, result.stop_reason) == (False, 75, "received SIGINT")


def test_a_complete_run_is_made_durable_again_before_it_is_reported(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writer may have died before its fsync: what is visible then can still be lost with the power."""
    run(output, press=False)
    synced: list[str] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    before = (output / "run" / "result.json").read_bytes()
    assert run(output, press=False).complete
    assert synced[-1] == str(output / "run"), "the folder that holds the names of result.json and _SUCCESS"
    assert (output / "run" / "result.json").read_bytes() == before
