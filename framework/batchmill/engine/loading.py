"""Reading ahead through torch's DataLoader: batches in order, and loader processes that always end."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.synchronize import Semaphore
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from batchmill.engine.loader_deaths import LoaderProcesses
from batchmill.engine.ranges import RangeReader, ReadFailure
from batchmill.engine.user_code import drop_frames
from batchmill.errors import ConfigError

# Signals that ask a worker to drain; its loader processes leave them to it.
_DRAIN_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
# Seconds in which loader processes that are not stuck in user code have left.
_PATIENCE = 2.0
_LONGEST_END = 10.0
# Seconds between looks whether the worker is still there.
_ORPHAN_POLL = 1.0


# Raised by a loader when one of its processes has died or hangs; the dataset's own errors come as values.
LOADER_ERRORS = (RuntimeError, EOFError, OSError)
_END = object()
# Readings of one batch while processes of another loader die.
_MOST_TRIES = 5


class ReadAhead:
    """Reads batches in loader processes (or, without any, with pinned memory in this one).

    Args:
        read: Reads one batch, called with what ``read()`` is given: for a range, ``start`` and ``stop``.
        options: Keyword arguments for ``torch.utils.data.DataLoader``.

    Raises:
        ConfigError: An argument is unknown, or would change which samples are read or their order.
    """

    def __init__(self, read: Callable[..., Any], options: Mapping[str, Any]) -> None:
        arguments = dict(options)
        self._keys: Iterator[tuple[int, ...]] = iter(())
        self._processes: int = arguments.get("num_workers", 0)
        self._leave: Semaphore | None = None
        self._children = LoaderProcesses()
        started = arguments.pop("worker_init_fn", None)
        try:
            if not arguments.pop("in_order", True):
                raise ValueError("in_order=False would mix up which batch belongs to which samples")
            if self._processes:
                arguments.setdefault("persistent_workers", True)
                # Of its own, so that the processor draws the same random numbers with any number of processes.
                arguments.setdefault("generator", torch.Generator().manual_seed(torch.initial_seed()))
                context: Any = arguments.get("multiprocessing_context")
                if context is None or isinstance(context, str):
                    context = multiprocessing.get_context(context)
                # Not an event: setting one waits for all who wait for it, and dead processes never answer.
                self._leave = context.Semaphore(0)
            # The loader is fed with ranges, not index lists: two numbers travel to a process, not a batch of them.
            self._loader: DataLoader[Any] | None = DataLoader(
                _RangeDataset(read),
                batch_size=None,
                sampler=_Fed(self),
                collate_fn=_unchanged,
                worker_init_fn=_Start(started, self._leave),
                **arguments,
            )
        except (TypeError, ValueError) as error:
            raise ConfigError(f"The loader's arguments do not fit torch's DataLoader: {error}") from error

    def read(self, keys: Iterator[tuple[int, ...]]) -> Iterator[Any]:
        """Yield one batch, or a ``ReadFailure``, for each key, in order.

        Args:
            keys: Arguments of the reading function; taken from only when there is room to read ahead.

        Raises:
            RuntimeError, EOFError, OSError: A loader process died, or took longer than the loader's time-out.
            ConfigError: The dataset cannot be sent to loader processes.
        """
        assert self._loader is not None, "not read from after it was closed"
        self._keys = keys
        try:
            with self._children.started():
                batches = iter(self._loader)
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            raise ConfigError(
                f"The dataset or a loader function cannot be sent to loader processes: {error}. Define it at the top "
                f"of a module, or set num_workers=0."
            ) from error
        while True:
            with self._children.reading():
                batch = next(batches, _END)
            if batch is _END:
                return
            yield batch

    def died(self) -> bool:
        """Return whether one of the loader's processes has ended."""
        return self._children.died()

    def failure(self, error: Exception) -> ReadFailure:
        """Describe an error that reading raised, without the error itself, whose frames would keep the processes."""
        failure = ReadFailure(*self._children.what_happened(error))
        drop_frames(error)  # in which PyTorch leaves files open as well
        return failure

    def next_keys(self) -> Iterator[tuple[int, ...]]:
        """Return the keys of the reading that begins now."""
        return self._keys

    def close(self) -> None:
        """End the loader processes, also those that are stuck in the dataset's code.

        Left to the interpreter's exit they would be sent SIGTERM, which they ignore, and be waited for without end.
        """
        self._keys = iter(())
        held, self._loader = [self._loader], None
        # Freeing the loader asks its processes to leave and waits for them, which takes long if they are stuck.
        freeing = threading.Thread(target=held.clear, name="batchmill-loader-end", daemon=True)
        freeing.start()
        freeing.join(_PATIENCE)
        if self._leave is not None:
            for _ in range(self._processes):
                self._leave.release()
            freeing.join(_LONGEST_END)


