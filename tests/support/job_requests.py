"""Requests for the jobs of ``jobs.py``, and runs of them in this process."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from batchmill.contracts.run import RunRequest, RunResult, Selection

SAMPLES, BATCH, INTERVAL = 203, 5, 2  # 41 batches, 21 chunks, the last batch of three samples


def job(
    output: Path | str,
    run_id: str = "run",
    *,
    nproc: int = 1,
    processor: str | Selection = "Doubler",
    settings: Mapping[str, Any] | None = None,
    dataset: str | Selection = "Values",
    samples: int = SAMPLES,
    data: Mapping[str, Any] | None = None,
    claims: str = "dynamic",
    **changes: Any,
) -> RunRequest:
    """Return a request for a job; ``changes`` are fields of the request."""
    request = RunRequest(
        processor=_named(processor, settings or {}),
        dataset=_named(dataset, {"n": samples, **(data or {})}),
        claims=Selection(claims),
        launcher=Selection("local", {"nproc": nproc}),
        output=str(output),
        run_id=run_id,
        batch_size=BATCH,
        checkpoint_interval=INTERVAL,
        device="cpu",
        allow_import=True,
    )
    return dataclasses.replace(request, **changes)


def _named(what: str | Selection, settings: Mapping[str, Any]) -> Selection:
    return what if isinstance(what, Selection) else Selection(f"jobs:{what}", dict(settings))


def on(request: RunRequest, nproc: int) -> RunRequest:
    """Return the request for another number of workers."""
    return dataclasses.replace(request, launcher=Selection("local", {"nproc": nproc}))


def run_here(request: RunRequest) -> RunResult:
    """Run a request on one worker in this process."""
    from batchmill.api import run_request

    return run_request(dataclasses.replace(request, launcher=Selection("in_process")))
