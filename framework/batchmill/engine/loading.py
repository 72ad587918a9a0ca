"""Reading ahead through torch's DataLoader: batches in order, and loader processes that always end."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.synchronize import Semaphore
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from batchmill.errors import ConfigError

ReadRange = Callable[[int, int], Any]

# Signals that ask a worker to drain; its loader processes leave them to it.
_DRAIN_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
# Seconds in which loader processes that are not stuck in user code have left.
_PATIENCE = 2.0
_LONGEST_END = 10.0
# Seconds between looks whether the worker is still there.
_ORPHAN_POLL = 1.0


@dataclass(frozen=True)
class ReadFailure:
    """An error in the dataset's code, sent back as a value so that its batch is known."""

    message: str


class ReadAhead:
    """Reads sample ranges in loader processes (or, without any, with pinned memory in this one).

    Args:
        read: Reads one range as a collated batch.
        options: Keyword arguments for ``torch.utils.data.DataLoader``.

    Raises:
        ConfigError: An argument is unknown, or would change which samples are read or their order.
    """

    def __init__(self, read: ReadRange, options: Mapping[str, Any]) -> None:
        arguments = dict(options)
        self._ranges: Iterator[tuple[int, int]] = iter(())
        self._processes: int = arguments.get("num_workers", 0)
        self._leave: Semaphore | None = None
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

    def read(self, ranges: Iterator[tuple[int, int]]) -> Iterator[Any]:
        """Yield one batch, or a ``ReadFailure``, for each range, in order.

        Args:
            ranges: Sample ranges ``(start, stop)``; taken from only when there is room to read ahead.

        Raises:
            RuntimeError: A loader process died, or took longer than the loader's time-out.
            ConfigError: The dataset cannot be sent to loader processes.
        """
        assert self._loader is not None, "not read from after it was closed"
        self._ranges = ranges
        try:
            batches = iter(self._loader)
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            raise ConfigError(
                f"The dataset or a loader function cannot be sent to loader processes: {error}. Define it at the top "
                f"of a module, or set num_workers=0."
            ) from error
        yield from batches

    def next_ranges(self) -> Iterator[tuple[int, int]]:
        """Return the ranges of the reading that begins now."""
        return self._ranges

    def close(self) -> None:
        """End the loader processes, also those that are stuck in the dataset's code.

        Left to the interpreter's exit they would be sent SIGTERM, which they ignore, and be waited for without end.
        """
        self._ranges = iter(())
        held, self._loader = [self._loader], None
        # Freeing the loader asks its processes to leave and waits for them, which takes long if they are stuck.
        freeing = threading.Thread(target=held.clear, name="batchmill-loader-end", daemon=True)
        freeing.start()
        freeing.join(_PATIENCE)
        if self._leave is not None:
            for _ in range(self._processes):
                self._leave.release()
            freeing.join(_LONGEST_END)


class _Fed:
    """The loader's sampler: asks anew for ranges each time the loader is iterated."""

    def __init__(self, ahead: ReadAhead) -> None:
        self._ahead = ahead

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return self._ahead.next_ranges()


class _RangeDataset(Dataset[Any]):
    """Looks like a map-style dataset whose keys are ranges."""

    def __init__(self, read: ReadRange) -> None:
        self._read = read

    def __getitem__(self, key: tuple[int, int]) -> Any:
        try:
            return self._read(*key)
        except Exception as error:  # the dataset's own code; the batch is named where it arrives
            return ReadFailure(f"{type(error).__name__}: {error}")


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
