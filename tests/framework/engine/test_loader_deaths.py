"""A loader process that dies is heard of while something is read from it, and not in the middle of other work."""

import multiprocessing
import os
import signal
import sys
import time

import pytest
from torch.utils.data import DataLoader, Dataset

from batchmill.engine.loader_deaths import LoaderProcesses

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]


class Numbers(Dataset):
    def __len__(self):
        return 100

    def __getitem__(self, index):
        if index == 2:
            time.sleep(0.2)
            os._exit(5)
        if index == 3:
            time.sleep(60)
        return index


@pytest.fixture
def loader():
    """A loader of one process that has given its first batches, and dies soon."""
    processes = LoaderProcesses()
    made = DataLoader(Numbers(), batch_size=None, num_workers=1, prefetch_factor=3, persistent_workers=True)
    with processes.started():
        batches = iter(made)
    with processes.reading():
        assert [next(batches), next(batches)] == [0, 1]
    yield processes, batches
    for child in multiprocessing.active_children():
        child.kill()
        child.join()
    del batches, made


def busy(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))


def test_other_work_is_not_interrupted_and_the_next_reading_is(loader):
    processes, batches = loader
    assert not processes.died()
    busy(1.0)  # an error here would be PyTorch's, out of its signal handler
    assert processes.died()
    with pytest.raises(RuntimeError) as caught, processes.reading():
        next(batches)
    assert processes.what_happened(caught.value) == ("ProcessDied", "A loader process ended with exit code 5.")


def test_a_reading_that_waits_is_interrupted(loader):
    processes, batches = loader
    began = time.monotonic()
    with pytest.raises(RuntimeError) as caught, processes.reading():
        next(batches)
    assert time.monotonic() - began < 4, "PyTorch by itself looks every five seconds"
    assert processes.what_happened(caught.value)[0] == "ProcessDied"


def test_the_death_of_one_loaders_process_is_not_anothers(loader):
    other = LoaderProcesses()
    busy(1.0)
    with other.reading():
        pass
    assert not other.died()
    assert other.what_happened(RuntimeError("a reason")) == ("RuntimeError", "a reason")


def test_what_is_said_of_a_death_does_not_depend_on_who_noticed():
    processes = LoaderProcesses()
    with processes.started():
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
    assert processes.what_happened(RuntimeError("DataLoader timed out after 1 seconds")) == (
        "Hung",
        "A loader process did not come to an end: DataLoader timed out after 1 seconds.",
    )
    assert processes.what_happened(EOFError())[1] == "A loader process ended while it was being read from."
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    for error in (RuntimeError("exited unexpectedly"), EOFError(), ConnectionResetError("reset")):
        assert processes.what_happened(error) == ("ProcessDied", "A loader process was killed by SIGKILL.")
