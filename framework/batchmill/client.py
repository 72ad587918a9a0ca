"""The Python client: register models, find them again, and read the metrics that runs reported.

::

    from batchmill import client

    model = client.create_model("digits")
    model.register_version("models/digits-small", labels=["production"])
    client.get_model("digits").get_version("production").get_metrics("validation")
    client.get_run("nightly").get_metrics()

Inside a run the client talks to the run's tracker. Elsewhere it talks to what ``connect`` opened, or else to
the embedded tracker beside the runs in ``$BATCHMILL_TRACKER_OUTPUT``, by default ``runs``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from batchmill import checkpoints
from batchmill.checkpoints import Checkpoint
from batchmill.components import Kind
from batchmill.contracts.tracker import Tracker
from batchmill.errors import ModelError
from batchmill.models import Model
from batchmill.plugin_manager import get_catalog
from batchmill.tracked_runs import TrackedRun, find_run
from batchmill.tracked_values import check_json, check_labels, check_name, check_text

OUTPUT_VARIABLE = "BATCHMILL_TRACKER_OUTPUT"
DEFAULT_OUTPUT = "runs"
DEFAULT_TRACKER = "sqlite"

_in_context: ContextVar[Tracker | None] = ContextVar("batchmill_tracker", default=None)
# Threads that user code starts do not inherit the context; they find the tracker that was put to use last.
_in_use: list[Tracker] = []
_connected: Tracker | None = None


@contextmanager
def use(tracker: Tracker) -> Iterator[Tracker]:
    """Let the client talk to ``tracker`` inside the ``with`` block, as the engine does during a run."""
    token = _in_context.set(tracker)
    _in_use.append(tracker)
    try:
        yield tracker
    finally:
        _in_use.remove(tracker)
        _in_context.reset(token)


def open_tracker(output: str = DEFAULT_OUTPUT, tracker: str = DEFAULT_TRACKER, **settings: Any) -> Tracker:
    """Return the tracker of an output.

    Args:
        output: The directory or URL that holds runs.
        tracker: The registered name of the tracker component.
        **settings: Its settings.

    Raises:
        UnknownComponentError: There is no such tracker.
    """
    opened: Tracker = get_catalog().registry.get(Kind.TRACKER, tracker).load()(output, **settings)
    return opened


def connect(output: str = DEFAULT_OUTPUT, tracker: str = DEFAULT_TRACKER, **settings: Any) -> Tracker:
    """Let the client talk to the tracker of an output, from now on and outside of runs.

    Args:
        output: The directory or URL that holds runs.
        tracker: The registered name of the tracker component.
        **settings: Its settings.

    Returns:
        The tracker.

    Raises:
        UnknownComponentError: There is no such tracker.
    """
    global _connected
    _connected = open_tracker(output, tracker, **settings)
    return _connected


def disconnect() -> None:
    """Undo ``connect``."""
    global _connected
    _connected = None


def current_tracker() -> Tracker:
    """Return the tracker that the client talks to at this place."""
    tracker = _in_context.get()
    if tracker is not None:
        return tracker
    if _in_use:
        return _in_use[-1]
    if _connected is not None:
        return _connected
    return open_tracker(os.environ.get(OUTPUT_VARIABLE) or DEFAULT_OUTPUT, DEFAULT_TRACKER)


def create_model(
    name: str,
    description: str = "",
    metadata: Mapping[str, Any] | None = None,
    labels: Iterable[str] = (),
) -> Model:
    """Register a model.

    Args:
        name: Letters, digits, ``.``, ``_`` and ``-``.
        description: Free text.
        metadata: JSON values.
        labels: Words to find it by.

    Raises:
        ModelError: The name is taken, or something has not its form.
    """
    tracker = current_tracker()
    checked = check_json(metadata or {}, f"The metadata of model {name!r}")
    described = check_text(description, f"The description of model {name!r}")
    return Model(tracker, tracker.create_model(check_name(name), described, checked, check_labels(labels)))


def get_model(name: str) -> Model:
    """Return a registered model.

    Raises:
        ModelError: There is none of that name; the message lists those there are.
    """
    tracker = current_tracker()
    return Model(tracker, tracker.get_model(check_name(name)))


def list_models() -> list[Model]:
    """Return all registered models, sorted by name."""
    tracker = current_tracker()
    return [Model(tracker, record) for record in tracker.list_models()]


def add_checkpoint(path: Path | str, metadata: Mapping[str, Any] | None = None) -> Checkpoint:
    """Register a directory or file as a checkpoint; all of it is read once for its digest.

    Adding the same files from the same place again returns the same checkpoint.

    Args:
        path: The directory or file.
        metadata: JSON values.

    Raises:
        ModelError: It is not there, is empty, or cannot be read.
    """
    return checkpoints.add_checkpoint(current_tracker(), path, metadata or {})


def get_checkpoint(uuid: str) -> Checkpoint:
    """Return a registered checkpoint.

    Raises:
        ModelError: There is none; the message lists those there are.
    """
    if not isinstance(uuid, str):
        raise ModelError(f"A checkpoint is found by its uuid, a string, but {uuid!r} was given.")
    tracker = current_tracker()
    return Checkpoint(tracker, tracker.get_checkpoint(uuid))


def get_run(run: str | Path) -> TrackedRun:
    """Return a run that reported metrics or used a checkpoint.

    Args:
        run: Its id, directory or URL.

    Raises:
        ModelError: The tracker knows none; the message lists those it knows.
    """
    tracker = current_tracker()
    return TrackedRun(tracker, find_run(tracker.list_runs(), run))


def list_runs() -> list[TrackedRun]:
    """Return all runs that reported metrics or used a checkpoint, sorted by id."""
    tracker = current_tracker()
    return [TrackedRun(tracker, record) for record in tracker.list_runs()]
