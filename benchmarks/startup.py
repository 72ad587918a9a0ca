"""W7: how long one waits before anything happens."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import Case, Goal, Outcome, Spent, interleave, timed

ANSWER_SECONDS = 0.7

_SCRIPT = """
import torch
model = torch.nn.Linear(64, 10).eval()
with torch.inference_mode():
    model(torch.zeros(256, 64))
"""

_MODULE = """
import torch
import batchmill


class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 256

    def __getitem__(self, index):
        return torch.zeros(64)


class Linear(batchmill.TorchBatchProcessor):
    def __init__(self, context):
        self.model = context.prepare_model_for_inference(torch.nn.Linear(64, 10))

    def process_batch(self, batch, batch_idx):
        with torch.inference_mode():
            return {"logits": self.model(batch)}
"""


def w7(short: bool) -> Outcome:
    """Process start to end: one batch by a script and by ``batchmill run``, and the verbs that only tell."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "one_batch.py").write_text(_MODULE)
        run = [
            "run",
            "allow_import=true",
            "+processor.name=one_batch:Linear",
            "+dataset.name=one_batch:Data",
            "batch_size=256",
            "callbacks=[]",
        ]
        verbs = {
            "batchmill --help": ["--help"],
            "batchmill plugins": ["plugins"],
            "batchmill ls": ["ls"],
            "a configuration error": ["run", "processor=torch_modul"],
        }
        cases: dict[str, Case] = {
            "script: import torch, one batch": process([sys.executable, "-c", _SCRIPT], folder),
            "batchmill run, one batch": command(run, folder),
            **{shown: command(arguments, folder) for shown, arguments in verbs.items()},
        }
        timings = interleave(cases, repeats=1 if short else 7, warm_up=not short)
    goals = [
        Goal(f"{shown} answers within {ANSWER_SECONDS} s", timings[shown].median < ANSWER_SECONDS) for shown in verbs
    ]
    return Outcome("W7", "wall time of whole processes", timings, goals=goals)


def command(arguments: Sequence[str], folder: Path) -> Case:
    """Return a case that runs one ``batchmill`` command."""
    return process([sys.executable, "-m", "batchmill", *arguments], folder)


def process(arguments: Sequence[str], folder: Path) -> Case:
    """Return a case that runs one process to its end; only an error in the machinery counts as failure."""

    def case() -> Spent:
        def work() -> None:
            done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
            if done.returncode not in (0, 2) or "Traceback" in done.stderr:
                raise AssertionError(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}")

        return timed(work)

    return case
