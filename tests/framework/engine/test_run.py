import json
import random
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from batchmill import (
    ConfigError,
    ConfigMismatchError,
    CorruptRunError,
    DistributedContext,
    PluginError,
    ProcessorError,
    Reducer,
    ReducerError,
    RunRequest,
    Selection,
    StaticClaims,
    TorchBatchProcessor,
    client,
    hookimpl,
)
from batchmill.engine.run import Surroundings, execute
from batchmill.plugin_manager import get_catalog


class Summing(TorchBatchProcessor):
    """Sums its samples; tells what happens to it in ``events``."""

    def __init__(self, context):
        self.context = context
        self.total = context.wrap_reducer(Reducer.SUM, "total")
        self.events = ["init"]
        Summing.last = self

    def process_batch(self, batch, batch_idx):
        self.events.append(batch_idx)
        self.total.update(batch[0].sum())
        return {"y": batch[0] * 2}

    def on_finish(self):
        self.events.append("finish")


@pytest.fixture
def make_request(storage):
    output = storage.url.rsplit("/", 1)[0]

    def make(processor=Summing, **changes):
        values = {
            "processor": Selection("", instance=processor),
            "dataset": Selection("", instance=TensorDataset(torch.arange(50.0))),
            "storage": Selection("memory"),
            "output": output,
            "run_id": "run",
            "batch_size": 5,
            "checkpoint_interval": 1,
        }
        return RunRequest(**{**values, **changes})

    return make


def go(request, **surroundings):
    return execute(request, get_catalog().registry, Surroundings(**surroundings))


class Listener:
    """Writes down every hook that is called."""

    def __init__(self, stop_at=None):
        self.heard, self.stop_at = [], stop_at

    @hookimpl
    def on_run_start(self, context):
        self.heard.append(("start", context.run_id))

    @hookimpl
    def on_checkpoint_end(self, chunk, record):
        self.heard.append(("committed", chunk, record["chunk"]))

    @hookimpl
    def should_stop(self):
        return "enough" if Summing.last.events[-1] == self.stop_at else None

    @hookimpl
    def report_metrics(self, group, steps_completed, metrics):
        self.heard.append(("report", group, steps_completed, dict(metrics)))

    @hookimpl
    def on_run_error(self, error):
        self.heard.append(("error", type(error).__name__))

    @hookimpl
    def on_finish(self, result):
        self.heard.append(("finish", result.complete))


def test_a_run_from_beginning_to_end(make_request):
    listener = Listener()
    result = go(make_request(), callbacks=[("listener", listener)])
    assert (result.complete, result.samples, result.metrics) == (True, 50, {"total": 1225.0})
    assert Summing.last.events == ["init", *range(10), "finish"]
    assert listener.heard == [
        ("start", "run"),
        *(("committed", chunk, chunk) for chunk in range(10)),
        ("report", "validation", 10, {"total": 1225.0}),
        ("finish", True),
    ]


def test_what_a_launcher_is_told(make_request):
    opened, committed = [], []
    surroundings = {"opened": lambda run, done: opened.append((run.run_id, done)), "committed": committed.append}
    go(make_request(), **surroundings)
    assert opened == [("run", set())] and committed == list(range(10))


def test_a_stopped_run_is_incomplete_and_resumes(make_request):
    first = go(make_request(), callbacks=[("listener", Listener(stop_at=3))])
    assert (first.complete, first.samples, first.metrics, first.stop_reason) == (False, 20, {}, "enough")
    assert Summing.last.events == ["init", 0, 1, 2, 3], "on_finish is for complete runs"
    second = go(make_request())
    assert (second.complete, second.metrics) == (True, {"total": 1225.0})
    assert Summing.last.events == ["init", 4, 5, 6, 7, 8, 9, "finish"]


def test_a_complete_run_is_left_alone(make_request):
    result = go(make_request())
    Summing.last = None
    assert go(make_request()) == result
    assert Summing.last is None, "no processor was built"