class RowReader:
    """Reads single samples as a batch, where the dataset is read otherwise: here, or in one loader process.

    That process prepares itself as the others do (``worker_init_fn``), and only it dies of a sample that kills.

    Args:
        read: Reads the dataset.
        options: Keyword arguments for ``torch.utils.data.DataLoader``.
    """

    def __init__(self, read: RangeReader, options: Mapping[str, Any]) -> None:
        self._read = _Pick(read)
        self._options: dict[str, Any] | None = None
        if options.get("num_workers"):
            self._options = {**options, "num_workers": 1}
        self._loader: ReadAhead | None = None

    def read(self, indices: Sequence[int]) -> Any:
        """Return the samples of the given indices as one batch, or a ``ReadFailure``."""
        if self._options is None:
            try:
                return self._read(*indices)
            except Exception as error:  # the dataset's own code: any error
                return ReadFailure.of(error, here=True)
        for tries in range(1, _MOST_TRIES + 1):
            if self._loader is None:
                self._loader = ReadAhead(self._read, self._options)
            try:
                (batch,) = self._loader.read(iter([tuple(indices)]))
            except LOADER_ERRORS as error:  # the process died, or took too long
                failure = self._loader.failure(error)
                ours = self._loader.died() or failure.error == "Hung"
                self.close()
                if ours or tries == _MOST_TRIES:
                    return failure
            else:
                break
        return batch

    def close(self) -> None:
        """End the loader process."""
        if self._loader is not None:
            self._loader.close()
            self._loader = None


class _Pick:
    """Reads single samples; a class, so that it can be sent to spawned processes."""

    def __init__(self, read: RangeReader) -> None:
        self._read = read

    def __call__(self, *indices: int) -> Any:
        return self._read.pick(indices)


class _Fed:
    """The loader's sampler: asks anew for keys each time the loader is iterated."""

    def __init__(self, ahead: ReadAhead) -> None:
        self._ahead = ahead

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        return self._ahead.next_keys()


class _RangeDataset(Dataset[Any]):
    """Looks like a map-style dataset whose keys are ranges."""

    def __init__(self, read: Callable[..., Any]) -> None:
        self._read = read

    def __getitem__(self, key: tuple[int, ...]) -> Any:
        try:
            return self._read(*key)
        except Exception as error:  # the dataset's own code; the batch is named where it arrives
            return ReadFailure.of(error, here=False)


class _Start:
    """Prepares a loader process; a class, so that it can be sent to spawned processes."""

    def __init__(self, started: Callable[[int], None] | None, leave: Semaphore | None) -> None:
        self._started, self._leave = started, leave

    def __call__(self, worker_id: int) -> None:
        for number in _DRAIN_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if self._leave is not None:
            leave = threading.Thread(target=_leave_when_told, args=(self._leave,), name="batchmill-leave", daemon=True)
            leave.start()
        if self._started is not None:
            self._started(worker_id)


def _leave_when_told(leave: Semaphore) -> None:
    """End this loader process when it is told to, or orphaned, whatever the dataset's code is waiting for."""
    while not leave.acquire(timeout=_ORPHAN_POLL) and not _is_orphan():
        pass
    os._exit(0)


def _is_orphan() -> bool:
    worker = multiprocessing.parent_process()
    # The second, slower question is for processes that a fork server started, or that were orphaned at once.
    return worker is None or (os.getppid() != worker.pid and not worker.is_alive())


def _unchanged(batch: Any) -> Any:
    return batch
