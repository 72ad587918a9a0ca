import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result

from batchmill.contracts.run import RunResult, Selection
from batchmill.errors import EXIT_PREEMPTED, ConfigMismatchError, StorageError

Invoke = Callable[..., Result]
Make = Callable[..., RunResult]


class TestRun:
    def test_shows_what_it_came_to(self, invoke: Invoke, engine: Any, result: Make, runnable: list[str]) -> None:
        engine.answers = [result(quarantined=2)]
        done = invoke("run", *runnable, "batch_size=8")
        assert done.exit_code == 0
        assert engine.requests[0].batch_size == 8
        assert engine.requests[0].processor == Selection("mine:Mine")
        for part in ("Run first is complete", "1,797 committed (100 %)", "accuracy", "0.98331", "runs/first"):
            assert part in done.stdout
        assert "1,797 rows in 1 parts" in done.stdout
        assert "batchmill.read_outputs('runs/first')" in done.stdout
        assert "2 samples failed" in done.stdout

    def test_an_incomplete_run_says_how_to_go_on(
        self, invoke: Invoke, engine: Any, result: Make, runnable: list[str]
    ) -> None:
        engine.answers = [
            result(complete=False, coverage=0.9999, stop_reason="received SIGTERM", metrics={}, outputs=())
        ]
        done = invoke("run", *runnable)
        assert done.exit_code == EXIT_PREEMPTED
        for part in ("stopped early: received SIGTERM", "99.9 %", "batchmill resume runs/first"):
            assert part in done.stdout
        assert "100 %" not in done.stdout

    def test_json_is_all_that_reaches_stdout(
        self, invoke: Invoke, engine: Any, result: Make, runnable: list[str]
    ) -> None:
        def noisy(request: Any) -> RunResult:
            print("from a processor")
            return result()

        engine.run_request = noisy
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("batchmill.api.run_request", noisy)
            done = invoke("run", *runnable, "--json")
        shown = json.loads(done.stdout)
        assert shown["metrics"] == {"accuracy": 0.98331, "count": 1797}
        assert shown["outputs"][0]["rows"] == 1797
        assert "from a processor" in done.stderr

    def test_a_mistake_runs_nothing(self, invoke: Invoke, engine: Any, runnable: list[str]) -> None:
        done = invoke("run", *runnable, "batch_sise=8")
        assert (done.exit_code, done.stdout, engine.requests) == (2, "", [])
        assert "Did you mean 'batch_size'?" in done.stderr

    def test_other_ranks_are_silent(
        self, invoke: Invoke, engine: Any, result: Make, runnable: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine.answers = [result(complete=False), result()]
        environment = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        second = invoke("run", *runnable, env={**environment, "RANK": "1", "LOCAL_RANK": "1"})
        assert (second.exit_code, second.stdout) == (EXIT_PREEMPTED, "")
        first = invoke("run", *runnable, env={**environment, "RANK": "0", "LOCAL_RANK": "0"})
        assert "Run first is complete" in first.stdout

    def test_long_paths_stay_in_one_piece(self, invoke: Invoke, engine: Any, result: Make, runnable: list[str]) -> None:
        path = "/very/long" * 40
        engine.answers = [result(path=path)]
        assert f" {path}" in " ".join(invoke("run", *runnable).stdout.split("\n"))

    def test_nothing_is_read_as_markup(self, invoke: Invoke, engine: Any, result: Make, runnable: list[str]) -> None:
        engine.answers = [result(path="runs/[red]x[/red]", metrics={"[bold]m": "[link=file:///x]y"})]
        shown = invoke("run", *runnable).stdout
        assert "runs/[red]x[/red]" in shown
        assert "[bold]m" in shown
        assert "[link=file:///x]y" in shown


class TestLookBeforeYouRun:
    def test_cfg_prints_yaml(self, invoke: Invoke, engine: Any, runnable: list[str]) -> None:
        done = invoke("run", *runnable, "--cfg", "job")
        config = yaml.safe_load(done.stdout)
        assert config["dataset"]["path"] == "data.jsonl"
        assert config["processor"] == {"name": "mine:Mine"}
        assert config["launcher"]["nproc"] == 1
        assert engine.requests == []

    def test_cfg_prints_json(self, invoke: Invoke, runnable: list[str]) -> None:
        one = json.loads(invoke("run", *runnable, "--cfg", "json").stdout)
        assert one == json.loads(invoke("run", *runnable, "--cfg", "job", "--json").stdout)
        several = json.loads(invoke("run", "-m", *runnable, "seed=1,2", "--cfg", "json").stdout)
        assert [config["seed"] for config in several] == [1, 2]

    def test_cfg_of_a_sweep_is_several_documents(self, invoke: Invoke, runnable: list[str]) -> None:
        documents = list(yaml.safe_load_all(invoke("run", "-m", *runnable, "seed=1,2", "--cfg", "job").stdout))
        assert [config["seed"] for config in documents] == [1, 2]

    def test_cfg_is_checked(self, invoke: Invoke, runnable: list[str]) -> None:
        assert invoke("run", *runnable, "batch_size=0", "--cfg", "job").exit_code == 2

    def test_dry_run_of_real_data(self, invoke: Invoke, engine: Any, runnable: list[str], folder: Path) -> None:
        (folder / "data.jsonl").write_text("".join(f'{{"x": {i}}}\n' for i in range(10)))
        arguments = ["run", *runnable, "batch_size=4", "checkpoint_interval=1", "run_id=plan", "--dry-run"]
        plan = json.loads(invoke(*arguments, "--json").stdout)
        assert {key: plan[key] for key in ("samples", "batch_size", "batches", "chunks", "committed_chunks")} == {
            "samples": 10,
            "batch_size": 4,
            "batches": 3,
            "chunks": 3,
            "committed_chunks": 0,
        }
        shown = invoke(*arguments).stdout
        assert "samples" in shown
        assert "fingerprint" in shown
        assert engine.requests == []
        assert not (folder / "runs" / "plan").exists()
        plans = json.loads(invoke("run", "-m", *runnable, "batch_size=2,5", "--dry-run", "--json").stdout)
        assert [plan["batches"] for plan in plans] == [5, 2]


class TestResume:
    def test_by_id_directory_and_url(self, invoke: Invoke, engine: Any, result: Make, folder: Path) -> None:
        (folder / "runs" / "first").mkdir(parents=True)
        engine.answers = [result(), result(), result()]
        assert invoke("resume", "first", "--nproc", "3").exit_code == 0
        assert invoke("resume", "runs/first").exit_code == 0
        assert invoke("resume", "s3://bucket/runs/first").exit_code == 0
        assert engine.resumed == [("runs/first", 3), ("runs/first", None), ("s3://bucket/runs/first", None)]
        assert engine.allowed == [None, None, None]

    def test_json(self, invoke: Invoke, engine: Any, result: Make) -> None:
        engine.answers = [result(complete=False, coverage=0.5)]
        done = invoke("resume", "memory://x/first", "--json")
        assert done.exit_code == EXIT_PREEMPTED
        assert json.loads(done.stdout)["coverage"] == 0.5

    def test_another_config_than_the_runs(self, invoke: Invoke, engine: Any) -> None:
        engine.answers = [ConfigMismatchError("first", {"batch_size": (8, 9)})]
        done = invoke("resume", "memory://x/first")
        assert done.exit_code == 78
        assert "batch_size: 8 in the run, 9 now" in done.stderr

    @pytest.mark.parametrize("nproc", ["0", "-1", "many"])
    def test_needs_a_number_of_workers(self, invoke: Invoke, nproc: str) -> None:
        assert invoke("resume", "memory://x/first", "--nproc", nproc).exit_code == 2


class TestMultirun:
    def test_one_table_with_a_row_per_job(self, invoke: Invoke, engine: Any, result: Make, runnable: list[str]) -> None:
        engine.answers = [result(metrics={"accuracy": n / 10}, path=f"runs/{n}") for n in (7, 8)]
        done = invoke("run", "-m", *runnable, "model.name=digits", "model.version=1,2")
        assert done.exit_code == 0
        assert [request.model_version for request in engine.requests] == [1, 2]
        lines = [line.split() for line in done.stdout.splitlines()]
        assert lines[0] == ["model.version", "state", "accuracy", "run"]
        assert lines[1:3] == [[str(n), "complete", f"0.{n + 6}", f"runs/{n + 6}"] for n in (1, 2)]
        assert "Job 2 of 2: model.version=2" in done.stderr

    def test_json_and_the_worst_exit_code(self, invoke: Invoke, engine: Any, result: Make, runnable: list[str]) -> None:
        engine.answers = [result(), StorageError("Full.")]
        done = invoke("run", "-m", *runnable, "seed=1,2", "--json")
        shown = json.loads(done.stdout)
        assert shown["exit_code"] == done.exit_code == 74
        assert [(job["overrides"], job["error"], job["exit_code"]) for job in shown["jobs"]] == [
            ({"seed": "1"}, None, 0),
            ({"seed": "2"}, "Full.", 74),
        ]
        assert shown["jobs"][0]["result"]["metrics"]["accuracy"] == 0.98331

    def test_a_mistake_in_the_last_job_runs_none(self, invoke: Invoke, engine: Any, runnable: list[str]) -> None:
        done = invoke("run", "-m", *runnable, "batch_size=1,x")
        assert (done.exit_code, engine.requests) == (2, [])
        assert "Job batch_size=x of the sweep cannot run" in done.stderr
