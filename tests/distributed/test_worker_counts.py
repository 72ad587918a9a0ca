"""The same run on 1, 2, 3 and 5 workers: equal rows and a byte-identical ``result.json``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from checker import CheckedRun, check_complete, rows_of
from job_requests import job, on, run_here
from oracle import assert_doubler
from process_fixtures import linux_only
from processes import Launcher

from batchmill.contracts.run import RunRequest, Selection
from batchmill.inspection import verify_run

pytestmark = linux_only

COLUMN_REDUCERS = {
    "rows": Selection("count", {"column": "y"}),
    "total": Selection("sum", {"column": "y"}),
    "average": Selection("mean", {"column": "y"}),
    "least": Selection("min", {"column": "y"}),
    "spread": Selection("histogram", {"column": "y", "bins": 7, "low": 0.0, "high": 3000.0}),
}
CLASS_REDUCERS = {
    "accuracy": Selection("accuracy", {"prediction": "prediction", "target": "label"}),
    "confusion": Selection("confusion_matrix", {"prediction": "prediction", "target": "label", "labels": 4}),
    "score": Selection("mean", {"column": "scores"}),
}

# The jobs, and on how many workers each is compared with one worker.
JOBS: dict[str, tuple[dict[str, Any], list[int]]] = {
    "static": ({"claims": "static", "reducers": COLUMN_REDUCERS}, [2]),
    "dynamic": ({"claims": "dynamic", "reducers": COLUMN_REDUCERS}, [3]),
    "linear": ({"processor": "Linear", "dataset": "vectors", "samples": 301, "reducers": CLASS_REDUCERS}, [2, 3, 5]),
    "cnn": ({"processor": "SmallCnn", "dataset": "images", "samples": 111, "batch_size": 8}, [3]),
    "loader processes": ({"loader": {"num_workers": 2}, "settings": {"pause": 0.005}}, [2]),
}


def finished(launch: Launcher, request: RunRequest, nproc: int, folder: Path) -> CheckedRun:
    """Run a request on ``nproc`` workers in a folder of its own and check it."""
    request = on(dataclasses.replace(request, output=str(folder)), nproc)
    if nproc == 1:
        assert run_here(request).complete
    else:
        launch.job(request).finish(0)
    report = verify_run(str(folder / "run"))
    assert report.ok and report.complete, report.problems
    return check_complete(folder / "run")


@pytest.mark.parametrize("name", JOBS)
def test_any_number_of_workers_gives_the_same_bytes(launch: Launcher, output: Path, name: str) -> None:
    changes, sizes = JOBS[name]
    request = job(output, **changes)
    alone = finished(launch, request, 1, output / "1")
    for nproc in sizes:
        together = finished(launch, request, nproc, output / str(nproc))
        assert together.result_bytes == alone.result_bytes
        assert rows_of(together) == rows_of(alone)
    if "processor" not in changes:
        assert_doubler(alone, extra_metrics=COLUMN_REDUCERS)
