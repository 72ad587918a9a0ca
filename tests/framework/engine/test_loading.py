import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from batchmill import ConfigError
from batchmill.engine import loading
from batchmill.engine.grid import Grid
from batchmill.engine.ranges import ReadFailure
from batchmill.engine.reading import BatchSource

# Loader processes are forked beside the commit thread; Python warns of that from 3.12 on.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


class Squares(Dataset):
    def __init__(self, length=20):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return {"x": torch.tensor(float(index)), "square": index * index}


def read_all(source, chunks):
    try:
        return list(source.read(iter(chunks)))
    finally:
        source.close()


SENT = '''
import os
import torch
from torch.utils.data import Dataset, get_worker_info

class Sent(Dataset):
    """Can be sent to spawned processes: it lives in a module."""
    def __len__(self):
        return 23
    def __getitem__(self, index):
        info = get_worker_info()
        return {"x": torch.full((3,), float(index)), "worker": -1 if info is None else info.id,
                "started": os.environ.get("SENT_STARTED", "no")}

def start(worker_id):
    os.environ["SENT_STARTED"] = f"as {worker_id}"

def collate(samples):
    return [sample["x"][0].item() for sample in samples]
'''


@pytest.fixture
def sent(tmp_path, monkeypatch):
    (tmp_path / "sent_dataset.py").write_text(SENT)
    monkeypatch.syspath_prepend(tmp_path)
    import sent_dataset

    yield sent_dataset
    sys.modules.pop("sent_dataset")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_loader_processes_give_the_same_batches_in_the_same_order(sent, method):
    grid, chunks = Grid(23, 3, 2), [2, 0, 3, 1]
    here = read_all(BatchSource(sent.Sent(), grid, {}), chunks)
    options = {"num_workers": 2, "multiprocessing_context": method, "worker_init_fn": sent.start}
    there = read_all(BatchSource(sent.Sent(), grid, options), chunks)
    assert [(chunk, batch) for chunk, batch, _ in there] == [(chunk, batch) for chunk, batch, _ in here]
    assert all(torch.equal(one["x"], other["x"]) for (_, _, one), (_, _, other) in zip(here, there, strict=True))
    assert {int(worker) for _, _, batch in there for worker in batch["worker"]} == {0, 1}
    assert {started for _, _, batch in there for started in batch["started"]} == {"as 0", "as 1"}
    assert {started for _, _, batch in here for started in batch["started"]} == {"no"}


def test_loader_processes_leave_the_processors_random_numbers_alone(sent):
    drawn = []
    for workers in (0, 2):
        torch.manual_seed(5)
        read_all(BatchSource(sent.Sent(), Grid(23, 10, 1), {"num_workers": workers}), [0, 1, 2])
        drawn.append(torch.rand(1).item())
    assert drawn[0] == drawn[1]


NOISY = """
import torch
from torch.utils.data import Dataset

class Noisy(Dataset):
    def __len__(self):
        return 8
    def __getitem__(self, index):
        return torch.rand(1)
"""


def test_random_numbers_in_loader_processes_follow_the_seed(tmp_path, monkeypatch):
    (tmp_path / "noisy_dataset.py").write_text(NOISY)
    monkeypatch.syspath_prepend(tmp_path)
    import noisy_dataset

    drawn = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        found = read_all(BatchSource(noisy_dataset.Noisy(), Grid(8, 2, 1), {"num_workers": 2}), range(4))
        drawn.append([batch.tolist() for _, _, batch in found])
    sys.modules.pop("noisy_dataset")
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_collate_function_runs_in_the_loader_processes(sent):
    grid = Grid(23, 10, 1)
    found = read_all(BatchSource(sent.Sent(), grid, {"num_workers": 1, "collate_fn": sent.collate}), range(3))
    assert [batch for _, _, batch in found] == [[float(i) for i in range(*grid.batch_range(b))] for b in range(3)]


def test_loader_processes_serve_one_reading_after_another(sent):
    grid = Grid(23, 3, 2)
    source = BatchSource(sent.Sent(), grid, {"num_workers": 2})
    try:
        first = [batch for _, batch, _ in source.read(iter([0]))]
        processes = multiprocessing.active_children()
        second = [batch for _, batch, _ in source.read(iter([2, 1]))]
        assert (first, second) == ([0, 1], [4, 5, 2, 3])
        assert multiprocessing.active_children() == processes
    finally:
        source.close()
    assert multiprocessing.active_children() == []


def test_chunks_are_claimed_ahead_only_as_far_as_the_processes_read(sent):
    grid, claimed = Grid(23, 1, 2), []

    def claims():
        for chunk in range(grid.chunks):
            claimed.append(chunk)
            yield chunk

    source = BatchSource(sent.Sent(), grid, {"num_workers": 1, "prefetch_factor": 2})
    batches = source.read(claims())
    next(batches)
    assert claimed == [0, 1], "three batches: one given, two ahead"
    batches.close()
    source.close()


def test_loader_processes_leave_signals_to_the_worker(sent):
    source = BatchSource(sent.Sent(), Grid(23, 1, 1), {"num_workers": 2})
    batches = source.read(iter(range(23)))
    found = [next(batches), next(batches)]  # one from each process: both have begun
    for process in multiprocessing.active_children():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            os.kill(process.pid, number)
    found += list(batches)
    source.close()
    assert [batch for _, batch, _ in found] == list(range(23))


