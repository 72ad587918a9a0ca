import threading

import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from batchmill import (
    ClaimScope,
    DatasetError,
    MetricReducer,
    OutputError,
    ProcessorError,
    StaticClaims,
    StorageError,
    TorchBatchProcessor,
    hookimpl,
)
from batchmill.engine import worker as module
from batchmill.engine.claims import Takeover
from batchmill.engine.commit_log import CommitLog
from batchmill.engine.committer import Committer
from batchmill.engine.grid import Grid
from batchmill.engine.isolation import OutOfTime
from batchmill.engine.policy import FailurePolicy
from batchmill.engine.quarantine import ErrorBudget
from batchmill.engine.reading import BatchSource
from batchmill.engine.reduction import ReducerSet
from batchmill.engine.sideline import Sideline
from batchmill.engine.stopping import StopFlag
from batchmill.engine.worker import Progress, Worker
from batchmill.plugin_manager import make_run_manager

pytestmark = pytest.mark.usefixtures("quick_retries")


class Texts:
    """Writes one value per line."""

    extension = "txt"

    def encode(self, output):
        return "".join(f"{i} {y}\n" for i, y in zip(output.index, output.columns["y"], strict=True)).encode()


class Total(MetricReducer):
    def reset(self):
        self.total = 0

    def per_slot_reduce(self):
        return self.total

    def cross_slot_reduce(self, per_slot_metrics):
        return sum(per_slot_metrics)


class Doubling(TorchBatchProcessor):
    """Doubles its samples and tells what happens to it."""

    def __init__(self, rig):
        self.rig = rig
        self.events = []

    def process_batch(self, batch, batch_idx):
        self.events.append(batch_idx)
        self.rig.total.total += int(batch[0].sum())
        self.rig.sideline.report("seen", batch_idx, {"rows": len(batch[0])})
        self.rig.sideline.add_files({f"note-{batch_idx}": b"x"})
        return {"y": batch[0] * 2}

    def on_checkpoint_start(self):
        self.events.append("checkpoint")


class Tracker:
    def report(self, record):
        pass


class Rig:
    """A worker whose every part is real but for what a test replaces."""

    def __init__(self, storage, rank=0, world_size=1, samples=50, k=2, dataset=None, loader=None, clock=None):
        self.storage, self.grid = storage, Grid(samples, 5, k)
        self.log = CommitLog(storage, self.grid.chunks)
        self.reducers, self.total = ReducerSet(), Total()
        self.reducers.wrap(self.total, "total")
        self.sideline = Sideline(storage, Tracker(), "r", rank, lambda *told: None)
        self.processor = Doubling(self)
        self.stop, self.progress, self.listeners = StopFlag(), Progress(), []
        self.policy, self.max_errors = FailurePolicy("fail"), None
        self.suspects, self.start_trials = set(), None
        scope = ClaimScope(self.grid.chunks, rank, world_size, self.log.missing)
        self.claims = StaticClaims(scope)
        self.takeover = Takeover(scope, 60, clock or (lambda: 0.0))
        dataset = dataset or TensorDataset(torch.arange(samples))
        self.source = BatchSource(dataset, self.grid, loader or {})

    def work(self):
        self.committer = Committer(self.log, Texts(), lambda *told: None)
        return Worker(
            grid=self.grid,
            source=self.source,
            processor=self.processor,
            context=None,
            reducers=self.reducers,
            sideline=self.sideline,
            hooks=make_run_manager([(str(i), listener) for i, listener in enumerate(self.listeners)]),
            claims=self.claims,
            takeover=self.takeover,
            committer=self.committer,
            stop=self.stop,
            progress=self.progress,
            policy=self.policy,
            budget=ErrorBudget(self.max_errors, self.grid.samples, self.log),
            suspects=self.suspects,
            start_trials=self.start_trials,
        ).work()

    def records(self):
        return [self.log.read(chunk) for chunk in sorted(self.log.committed())]


def test_a_worker_commits_every_chunk_with_all_that_belongs_to_it(storage):
    rig = Rig(storage, samples=48)
    assert rig.work() is True
    batches = [event for event in rig.processor.events if event != "checkpoint"]
    assert batches == list(range(10)) and rig.processor.events[2::3] == ["checkpoint"] * 5
    assert rig.progress.samples == 48
    for record in rig.records():
        samples = range(record["start"], record["stop"])
        assert storage.get(record["parts"][0]["name"]).decode() == "".join(f"{i} {2 * i}\n" for i in samples)
        assert record["partials"] == {"total": sum(samples)}
        first = record["start"] // 5
        assert [report["steps_completed"] for report in record["reports"]] == [first, first + 1]
        assert len(record["files"]) == 2


