from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from batchmill.cli import app
from batchmill.contracts.run import RunRequest, RunResult

# The least that composes with the plugins that are installed; the class is never imported by the tests that use it.
RUNNABLE = ["+processor.name=mine:Mine", "allow_import=true", "dataset=jsonl", "dataset.path=data.jsonl"]


@pytest.fixture
def runnable() -> list[str]:
    return list(RUNNABLE)


@pytest.fixture
def invoke() -> Callable[..., Result]:
    """Call the command line in this process; standard output and error are kept apart."""

    def call(*arguments: str, env: Mapping[str, str] | None = None) -> Result:
        return CliRunner(env={"NO_COLOR": "1", **(env or {})}).invoke(app, list(arguments))

    return call


@pytest.fixture
def result() -> Callable[..., RunResult]:
    """Make a run's result; everything may be changed."""

    def make(**changes: Any) -> RunResult:
        values: dict[str, Any] = {
            "run_id": "first",
            "path": "runs/first",
            "complete": True,
            "coverage": 1.0,
            "samples": 1797,
            "quarantined": 0,
            "metrics": {"accuracy": 0.98331, "count": 1797},
            "outputs": (
                {"name": "parts/0/a.parquet", "start": 0, "stop": 1797, "rows": 1797, "bytes": 9, "sha256": "x"},
            ),
        }
        return RunResult(**{**values, **changes})

    return make


class Engine:
    """Stands in for ``batchmill.api``: keeps what it was asked and answers as told."""

    def __init__(self) -> None:
        self.requests: list[RunRequest] = []
        self.resumed: list[tuple[str, int | None]] = []
        self.allowed: list[bool | None] = []
        self.changes: list[dict[str, Any]] = []
        self.answers: list[RunResult | Exception] = []

    def run_request(self, request: RunRequest) -> RunResult:
        self.requests.append(request)
        return self._answer()

    def resume(
        self, run: str, nproc: int | None = None, *, allow_import: bool | None = None, **changes: Any
    ) -> RunResult:
        self.resumed.append((run, nproc))
        self.allowed.append(allow_import)
        self.changes.append(changes)
        return self._answer()

    def retry_quarantined(self, run: str, nproc: int | None = None, **changes: Any) -> RunResult:
        self.resumed.append((run, nproc))
        self.changes.append(changes)
        return self._answer()

    def _answer(self) -> RunResult:
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    made = Engine()
    monkeypatch.setattr("batchmill.api.run_request", made.run_request)
    monkeypatch.setattr("batchmill.api.resume", made.resume)
    monkeypatch.setattr("batchmill.api.retry_quarantined", made.retry_quarantined)
    for variable in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(variable, raising=False)
    return made


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def runs_that_reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs of ``metric_runs``."""
    from metric_runs import make_runs

    folder = tmp_path_factory.mktemp("reported")
    make_runs(folder)
    return folder


@pytest.fixture
def reported(runs_that_reported: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same as working directory."""
    monkeypatch.chdir(runs_that_reported)
    return runs_that_reported