class Dying(Squares):
    def __getitem__(self, index):
        if index == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        return index


def test_a_loader_process_that_dies_costs_the_batch_that_was_waited_for():
    source = BatchSource(Dying(), Grid(20, 5, 1), {"num_workers": 1, "prefetch_factor": 1})
    found = read_all(source, range(4))
    assert [batch_idx for _, batch_idx, _ in found] == [0, 1, 2, 3]
    failures = {batch_idx: batch for _, batch_idx, batch in found if isinstance(batch, ReadFailure)}
    assert 2 in failures and failures.keys() <= {1, 2}, "the batch that kills, and perhaps the one before it"
    assert all("A loader process was killed by" in failure.message for failure in failures.values())
    assert "were being read" in failures[2].message
    assert multiprocessing.active_children() == []


def test_single_samples_are_read_beside_the_one_that_kills():
    source = BatchSource(Dying(), Grid(20, 5, 1), {"num_workers": 2})
    try:
        assert source.pick([12, 14, 12]).tolist() == [12, 14, 12]
        assert isinstance(source.pick([12, 13]), ReadFailure)
        assert source.pick([14]).tolist() == [14], "with a new process"
    finally:
        source.close()
    assert multiprocessing.active_children() == []


class Slow(Squares):
    def __getitem__(self, index):
        if index >= 5:
            time.sleep(600)
        return index


def test_a_loader_that_times_out_is_told_with_its_batch():
    source = BatchSource(Slow(), Grid(20, 5, 1), {"num_workers": 1, "timeout": 1})
    try:
        batches = source.read(iter(range(4)))
        next(batches)
        _, batch_idx, failure = next(batches)
    finally:
        source.close()
    assert batch_idx == 1 and "timed out" in failure.message
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("pin_memory", [False, pytest.param(True, marks=pytest.mark.filterwarnings("ignore:.*pin"))])
def test_closing_ends_a_process_that_is_stuck_in_the_dataset(pin_memory, monkeypatch):
    monkeypatch.setattr(loading, "_PATIENCE", 0.2)
    source = BatchSource(Slow(), Grid(20, 5, 1), {"num_workers": 2, "pin_memory": pin_memory})
    batches = source.read(iter(range(4)))
    next(batches)
    began = time.monotonic()
    source.close()
    assert multiprocessing.active_children() == []
    assert time.monotonic() - began < 15


ORPHANING = """
    import multiprocessing, os, signal, time
    from batchmill.engine.grid import Grid
    from batchmill.engine.reading import BatchSource

    class Slow:
        def __len__(self):
            return 20
        def __getitem__(self, index):
            if index >= 5:
                time.sleep(600)
            return index

    batches = BatchSource(Slow(), Grid(20, 5, 1), {"num_workers": 2}).read(iter(range(4)))
    next(batches)
    print(*(process.pid for process in multiprocessing.active_children()), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_loader_processes_leave_when_their_worker_is_killed_though_they_are_stuck():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ORPHANING)], stdout=subprocess.PIPE, text=True, timeout=60, check=False
    )
    pids = [int(pid) for pid in done.stdout.split()]
    assert done.returncode == -signal.SIGKILL and len(pids) == 2
    deadline = time.monotonic() + 20
    while alive := [pid for pid in pids if _is_alive(pid)]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.05)


def _is_alive(pid):
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat")
        # Whoever inherits a process may leave its entry behind.
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False


STUCK = """
    import time
    import batchmill
    from torch.utils.data import Dataset

    class Slow(Dataset):
        def __len__(self):
            return 20
        def __getitem__(self, index):
            if index >= 10:
                time.sleep(600)
            return index

    class Processor(batchmill.TorchBatchProcessor):
        def __init__(self, context):
            pass
        def process_batch(self, batch, batch_idx):
            raise ValueError("no")

    try:
        batchmill.torch_batch_process(
            Processor, Slow(), 5, output="memory://stuck", dataloader_kwargs={"num_workers": 2}, on_error="fail"
        )
    except batchmill.ProcessorError:
        print("failed as it should")
"""


def test_a_script_ends_though_its_loader_processes_are_stuck():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(STUCK)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.returncode) == ("failed as it should\n", 0), done.stderr


@pytest.mark.filterwarnings("ignore:.*pin_memory")
@pytest.mark.parametrize("workers", [0, 1])
def test_memory_may_be_pinned(sent, workers):
    found = read_all(BatchSource(sent.Sent(), Grid(23, 10, 1), {"pin_memory": True, "num_workers": workers}), range(3))
    assert [len(batch["x"]) for _, _, batch in found] == [10, 10, 3]
    assert all(batch["x"].is_pinned() == torch.cuda.is_available() for _, _, batch in found)


@pytest.mark.filterwarnings("ignore:Got pickle error")
def test_a_dataset_that_cannot_be_sent_is_told_as_such():
    class Local(Squares):
        """Spawned processes cannot import a class from inside a function."""

    source = BatchSource(Local(), Grid(20, 5, 1), {"num_workers": 1, "multiprocessing_context": "spawn"})
    with pytest.raises(ConfigError, match=r"cannot be sent to loader processes.*Local"):
        try:
            next(source.read(iter([0])))
        finally:
            source.close()
