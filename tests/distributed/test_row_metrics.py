"""Metrics of committed rows: equal to those of the rows, and the same bytes for any workers and crashes."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scored_jobs
from checker import CheckedRun, check_complete, check_wreck
from job_requests import SAMPLES, job, on, run_here
from jobs import Values
from process_fixtures import linux_only
from processes import Launcher, committed_chunks, until, until_committed
from sklearn.metrics import roc_auc_score
from zygote import Zygote

import batchmill
from batchmill import ConfigError, RunRequest, Selection

pytestmark = linux_only

Q = [0.0, 0.1, 0.5, 0.99, 1.0]
REDUCERS = {"x_quantiles": Selection("quantile", {"column": "x", "q": Q}), "auc": Selection("roc_auc")}


def scored(output: Path, nproc: int = 1, **changes: Any) -> RunRequest:
    settings = {"pause": 0.005, **changes.pop("settings", {})}
    request = job(output, nproc=nproc, processor=Selection("scored_jobs:Scored", settings), **changes)
    return dataclasses.replace(request, reducers=REDUCERS)


def assert_metrics(run: CheckedRun, quarantined: tuple[int, ...] = scored_jobs.BAD) -> None:
    """Assert that the metrics are those of the committed rows, computed with numpy and scikit-learn."""
    index = run.column("_index")
    assert index == [i for i in range(SAMPLES) if i not in quarantined]
    assert run.metrics["x_quantiles"] == np.quantile(run.column("x"), Q).tolist()
    assert run.metrics["auc"] == pytest.approx(roc_auc_score(run.column("label"), run.column("score")), rel=1e-12)
    assert 0.5 < run.metrics["auc"] < 1.0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> CheckedRun:
    """One worker, no faults but the samples that fail."""
    output = tmp_path_factory.mktemp("undisturbed")
    assert run_here(scored(output)).quarantined == len(scored_jobs.BAD)
    run = check_complete(output / "run", SAMPLES)
    assert_metrics(run)
    return run


def test_three_workers_that_are_killed_and_three_more(zygote: Zygote, output: Path, undisturbed: CheckedRun) -> None:
    """All three die on the way, some in the middle of a chunk; three others finish."""
    request = scored(output, claims="static").to_json()
    arguments = [{"request": request, "rank": rank, "size": 3, "patience": 0.3} for rank in range(3)]
    pids = [zygote.fork("one_of", each) for each in arguments]
    until(lambda: committed_chunks(output / "run") >= 4, "four committed chunks", pause=0.002)
    for pid in pids:
        zygote.kill(pid)
    zygote.wait(*pids)
    _, records = check_wreck(output / "run")
    assert 4 <= len(records) < 21
    assert set(zygote.wait(*[zygote.fork("one_of", each) for each in arguments]).values()) == {0}, zygote.logs()
    run = check_complete(output / "run", SAMPLES)
    assert run.result_bytes == undisturbed.result_bytes


@pytest.mark.campaign
def test_a_launcher_that_is_killed_and_another_number_of_workers(
    launch: Launcher, output: Path, undisturbed: CheckedRun
) -> None:
    """Begun on three workers of a local launcher, finished on one."""
    request = scored(output, nproc=3)
    first = launch.job(request)
    until_committed(output / "run", 3, first)
    first.signal(signal.SIGKILL)
    first.wait()
    first.until_gone(10)
    check_wreck(output / "run")
    launch.job(on(request, 1)).finish()
    assert check_complete(output / "run", SAMPLES).result_bytes == undisturbed.result_bytes


@pytest.mark.parametrize("writer", ["jsonl", "safetensors"])
def test_the_writer_does_not_show(output: Path, undisturbed: CheckedRun, writer: str) -> None:
    result = run_here(scored(output, writer=Selection(writer)))
    assert result.metrics == undisturbed.metrics


@pytest.mark.parametrize("interval", [1, 50])
def test_the_chunks_do_not_show(output: Path, undisturbed: CheckedRun, interval: int) -> None:
    result = run_here(dataclasses.replace(scored(output), checkpoint_interval=interval))
    assert result.metrics == undisturbed.metrics


def test_samples_that_are_tried_again_count(output: Path, tmp_path: Path, undisturbed: CheckedRun) -> None:
    """The second result's metrics are those of all rows; the first result stays."""
    healed = tmp_path / "healed"
    request = dataclasses.replace(scored(output, settings={"healed": str(healed)}), launcher=Selection("in_process"))
    first = batchmill.run(request)
    assert first.metrics == undisturbed.metrics
    healed.touch()
    second = batchmill.retry_quarantined(first.path)
    rows = batchmill.read_outputs(second)
    assert rows.num_rows == SAMPLES
    assert second.metrics["x_quantiles"] == np.quantile(rows["x"].to_numpy(), Q).tolist()
    expected = roc_auc_score(rows["label"].to_numpy(), rows["score"].to_numpy())
    assert second.metrics["auc"] == pytest.approx(expected, rel=1e-12)
    assert second.metrics != first.metrics