def test_what_a_crash_left_open_after_the_result_is_settled(make_request, storage, tmp_path):
    request = make_request()
    go(request)
    storage.delete("_SUCCESS")
    storage.put("parts/00000003/lost.parquet", b"garbage of a lost attempt")
    again = make_request(tracker=Selection("sqlite", {"path": str(tmp_path / "other.sqlite")}))
    result = go(again)
    assert result.complete and storage.exists("_SUCCESS")
    assert not storage.exists("parts/00000003/lost.parquet")
    tracker = get_catalog().registry.get("tracker", "sqlite").load()(request.output, **again.tracker.settings)
    (found,) = tracker.iter_metrics(group="validation")
    assert dict(found.metrics) == {"total": 1225.0}, "a tracker that had not heard of it hears of it now"


def test_a_damaged_result_is_no_result(make_request, storage):
    go(make_request())
    storage.put("result.json", storage.get("result.json").replace(b"1225.0", b"1226.0"))
    with pytest.raises(CorruptRunError, match=r"result\.json is damaged"):
        go(make_request())


class OtherReducers(Summing):
    def __init__(self, context):
        super().__init__(context)
        context.wrap_reducer(Reducer.MAX, "largest")


def test_a_resume_with_other_reducers_is_refused(make_request):
    go(make_request(), callbacks=[("listener", Listener(stop_at=3))])
    OtherReducers.__qualname__ = "Summing"  # the class was edited between the launches
    with pytest.raises(ConfigMismatchError) as caught:
        go(make_request(OtherReducers))
    assert caught.value.differences == {"reducers": (["total"], ["largest", "total"])}


class Failing(Summing):
    where = ""

    def __init__(self, context):
        super().__init__(context)
        if self.where == "init":
            raise FileNotFoundError("weights.pt")

    def process_batch(self, batch, batch_idx):
        if self.where == "batch" and batch_idx == 3:
            raise FileNotFoundError("weights.pt")
        return super().process_batch(batch, batch_idx)

    def on_finish(self):
        if self.where == "finish":
            raise FileNotFoundError("weights.pt")


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("init", "The processor could not be built: FileNotFoundError: weights"),
        ("batch", "process_batch failed on batch 3"),
        ("finish", r"on_finish failed \(all results are committed\)"),
    ],
)
def test_an_error_of_the_processor_is_told_to_the_listeners(make_request, monkeypatch, where, message):
    monkeypatch.setattr(Failing, "where", where)
    listener = Listener()
    with pytest.raises(ProcessorError, match=message) as caught:
        go(make_request(Failing, on_error="fail"), callbacks=[("listener", listener)])
    assert "test_run.py" in str(caught.value), "with the user's traceback"
    assert listener.heard[-1] == ("error", "ProcessorError")
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_a_run_whose_on_finish_failed_is_complete(make_request, monkeypatch):
    monkeypatch.setattr(Failing, "where", "finish")
    with pytest.raises(ProcessorError):
        go(make_request(Failing))
    assert go(make_request(Failing)).metrics == {"total": 1225.0}


def test_what_is_no_processor_is_refused(make_request):
    with pytest.raises(ConfigError, match=r"The processor is a list; expected a subclass of batchmill"):
        go(make_request([1]))


def test_what_are_no_claims_are_refused(make_request):
    with pytest.raises(PluginError, match=r"is a list; expected batchmill\.Claims"):
        go(make_request(claims=Selection("", instance=[1])))


class Random(TorchBatchProcessor):
    def __init__(self, context):
        Random.drawn = (random.random(), np.random.rand(), torch.rand(1).item())

    def process_batch(self, batch, batch_idx):
        return None


def test_every_generator_is_seeded_before_the_processor_is_built(make_request, new_storage):
    draws = []
    for seed in (3, 3, 4):
        output = new_storage().url.rsplit("/", 1)[0]
        go(make_request(Random, seed=seed, output=output))
        draws.append(Random.drawn)
        torch.rand(3), np.random.rand(3), random.random()
    assert draws[0] == draws[1]
    assert not set(draws[0]) & set(draws[2])


class Threads(TorchBatchProcessor):
    def __init__(self, context):
        Threads.seen = torch.get_num_threads()

    def process_batch(self, batch, batch_idx):
        return None


def test_the_threads_of_torch_are_those_asked_for_and_come_back(make_request):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        go(make_request(Threads, threads=3))
        assert (Threads.seen, torch.get_num_threads()) == (3, 2)
    finally:
        torch.set_num_threads(before)


