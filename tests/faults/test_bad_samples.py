"""Bad samples in whole runs: exactly they are set aside, and of the others nothing is lost, doubled or changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import planted
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from checker import CheckedRun, check_complete, rows_of
from planted import Model, Planted, PlantedItems, PlantedRanges, tensors, uploaded
from planted_runs import BATCH, FEW, N, assert_only_they_are_missing, process, set_aside
from process_fixtures import linux_only

import batchmill
from batchmill.engine import micro_batching

pytestmark = linux_only

SETS = {
    "none": [],
    "one": [37],
    "two of a batch": [33, 46],
    "four of a batch": [32, 33, 40, 47],
    "eight of a batch": list(range(64, 80, 2)),
    "a whole batch": list(range(80, 96)),
    "first and last": [0, 149],
    "all of the last batch": list(range(144, 150)),
}


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> CheckedRun:
    """The run in which nothing fails."""
    output = tmp_path_factory.mktemp("healthy")
    process(output, "run")
    run = check_complete(output / "run", N)
    assert not set_aside(run) and run.result["bitwise"] is True
    return run


def test_the_models_results_tell_of_the_batchs_shape() -> None:
    """Otherwise the bits below would be the same whatever the shape, and no test could fail."""

    class Context:
        def prepare_model_for_inference(self, model: Any) -> Any:
            return model

    model = Model(Context(), extras=False)  # type: ignore[arg-type]
    batch = {"x": torch.stack([planted.vector(i) for i in range(16)]), "i": torch.arange(16)}
    fewer = {"x": batch["x"][:15], "i": batch["i"][:15]}
    assert not torch.equal(model.process_batch(batch, 0)["scores"][:15], model.process_batch(fewer, 0)["scores"])


@pytest.mark.parametrize("bad", SETS.values(), ids=SETS.keys())
@pytest.mark.parametrize("how", ["load", "raise", "late", "nan"])
def test_bad_samples_are_set_aside_and_nothing_else(
    output: Path, healthy: CheckedRun, how: str, bad: list[int]
) -> None:
    if how == "load":
        result = process(output, "run", Planted(N, bad))
    else:
        result = process(output, "run", settings={"bad": bad, "how": how}, on_nonfinite="quarantine")
    assert result.complete and result.exit_code == 0 and result.quarantined == len(bad)
    run = check_complete(output / "run", N)
    assert_only_they_are_missing(run, healthy, bad)
    assert run.result["bitwise"] is True
    stage, error, trace = {
        "load": ("load", "OSError", "in fail"),
        "raise": ("process", "ValueError", "in trip_over"),
        "late": ("process", "ValueError", "in trip_over"),
        "nan": ("output", "NonFinite", ""),
    }[how]
    for index, item in set_aside(run).items():
        assert item.keys() == {"index", "stage", "error", "message", "traceback"}
        assert (item["stage"], item["error"]) == (stage, error)
        assert trace in item["traceback"] and "batchmill/engine" not in item["traceback"]
        assert how == "nan" or str(index) in item["message"]
    files = {
        f"batch-{batch}.txt": repr([i for i in range(batch * BATCH, min(N, (batch + 1) * BATCH)) if i not in bad])
        for batch in range(10)
    }
    assert uploaded(output / "run") == {name: text for name, text in files.items() if text != "[]"}
    reports = [(report["steps_completed"], report["metrics"]["seen"]) for r in run.records for report in r["reports"]]
    assert reports == [(int(name[6:-4]), json.loads(text)) for name, text in files.items() if text != "[]"]


@pytest.mark.parametrize("bad", [SETS["one"], SETS["four of a batch"], SETS["first and last"], [97, 149]])
def test_samples_of_another_shape_are_set_aside_where_most_agree(
    output: Path, healthy: CheckedRun, bad: list[int]
) -> None:
    process(output, "run", Planted(N, bad, "shape"))
    run = check_complete(output / "run", N)
    assert_only_they_are_missing(run, healthy, bad)
    for item in set_aside(run).values():
        assert (item["stage"], item["error"]) == ("load", "RuntimeError")
        assert "stack expects each tensor to be equal size" in item["message"]


@pytest.mark.parametrize("how", ["oom", "cpu_oom"])
@pytest.mark.parametrize("bad", [[37], [33, 46, 100]], ids=["one", "three"])
def test_a_sample_that_never_fits_into_memory_is_set_aside(
    output: Path, healthy: CheckedRun, how: str, bad: list[int]
) -> None:
    process(output, "run", settings={"bad": bad, "how": how})
    run = check_complete(output / "run", N)
    assert_only_they_are_missing(run, healthy, bad)
    assert run.result["bitwise"] is True, "once it was set aside, whole batches fit again"
    assert all("memory" in item["message"] for item in set_aside(run).values())


def test_a_value_that_a_reducer_refuses_is_its_samples_fault(output: Path, healthy: CheckedRun) -> None:
    process(output, "run", settings={"bad": FEW, "how": "reducer"})
    run = check_complete(output / "run", N)
    assert_only_they_are_missing(run, healthy, FEW)
    assert {item["error"] for item in set_aside(run).values()} == {"ReducerError"}


@pytest.mark.parametrize("kind", [PlantedItems, PlantedRanges])
def test_datasets_that_are_read_otherwise(output: Path, healthy: CheckedRun, kind: type[Planted]) -> None:
    process(output, "run", kind(N, FEW), settings={"bad": [5], "how": "raise"})
    run = check_complete(output / "run", N)
    assert_only_they_are_missing(run, healthy, [5, *FEW])
    stages = {index: item["stage"] for index, item in set_aside(run).items()}
    assert stages == {5: "process", **dict.fromkeys(FEW, "load")}


def test_tensors_that_are_sliced(output: Path) -> None:
    process(output, "healthy", tensors(N))
    process(output, "run", tensors(N), settings={"bad": FEW, "how": "raise"})
    healthy = check_complete(output / "healthy", N)
    assert_only_they_are_missing(check_complete(output / "run", N), healthy, FEW)


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "tensors"])
def test_samples_of_files(output: Path, tmp_path: Path, kind: str) -> None:
    """Read by ranges: an unreadable line of text, and samples on which the processor fails."""
    path = tmp_path / {"jsonl": "data.jsonl", "parquet": "data.parquet", "tensors": "data.npz"}[kind]
    values = list(range(N))
    if kind == "jsonl":
        path.write_text("".join('{"x": oops}\n' if i == 70 else f'{{"x": {i}}}\n' for i in values))
    elif kind == "parquet":
        pq.write_table(pa.table({"x": values}), path, row_group_size=33)
    else:
        np.savez(path, x=np.array(values))

    class Square(batchmill.TorchBatchProcessor):
        def __init__(self, context: batchmill.TorchBatchProcessorContext) -> None:
            pass

        def process_batch(self, batch: Any, batch_idx: int) -> Any:
            if {37, 38} & {int(x) for x in batch["x"]}:
                raise ValueError("not these")
            return {"square": [int(x) ** 2 for x in batch["x"]]}

    overrides = [f"dataset={kind}", f"dataset.path={path}", "batch_size=16", "checkpoint_interval=2"]
    result = batchmill.run([*overrides, f"output={output}", "run_id=run", "callbacks=[]"], processor=Square)
    bad = [37, 38, 70] if kind == "jsonl" else [37, 38]
    assert result.complete
    run = check_complete(output / "run", N)
    assert sorted(set_aside(run)) == bad
    assert rows_of(run)["square"] == [i**2 for i in values if i not in bad]
    if kind == "jsonl":
        assert set_aside(run)[70]["stage"] == "load" and "line 71" in set_aside(run)[70]["message"]


def test_a_processor_that_returns_nothing(output: Path) -> None:
    process(output, "run", settings={"bad": FEW, "how": "late", "rows": False}, reducers=None)
    run = check_complete(output / "run", N, sparse=True)
    good = [index for index in range(N) if index not in FEW]
    assert sorted(set_aside(run)) == FEW and run.table is None
    assert run.metrics == {"count": len(good), "seen": good}


def test_without_reducers_of_its_own_no_smaller_batch_is_ever_seen(output: Path, healthy: CheckedRun) -> None:
    """A model of a fixed batch shape can be run, too."""
    built: list[Model] = []
    process(output, "run", settings={"bad": FEW, "how": "raise", "extras": False}, built=built)
    shapes = {rows for batch, rows in built[0].calls if batch < 9}
    assert shapes == {BATCH}
    run = check_complete(output / "run", N)
    good = [index for index in range(N) if index not in FEW]
    assert rows_of(run)["scores"] == [rows_of(healthy)["scores"][index] for index in good]
    assert run.metrics == {"total": sum(good)}


def test_listeners_hear_last_of_the_good_rows_alone(output: Path) -> None:
    heard: dict[int, list[int]] = {}

    class Listener:
        @batchmill.hookimpl
        def on_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            assert outputs["i"].tolist() == batch["i"].tolist()
            heard[batch_idx] = batch["i"].tolist()

    process(output, "run", settings={"bad": FEW}, callbacks={"listener": Listener()})
    assert [index for batch in sorted(heard) for index in heard[batch]] == [i for i in range(N) if i not in FEW]


def test_what_fails_once_is_not_set_aside(output: Path, healthy: CheckedRun, tmp_path: Path) -> None:
    """Neither in loading nor in processing, and nothing tells of it in the end."""
    dataset = Planted(N, [5, 100], once=str(tmp_path / "load"))
    process(output, "run", dataset, settings={"bad": [37, 101], "once": str(tmp_path / "process"), "how": "late"})
    run = check_complete(output / "run", N)
    assert len(list(tmp_path.glob("load-*"))) == len(list(tmp_path.glob("process-*"))) == 2, "they did fail"
    assert run.result == healthy.result
    assert_only_they_are_missing(run, healthy, [])


def test_every_sample_is_bad(output: Path) -> None:
    result = process(output, "run", settings={"bad": range(N)})
    assert result.complete and result.quarantined == N
    run = check_complete(output / "run", N)
    assert run.table is None and sorted(set_aside(run)) == list(range(N))


@pytest.fixture(autouse=True)
def no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collecting garbage takes long in the process of many tests."""
    monkeypatch.setattr(micro_batching, "free_memory", lambda: None)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
