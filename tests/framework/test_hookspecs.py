"""Every hook in a real run: when it is called, with what, and what its answer does."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

import batchmill
from batchmill import hookspecs
from batchmill.plugin_manager import Catalog

SAMPLES, BATCH, INTERVAL = 20, 2, 2  # 10 batches, two to a chunk
CHUNKS = 5


class Doubler(batchmill.TorchBatchProcessor):
    def __init__(self, context: batchmill.TorchBatchProcessorContext) -> None:
        self.context = context
        self.sum = context.wrap_reducer(batchmill.Reducer.SUM, name="sum")
        EVENTS.append("processor built")

    def process_batch(self, batch: Any, batch_idx: int) -> dict[str, torch.Tensor]:
        self.sum.update(batch[0].sum())
        return {"doubled": 2 * batch[0]}

    def on_checkpoint_start(self) -> None:
        EVENTS.append("processor.on_checkpoint_start")

    def on_finish(self) -> None:
        EVENTS.append("processor.on_finish")


EVENTS: list[str] = []


@pytest.fixture(autouse=True)
def no_events() -> None:
    EVENTS.clear()


def run(output: Path, callback: object, processor: type[batchmill.TorchBatchProcessor] = Doubler, **arguments: Any):
    dataset = TensorDataset(torch.arange(float(SAMPLES)).reshape(SAMPLES, 1))
    options = {"batch_size": BATCH, "checkpoint_interval": INTERVAL, "run_id": "hooks"}
    callbacks = callback if isinstance(callback, dict) else {"told": callback}
    return batchmill.torch_batch_process(
        processor, dataset, output=output, callbacks=callbacks, **{**options, **arguments}
    )


def test_every_hook_has_a_test() -> None:
    names = [
        name
        for specs in (hookspecs.CatalogSpecs, hookspecs.RunSpecs)
        for name, value in vars(specs).items()
        if hasattr(value, "batchmill_spec")
    ]
    assert len(names) >= 11
    missing = [name for name in names if f"test_hook_{name}" not in globals()]
    assert not missing, f"hooks without a test here: {missing}"


def test_hook_register_components() -> None:
    class Shout:
        @batchmill.hookimpl
        def register_components(self, registry: batchmill.ComponentRegistry) -> None:
            registry.add(batchmill.Kind.PROCESSOR, "doubler", Doubler, summary="Doubles.")

    catalog = Catalog()
    catalog.register(Shout(), "acme", "acme==1.0")
    component = catalog.registry.get(batchmill.Kind.PROCESSOR, "doubler")
    assert (component.load(), component.plugin, component.version) == (Doubler, "acme", "acme==1.0")


def test_hook_config_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "acme_presets" / "writer"
    package.mkdir(parents=True)
    (tmp_path / "acme_presets" / "__init__.py").touch()
    (package / "squeezed.yaml").write_text("defaults: [parquet]\ncompression: zstd\n")
    monkeypatch.syspath_prepend(tmp_path)

    class Presets:
        @batchmill.hookimpl
        def register_components(self, registry: batchmill.ComponentRegistry) -> None:
            registry.add(batchmill.Kind.PROCESSOR, "doubler", Doubler)

        @batchmill.hookimpl
        def config_packages(self) -> list[str]:
            return ["acme_presets"]

    from batchmill.settings import compose

    catalog = Catalog()
    catalog.discover()
    catalog.register(Presets(), "acme_presets_plugin")
    overrides = ["processor=doubler", "dataset=tensors", "dataset.path=data.safetensors", "writer=squeezed"]
    try:
        request = compose(overrides, catalog)
    finally:
        sys.modules.pop("acme_presets", None)
    assert request.writer == batchmill.Selection("parquet", {"compression": "zstd"})


def test_hook_on_run_start(tmp_path: Path) -> None:
    class Told:
        @batchmill.hookimpl
        def on_run_start(self, context: batchmill.TorchBatchProcessorContext) -> None:
            committed = list((tmp_path / "hooks" / "commits").glob("*.json"))
            EVENTS.append(f"on_run_start {context.run_id} with {len(committed)} chunks")

    assert run(tmp_path, Told()).complete
    assert EVENTS[:2] == ["processor built", "on_run_start hooks with 0 chunks"]
    assert EVENTS.count("on_run_start hooks with 0 chunks") == 1
    EVENTS.clear()
    assert run(tmp_path, Told()).complete
    assert EVENTS == [], "a complete run is not started again"


def test_hook_on_batch_end(tmp_path: Path) -> None:
    seen: list[tuple[int, list[float], list[float]]] = []

    class Told:
        @batchmill.hookimpl
        def on_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            seen.append((batch_idx, batch[0].flatten().tolist(), outputs["doubled"].flatten().tolist()))

    run(tmp_path, Told())
    assert [batch_idx for batch_idx, _, _ in seen] == list(range(SAMPLES // BATCH))
    assert seen[3] == (3, [6.0, 7.0], [12.0, 14.0])


def test_hook_on_checkpoint_start(tmp_path: Path) -> None:
    class Told:
        @batchmill.hookimpl
        def on_checkpoint_start(self, chunk: int) -> None:
            assert not (tmp_path / "hooks" / "commits" / f"{chunk:08d}.json").exists()
            EVENTS.append(f"on_checkpoint_start {chunk}")

    run(tmp_path, Told())
    told = [event for event in EVENTS if "checkpoint" in event]
    assert told == [
        event for chunk in range(CHUNKS) for event in ("processor.on_checkpoint_start", f"on_checkpoint_start {chunk}")
    ]


def test_hook_on_checkpoint_end(tmp_path: Path) -> None:
    records: dict[int, Any] = {}

    class Told:
        @batchmill.hookimpl
        def on_checkpoint_end(self, chunk: int, record: Any) -> None:
            stored = (tmp_path / "hooks" / "commits" / f"{chunk:08d}.json").read_text()
            assert json.loads(stored) == record
            records[chunk] = record

    run(tmp_path, Told())
    assert sorted(records) == list(range(CHUNKS))
    assert [(records[chunk]["start"], records[chunk]["stop"]) for chunk in (0, 4)] == [(0, 4), (16, 20)]


def test_hook_on_quarantine(tmp_path: Path) -> None:
    told: dict[int, Any] = {}

    class Picky(batchmill.TorchBatchProcessor):
        def __init__(self, context: batchmill.TorchBatchProcessorContext) -> None:
            pass

        def process_batch(self, batch: Any, batch_idx: int) -> Any:
            if (batch[0] % 8 == 3).any():
                raise ValueError("not three")
            return {"y": batch[0]}

    class Told:
        @batchmill.hookimpl
        def on_quarantine(self, chunk: int, samples: Any) -> None:
            told[chunk] = [(sample["index"], sample["stage"], sample["message"]) for sample in samples]

    data = TensorDataset(torch.arange(16))
    batchmill.torch_batch_process(Picky, data, 2, output=tmp_path, callbacks={"told": Told()})
    assert told == {1: [(3, "process", "not three")], 5: [(11, "process", "not three")]}


def test_hook_should_stop(tmp_path: Path) -> None:
    class Budget:
        def __init__(self, reason: str, chunks: int) -> None:
            self.reason, self.left = reason, chunks

        @batchmill.hookimpl
        def should_stop(self, context: batchmill.TorchBatchProcessorContext) -> str | None:
            self.left -= 1
            return self.reason if self.left <= 0 else None

    callbacks = {"first": Budget("out of time", 2), "second": Budget("out of money", 2)}
    stopped = run(tmp_path, callbacks)
    assert not stopped.complete
    assert stopped.exit_code == 75
    assert stopped.stop_reason == "out of time", "the first reason in config order counts"
    assert stopped.samples == 8, "both chunks that were done are committed"
    assert "processor.on_finish" not in EVENTS
    resumed = run(tmp_path, {})
    assert resumed.complete
    assert resumed.metrics == {"sum": sum(range(SAMPLES))}


def test_hook_report_metrics(tmp_path: Path) -> None:
    reports: list[tuple[str, int, dict[str, Any]]] = []

    class Reporting(Doubler):
        def process_batch(self, batch: Any, batch_idx: int) -> dict[str, torch.Tensor]:
            if batch_idx == 4:
                self.context.report_metrics("loss", batch_idx, {"largest": batch[0].max().item()})
            return super().process_batch(batch, batch_idx)

    class Told:
        @batchmill.hookimpl
        def report_metrics(self, group: str, steps_completed: int, metrics: Any) -> None:
            if group == "loss":
                assert (tmp_path / "hooks" / "commits" / "00000002.json").exists(), "told before it was committed"
            reports.append((group, steps_completed, dict(metrics)))

    run(tmp_path, Told(), Reporting)
    assert reports == [("loss", 4, {"largest": 9.0}), ("validation", SAMPLES // BATCH, {"sum": 190.0})]


def test_hook_on_progress(tmp_path: Path) -> None:
    snapshots: list[batchmill.ProgressSnapshot] = []

    class Told:
        @batchmill.hookimpl
        def on_progress(self, progress: batchmill.ProgressSnapshot) -> None:
            snapshots.append(progress)

    run(tmp_path, Told())
    assert (snapshots[-1].total, snapshots[-1].done, snapshots[-1].finished) == (SAMPLES, SAMPLES, True)
    assert [snapshot.finished for snapshot in snapshots].count(True) == 1


def test_hook_on_run_error(tmp_path: Path) -> None:
    class Failing(Doubler):
        def process_batch(self, batch: Any, batch_idx: int) -> dict[str, torch.Tensor]:
            if batch_idx == 5:
                raise ZeroDivisionError("bad sample")
            return super().process_batch(batch, batch_idx)

    errors: list[BaseException] = []

    class Told:
        @batchmill.hookimpl
        def on_run_error(self, error: BaseException) -> None:
            errors.append(error)

    with pytest.raises(batchmill.ProcessorError, match="bad sample") as caught:
        run(tmp_path, Told(), Failing, on_error="fail")
    assert errors == [caught.value]
    assert isinstance(errors[0].__cause__, ZeroDivisionError)


def test_hook_on_finish(tmp_path: Path) -> None:
    class Told:
        @batchmill.hookimpl
        def on_finish(self, result: batchmill.RunResult) -> None:
            stored = json.loads((tmp_path / "hooks" / "result.json").read_text())
            assert stored["metrics"] == result.metrics == {"sum": 190.0}
            EVENTS.append("on_finish")

    run(tmp_path, Told())
    assert EVENTS[-2:] == ["processor.on_finish", "on_finish"]
    EVENTS.clear()
    run(tmp_path, Told())
    assert EVENTS == [], "a complete run is not finished again"


def test_an_exception_in_a_hook_fails_the_run_and_keeps_what_is_committed(tmp_path: Path) -> None:
    class Broken:
        @batchmill.hookimpl
        def on_checkpoint_start(self, chunk: int) -> None:
            if chunk == 3:
                raise LookupError("no such thing")

    with pytest.raises(LookupError, match="no such thing"):
        run(tmp_path, Broken())
    assert sorted(path.stem for path in (tmp_path / "hooks" / "commits").iterdir()) == [f"{n:08d}" for n in range(3)]
    assert run(tmp_path, {}).complete