def test_from_python_with_reducers_of_the_processor(output: Path, undisturbed: CheckedRun) -> None:
    """Wrapped by the processor, or given to ``torch_batch_process``."""

    class Wrapping(scored_jobs.Scored):
        def __init__(self, context: batchmill.TorchBatchProcessorContext) -> None:
            super().__init__(context)
            context.wrap_reducer(Largest("score"), "largest")

    result = batchmill.torch_batch_process(
        Wrapping, Values(SAMPLES), 5, checkpoint_interval=2, reducers=REDUCERS, output=output, run_id="python"
    )
    assert result.metrics == {**undisturbed.metrics, "largest": max(undisturbed.column("score"))}


def test_from_config(output: Path, undisturbed: CheckedRun) -> None:
    overrides = [
        "reducers=[quantile,roc_auc]",
        "reducers.quantile.column=x",
        "reducers.quantile.q=[0.0,0.1,0.5,0.99,1.0]",
        f"output={output}",
        "batch_size=5",
    ]
    result = batchmill.run(overrides, processor=scored_jobs.Scored, dataset=Values(SAMPLES))
    expected = {"quantile": undisturbed.metrics["x_quantiles"], "roc_auc": undisturbed.metrics["auc"]}
    assert result.metrics == expected


class Largest(batchmill.RowReducer):
    """The largest value of a column; fails the first time if it is told to."""

    fails = False

    def reduce_rows(self, tables: Any) -> Any:
        found = [max(table.column(self.columns[0]).to_pylist()) for table in tables]
        if self.fails:
            raise ZeroDivisionError("in the last pass")
        return max(found)


def test_a_crash_in_the_last_pass_is_made_good_by_a_resume(output: Path) -> None:
    class Wrapping(scored_jobs.Scored):
        def __init__(self, context: batchmill.TorchBatchProcessorContext) -> None:
            super().__init__(context)
            context.wrap_reducer(Largest("x"), "largest")

    def process() -> batchmill.RunResult:
        return batchmill.torch_batch_process(Wrapping, Values(SAMPLES), 5, output=output, run_id="run")

    Largest.fails = True
    try:
        with pytest.raises(batchmill.ReducerError, match=r"'largest' .* failed: ZeroDivisionError: in the last pass"):
            process()
    finally:
        Largest.fails = False
    assert not (output / "run" / "result.json").exists()
    assert process().metrics == {"largest": max(check_complete(output / "run").column("x"))}


# -- what is refused


def test_a_writer_that_keeps_nothing_is_refused_before_any_work(output: Path, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    request = job(output, settings={"journal": str(journal)}, writer=Selection("none"))
    message = (
        r"'auc' \(RocAuc\) is computed from the committed rows, but .* \(NothingWriter\) keeps none.*writer=parquet"
    )
    with pytest.raises(ConfigError, match=message):
        run_here(dataclasses.replace(request, reducers={"auc": Selection("roc_auc")}))
    assert not journal.exists()
    assert not list(output.glob("run/commits/*"))


class Fields(batchmill.TorchBatchProcessor):
    """Returns what it was made with, of the batch."""

    names: tuple[str, ...] = ()
    wraps: str = ""

    def __init__(self, context: batchmill.TorchBatchProcessorContext) -> None:
        if self.wraps:
            context.wrap_reducer(Largest(self.wraps), "largest")

    def process_batch(self, batch: Any, batch_idx: int) -> Any:
        return {name: batch[name] for name in self.names} or None


@pytest.mark.parametrize(
    ("names", "reducer", "message"),
    [
        (("x",), "i", "column 'i' .* The batch has it, but what is only in the batch is not committed"),
        (("x", "i"), "xx", "column 'xx' .* Did you mean 'x'.* Returned: x, i"),
    ],
)
def test_a_column_that_is_not_returned_is_refused_at_the_first_batch(
    output: Path, names: tuple[str, ...], reducer: str, message: str
) -> None:
    processor = type("Some", (Fields,), {"names": names})
    chosen = {"q": Selection("quantile", {"column": reducer})}
    with pytest.raises(batchmill.ReducerError, match=message):
        batchmill.torch_batch_process(processor, Values(20), 5, reducers=chosen, output=output, run_id="run")
    assert not list(output.glob("run/commits/*"))


@pytest.mark.parametrize(
    ("names", "wraps", "message"),
    [
        (("x",), "y", "Largest reads column 'y' of the committed rows, but .* Returned: x"),
        ((), "x", "Largest reads column 'x' .* there are none: process_batch returned None for all 20 samples"),
    ],
)
def test_a_processors_own_reducer_without_its_column_ends_in_a_clear_error(
    output: Path, names: tuple[str, ...], wraps: str, message: str
) -> None:
    processor = type("Some", (Fields,), {"names": names, "wraps": wraps})
    with pytest.raises(batchmill.ReducerError, match=message):
        batchmill.torch_batch_process(processor, Values(20), 5, output=output, run_id="run")