class Curious(Summing):
    def __init__(self, context):
        super().__init__(context)
        self.rank = context.get_distributed_rank()
        self.size = context.get_distributed_size()
        context.report_metrics("setup", self.rank, {"ready": True})
        with context.upload_path() as path:
            (path / "hello.txt").write_text("hello")


def test_the_context_knows_where_the_worker_stands(make_request, storage):
    go(make_request(Curious, hparams={"lr": 0.5}), distributed=DistributedContext(0, 1))
    assert (Summing.last.rank, Summing.last.size, Summing.last.context.get_hparams()) == (0, 1, {"lr": 0.5})
    assert storage.get("files/rank-00000/hello.txt") == b"hello"
    assert [json.loads(storage.get(path))["group"] for path in storage.paths("reports")] == ["setup"]


class Profiled(Summing):
    def process_batch(self, batch, batch_idx):
        with self.profiler as profiler:
            super().process_batch(batch, batch_idx)
            profiler.step()


@pytest.mark.parametrize("profile", [False, True])
def test_the_profiler_records_only_if_it_is_asked_to(make_request, tmp_path, profile):
    request = make_request(Profiled, profile=profile, storage=Selection("local"), output=str(tmp_path))
    assert go(request).complete
    traces = list(tmp_path.glob("run/tensorboard/rank-00000/*.json"))
    assert len(traces) == (1 if profile else 0)


def test_a_model_of_the_config_is_linked_and_its_metrics_are_found(make_request, tmp_path):
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "w.bin").write_bytes(b"1")
    request = make_request(model_name="sums", model_version="best")
    tracker = get_catalog().registry.get("tracker", "sqlite").load()(request.output)
    with client.use(tracker):
        version = client.create_model("sums").register_version(weights, labels=["best"])
    go(request)
    assert Summing.last.context.checkpoint == weights
    assert Summing.last.context.get_hparams() == {"model_name": "sums", "model_version": 1}
    (found,) = version.get_metrics("validation")
    assert (found.run_id, dict(found.metrics), found.steps_completed) == ("run", {"total": 1225.0}, 10)


class Folding(TorchBatchProcessor):
    def __init__(self, context):
        context.wrap_reducer(lambda values: 1 / 0, "ratio")

    def process_batch(self, batch, batch_idx):
        return None


def test_a_metric_that_cannot_be_folded_leaves_the_run_incomplete(make_request, storage):
    with pytest.raises(ReducerError, match=r"'ratio' .* ZeroDivisionError"):
        go(make_request(Folding))
    assert not storage.exists("result.json")
    assert len(storage.paths("commits")) == 10


def test_an_empty_dataset_is_complete_at_once(make_request):
    result = go(make_request(dataset=Selection("", instance=TensorDataset(torch.zeros(0)))))
    assert (result.complete, result.samples, result.metrics) == (True, 0, {"total": 0.0})
    assert Summing.last.events == ["init", "finish"]


class Hooked(TensorDataset):
    """A dataset that takes part in the run."""

    def __init__(self):
        super().__init__(torch.arange(50.0))
        self.heard = []

    @hookimpl
    def on_run_start(self, context):
        self.heard.append("start")

    @hookimpl
    def on_finish(self, result):
        self.heard.append("finish")


class Private(TensorDataset):
    """A dataset that must not be looked into."""

    def __init__(self):
        super().__init__(torch.arange(50.0))

    @property
    def expensive(self):
        raise AssertionError("looked at")


class HookedClaims(StaticClaims):
    """Claims that take part in the run."""

    heard: ClassVar[list] = []

    @hookimpl
    def on_run_start(self, context):
        self.heard.append("start")


def test_a_dataset_and_claims_may_take_part_in_the_run(make_request):
    dataset = Hooked()
    go(make_request(dataset=Selection("", instance=dataset), claims=Selection("", instance=HookedClaims)))
    assert dataset.heard == ["start", "finish"]
    assert HookedClaims.heard == ["start"]


def test_a_dataset_that_takes_no_part_is_not_looked_into(make_request):
    assert go(make_request(dataset=Selection("", instance=Private()))).complete