def test_only_its_share_and_only_what_is_missing(storage):
    Rig(storage).work()
    storage.delete("commits/00000001.json")
    storage.delete("commits/00000002.json")
    rig = Rig(storage)
    assert rig.work() is True
    assert rig.processor.events == [2, 3, "checkpoint", 4, 5, "checkpoint"]
    again = Rig(storage)
    assert again.work() is True and again.processor.events == []


def test_a_processor_that_returns_nothing_leaves_no_parts(storage):
    rig = Rig(storage)
    rig.processor.process_batch = lambda batch, batch_idx: None
    assert rig.work() is True
    assert [record["parts"] for record in rig.records()] == [[]] * 5


class StopsAfter:
    def __init__(self, checkpoints):
        self.left = checkpoints

    @hookimpl
    def should_stop(self):
        self.left -= 1
        return "enough" if self.left == 0 else None


def test_a_hook_may_stop_the_run_at_a_chunks_end(storage):
    rig = Rig(storage)
    rig.listeners = [StopsAfter(2)]
    assert rig.work() is False
    assert rig.log.committed() == {0, 1} and rig.stop.reason == "enough"
    assert rig.processor.events == [0, 1, "checkpoint", 2, 3, "checkpoint"]


def test_a_stop_lets_the_chunk_in_progress_finish(storage):
    rig = Rig(storage)
    process = rig.processor.process_batch

    def stop_in_the_middle(batch, batch_idx):
        if batch_idx == 2:
            rig.stop.request("received SIGTERM")
        return process(batch, batch_idx)

    rig.processor.process_batch = stop_in_the_middle
    assert rig.work() is False
    assert rig.log.committed() == {0, 1}


def test_a_chunk_that_does_not_fit_in_the_grace_is_dropped_without_a_trace(storage):
    rig = Rig(storage)
    process = rig.processor.process_batch

    def stop_now(batch, batch_idx):
        if batch_idx == 2:
            rig.stop.request("killed soon", now=True)
        return process(batch, batch_idx)

    rig.processor.process_batch = stop_now
    assert rig.work() is False
    assert rig.log.committed() == {0}
    assert rig.processor.events == [0, 1, "checkpoint", 2]
    assert rig.reducers.take_partials() == {"total": 0}
    rig.sideline.open_chunk()
    rig.sideline.report("seen", 2, {"rows": 5})  # not refused as a repetition
    assert rig.sideline.close_chunk()[0] == {}
    resumed = Rig(storage)
    assert resumed.work() is True
    assert [record["partials"]["total"] for record in resumed.records()] == [45, 145, 245, 345, 445]


def test_a_chunk_that_was_read_ahead_is_not_begun_after_a_stop(storage):
    rig = Rig(storage, loader={"num_workers": 1, "prefetch_factor": 8})
    rig.listeners = [StopsAfter(1)]
    assert rig.work() is False
    assert rig.processor.events == [0, 1, "checkpoint"]


def test_an_error_of_the_processor_names_batch_and_samples(storage):
    rig = Rig(storage)
    process = rig.processor.process_batch

    def fail(batch, batch_idx):
        if batch_idx == 5:
            raise KeyError("no such label")
        return process(batch, batch_idx)

    rig.processor.process_batch = fail
    message = r"process_batch failed on batch 5 \(samples 25\.\.29\): KeyError"
    with pytest.raises(ProcessorError, match=message) as caught:
        rig.work()
    assert isinstance(caught.value.__cause__, KeyError)
    assert 'raise KeyError("no such label")' in str(caught.value) and "engine/worker.py" not in str(caught.value)
    assert rig.log.committed() == {0, 1}, "what was finished before stays"
    assert rig.reducers.take_partials() == {"total": 0}
    assert not any(thread.name == "batchmill-commit" for thread in threading.enumerate())


def test_an_error_of_on_checkpoint_start_is_told_as_such(storage):
    rig = Rig(storage)

    def fail():
        raise OSError("no tape in the drive")

    rig.processor.on_checkpoint_start = fail
    with pytest.raises(ProcessorError, match="on_checkpoint_start failed: OSError: no tape in the drive"):
        rig.work()
    assert rig.log.committed() == set()


def test_errors_of_the_framework_pass_unchanged(storage):
    rig = Rig(storage)
    rig.processor.process_batch = lambda batch, batch_idx: {"y": [1]}
    with pytest.raises(OutputError, match=r"^Column 'y' has 1 values for samples 0\.\.4"):
        rig.work()
    other = Rig(storage)

    def refuse(batch, batch_idx):
        raise OutputError("our own")

    other.processor.process_batch = refuse
    with pytest.raises(OutputError, match=r"^our own$"):
        other.work()


