from collections.abc import Callable
from typing import Any

import pytest

from batchmill.cli.sweep import run_jobs, show_outcomes, worst_code
from batchmill.contracts.run import RunRequest, RunResult, Selection
from batchmill.errors import EXIT_PREEMPTED, ConfigError, ConfigMismatchError, StorageError
from batchmill.settings import SweepJob

Make = Callable[..., RunResult]


def jobs(number: int) -> list[SweepJob]:
    request = RunRequest(Selection("p"), Selection("d"))
    return [SweepJob({"seed": str(seed)}, request) for seed in range(number)]


def test_a_failing_job_does_not_cost_the_others(engine: Any, result: Make, capsys: pytest.CaptureFixture[str]) -> None:
    engine.answers = [result(), StorageError("The disk is full. Make room."), ValueError("a bug"), result()]
    outcomes = run_jobs(jobs(4))
    assert [outcome.exit_code for outcome in outcomes] == [0, 74, 70, 0]
    show_outcomes(outcomes, as_json=False)
    shown = capsys.readouterr()
    assert "failed: The disk is full " in shown.out
    assert "Make room" not in shown.out
    assert "failed: ValueError: a bug" in shown.out
    assert shown.out.count(" complete ") == 2
    assert "Error: The disk is full. Make room." in shown.err
    assert "Traceback" in shown.err


def test_a_signal_stops_the_sweep(engine: Any, result: Make, capsys: pytest.CaptureFixture[str]) -> None:
    engine.answers = [result(), result(complete=False, coverage=0.25, stop_reason="received SIGTERM")]
    outcomes = run_jobs(jobs(3))
    assert len(engine.requests) == 2
    assert worst_code(outcomes) == EXIT_PREEMPTED
    show_outcomes(outcomes, as_json=False)
    shown = capsys.readouterr().out
    assert "stopped at 25.0 %" in shown
    assert "not started" in shown


def test_a_run_that_stops_by_itself_does_not(engine: Any, result: Make) -> None:
    engine.answers = [result(complete=False, stop_reason="max_batches"), result()]
    assert [outcome.exit_code for outcome in run_jobs(jobs(2))] == [EXIT_PREEMPTED, 0]


def test_ctrl_c_ends_it_and_loses_no_result(engine: Any, result: Make, capsys: pytest.CaptureFixture[str]) -> None:
    engine.answers = [result(), KeyboardInterrupt()]
    outcomes = run_jobs(jobs(3))
    assert worst_code(outcomes) == 130
    show_outcomes(outcomes, as_json=False)
    states = [line.split()[1] for line in capsys.readouterr().out.splitlines()[1:4]]
    assert states == ["complete", "failed:", "not"]


@pytest.mark.parametrize(
    ("errors", "worst"),
    [
        ([], 0),
        ([StorageError("x")], 74),
        ([ConfigError("x"), StorageError("x"), ConfigMismatchError("r", {})], 74),
        ([ConfigError("x"), ZeroDivisionError()], 70),
    ],
)
def test_the_exit_code_is_the_worst(engine: Any, result: Make, errors: list[Exception], worst: int) -> None:
    engine.answers = [result(), *errors, result()]
    assert worst_code(run_jobs(jobs(len(engine.answers)))) == worst


def test_metrics_of_different_jobs_share_a_table(engine: Any, result: Make, capsys: pytest.CaptureFixture[str]) -> None:
    matrix = [[1, 2, 3]] * 30
    engine.answers = [result(metrics={"a": 1 / 3, "m": matrix}), result(metrics={"b": 2})]
    show_outcomes(run_jobs(jobs(2)), as_json=False)
    header, first, second, *_ = capsys.readouterr().out.splitlines()
    assert header.split() == ["seed", "state", "a", "m", "b", "run"]
    assert "0.333333" in first
    assert "…" in first
    assert second.split() == ["1", "complete", "2", "runs/first"]
