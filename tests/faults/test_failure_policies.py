"""What a run does about bad samples: policies, and how many are too many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checker import check_complete, check_wreck, rows_of
from planted import Model, Planted
from planted_runs import BATCH, FEW, N, process
from process_fixtures import linux_only

import batchmill

pytestmark = linux_only


def test_a_spent_budget_ends_the_run_and_more_of_it_goes_on(output: Path) -> None:
    bad = [3, 40, 41, 70, 100, 149]
    process(output, "whole", settings={"bad": bad}, max_errors=6)
    with pytest.raises(batchmill.ErrorBudgetError, match=r"^Sample 70 failed(.|\n)*makes 4 failed") as caught:
        process(output, "run", settings={"bad": bad}, max_errors=3)
    assert caught.value.exit_code == 65
    _, before = check_wreck(output / "run")
    assert sorted(before) == [0, 1]
    with pytest.raises(batchmill.ErrorBudgetError, match="makes 6 failed"):
        process(output, "run", settings={"bad": bad}, max_errors=5)
    result = process(output, "run", settings={"bad": bad}, max_errors=6)
    assert result.complete
    run = check_complete(output / "run", N)
    assert {chunk: run.records[chunk] for chunk in before} == before
    assert run.result_bytes == (output / "whole" / "result.json").read_bytes()


def test_ten_samples_may_fail_without_being_asked(output: Path) -> None:
    process(output, "run", settings={"bad": range(10)}, max_errors=None)
    assert check_complete(output / "run", N).result["quarantined"] == 10
    with pytest.raises(batchmill.ErrorBudgetError):
        process(output, "more", settings={"bad": range(11)}, max_errors=None)


@pytest.mark.parametrize("how", ["load", "raise", "nan"])
def test_on_error_fail_ends_the_run_and_quarantine_resumes_it(output: Path, how: str) -> None:
    def go(run_id: str, **policy: str) -> batchmill.RunResult:
        dataset = Planted(N, FEW) if how == "load" else Planted(N)
        bad = {"bad": FEW, "how": how} if how != "load" else {}
        return process(output, run_id, dataset, settings=bad, **policy)

    go("whole")
    error, message = {
        "load": (batchmill.DatasetError, r"samples 32\.\.47 \(batch 2\).*sample 37 is on a bad sector"),
        "raise": (batchmill.ProcessorError, r"batch 2 \(samples 32\.\.47\): ValueError: cannot make sense of"),
        "nan": (batchmill.OutputError, r"result of sample 37 is not finite: column 'scores'"),
    }[how]
    with pytest.raises(error, match=message):
        go("run", on_error="fail") if how != "nan" else go("refused", on_nonfinite="fail")
    assert sorted(check_wreck(output / ("run" if how != "nan" else "refused"))[1]) == [0]
    if how != "nan":  # other values are other results, so that policy is not changed on a resume
        assert go("run").complete
        check_complete(output / "run", N)
        assert (output / "run" / "result.json").read_bytes() == (output / "whole" / "result.json").read_bytes()


def test_nan_is_kept_unless_it_is_refused(output: Path) -> None:
    process(output, "run", settings={"bad": FEW, "how": "nan"})
    run = check_complete(output / "run", N)
    rows = rows_of(run)
    assert [i for i, scores in enumerate(rows["scores"]) if any(map(torch.isnan, torch.tensor(scores)))] == FEW
    assert run.result["quarantined"] == 0


def test_a_processor_that_fails_on_smaller_batches_is_told_what_to_do(output: Path) -> None:
    class Fixed(Model):
        def __init__(self, context: batchmill.TorchBatchProcessorContext) -> None:
            super().__init__(context, bad=FEW)

        def process_batch(self, batch: Any, batch_idx: int) -> Any:
            if len(batch["i"]) not in (BATCH, N % BATCH):
                raise RuntimeError("compiled for 16 rows")
            return super().process_batch(batch, batch_idx)

    with pytest.raises(batchmill.ProcessorError, match=r"on the 14 good samples of batch 2 alone.*compiled for 16"):
        batchmill.torch_batch_process(Fixed, Planted(N), BATCH, output=output, run_id="run")


def test_an_error_of_the_engines_own_is_no_samples_fault(output: Path) -> None:
    class Wrong(Model):
        def process_batch(self, batch: Any, batch_idx: int) -> Any:
            return {"y": [1]}

    with pytest.raises(batchmill.OutputError, match="Column 'y' has 1 values"):
        batchmill.torch_batch_process(Wrong, Planted(N), BATCH, output=output, run_id="run")