class Trials:
    """Tries nothing: the worker is told to leave before."""

    closed = False

    def __init__(self, stop):
        self.stop = stop

    def attempt(self, batch_idx, positions):
        self.stop.request("preempted", now=True)
        raise OutOfTime

    def close(self):
        Trials.closed = True


def test_a_stop_while_a_deadly_chunk_is_tried_drops_the_chunk(storage):
    rig = Rig(storage)
    rig.policy, rig.suspects, rig.start_trials = FailurePolicy(), {1}, lambda: Trials(rig.stop)
    assert rig.work() is False
    assert rig.log.committed() == {0}
    assert rig.processor.events == [0, 1, "checkpoint"], "nothing of the deadly chunk was touched here"
    assert rig.reducers.take_partials() == {"total": 0}
    assert Trials.closed


class Unreadable(Dataset):
    def __len__(self):
        return 50

    def __getitem__(self, index):
        if index == 31:
            raise OSError("bad sector")
        return (index,)


@pytest.mark.parametrize("loader", [{}, {"num_workers": 1}], ids=["here", "processes"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_an_error_of_the_dataset_stops_after_what_was_finished(storage, loader):
    rig = Rig(storage, dataset=Unreadable(), loader=loader)
    with pytest.raises(DatasetError, match=r"samples 30\.\.34"):
        rig.work()
    assert rig.log.committed() == {0, 1, 2}


def test_an_error_of_storage_reaches_the_worker(storage):
    storage.fail("put", "before", 100, StorageError("No space left on device"))
    with pytest.raises(StorageError, match="No space left"):
        Rig(storage).work()


def test_listeners_hear_of_batches_and_checkpoints_in_order(storage):
    heard = []

    class Listener:
        @hookimpl
        def on_batch_end(self, outputs, batch, batch_idx):
            heard.append((batch_idx, outputs["y"].tolist(), batch[0].tolist()))

        @hookimpl
        def on_checkpoint_start(self, chunk):
            heard.append(("checkpoint", chunk))
            rig.total.total += 1000  # still counts: partials are taken afterwards

    rig = Rig(storage, samples=10, k=1)
    rig.processor.on_checkpoint_start = lambda: heard.append("processor")
    rig.listeners = [Listener()]
    assert rig.work() is True
    assert heard == [
        (0, [0, 2, 4, 6, 8], [0, 1, 2, 3, 4]), "processor", ("checkpoint", 0),
        (1, [10, 12, 14, 16, 18], [5, 6, 7, 8, 9]), "processor", ("checkpoint", 1),
    ]  # fmt: skip
    assert [record["partials"]["total"] for record in rig.records()] == [1010, 1035]


def test_a_worker_takes_over_from_one_that_has_gone(storage, monkeypatch):
    now = [0.0]

    def sleep(seconds):
        assert 0 < seconds <= 1
        now[0] += seconds

    monkeypatch.setattr(module.time, "sleep", sleep)
    rig = Rig(storage, rank=1, world_size=2, clock=lambda: now[0])
    assert rig.work() is True
    assert rig.log.committed() == {0, 1, 2, 3, 4}
    first = [event for event in rig.processor.events if event != "checkpoint"]
    assert first[:4] == [2, 3, 6, 7], "its own share comes first"
    assert 60 <= now[0] < 63


def test_a_worker_waits_for_the_others_and_ends_with_them(storage, monkeypatch):
    other = Rig(storage, rank=0, world_size=2)
    waited = []

    def sleep(seconds):
        waited.append(seconds)
        if len(waited) == 3:
            monkeypatch.setattr(other.takeover, "look", lambda: (True, None))
            other.work()

    monkeypatch.setattr(module.time, "sleep", sleep)
    rig = Rig(storage, rank=1, world_size=2)
    assert rig.work() is True
    assert [event for event in rig.processor.events if event != "checkpoint"] == [2, 3, 6, 7]
    assert waited == sorted(waited) and len(waited) == 3


def test_a_stop_ends_waiting(storage, monkeypatch):
    rig = Rig(storage, rank=1, world_size=2)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: rig.stop.request("received SIGTERM"))
    assert rig.work() is False
    assert rig.log.committed() == {1, 3}


def test_no_samples_no_work(storage):
    rig = Rig(storage, samples=0)
    assert rig.work() is True and rig.processor.events == []
