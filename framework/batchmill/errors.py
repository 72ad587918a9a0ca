"""Every error of the framework, under one root, with the exit code that a process gives for it.

An error says what was given, what was expected, what is available and what to do; the culprit is also kept
as an attribute. Errors marked as user mistakes are shown without a traceback on the command line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# Process exit codes, documented in docs/exit-codes.md.
EXIT_COMPLETE = 0
EXIT_USAGE = 2
EXIT_ERROR_BUDGET = 65
EXIT_INTERNAL = 70
EXIT_ALREADY_RUNNING = 73
EXIT_STORAGE = 74
EXIT_PREEMPTED = 75
EXIT_CONFIG_MISMATCH = 78


def did_you_mean(given: str, available: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the closest available name, or an empty string."""
    close = difflib.get_close_matches(given, list(available), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


class BatchmillError(Exception):
    """Root of all errors that Batchmill raises on purpose."""

    exit_code = EXIT_INTERNAL


class ConfigError(BatchmillError):
    """The configuration cannot be run: an unknown key, a wrong type, a missing or contradictory value."""

    exit_code = EXIT_USAGE


class UnknownComponentError(ConfigError):
    """No component of that kind has that name."""

    def __init__(self, kind: str, name: str, available: Iterable[str], note: str = "") -> None:
        self.kind, self.name, self.available = kind, name, sorted(available)
        listed = ", ".join(self.available) or "none"
        super().__init__(
            f"There is no {kind} named {name!r}.{did_you_mean(name, self.available)} Available: {listed}.{note}"
        )


class PluginError(BatchmillError):
    """A plugin broke a rule of the framework."""

    exit_code = EXIT_USAGE


class DuplicateComponentError(PluginError):
    """Two plugins registered the same name for the same kind."""

    def __init__(self, kind: str, name: str, plugins: tuple[str, str]) -> None:
        self.kind, self.name, self.plugins = kind, name, plugins
        super().__init__(
            f"{kind} {name!r} is registered by both {plugins[0]} and {plugins[1]}. Rename one, or leave one plugin "
            f"out with BATCHMILL_DISABLE_PLUGINS={plugins[1]}."
        )


class MissingHookimplError(PluginError):
    """A method is named like a run hook but does not carry the ``@batchmill.hookimpl`` marker."""

    def __init__(self, component: str, hook: str) -> None:
        self.component, self.hook = component, hook
        super().__init__(
            f"{component} has a method {hook!r}, which is the name of a run hook, but it is not marked with "
            f"@batchmill.hookimpl and would never be called. Add the marker, or rename the method."
        )


class ConfigMismatchError(BatchmillError):
    """The run directory holds a run with other settings or data."""

    exit_code = EXIT_CONFIG_MISMATCH

    def __init__(self, run: str, differences: dict[str, tuple[object, object]]) -> None:
        self.run, self.differences = run, differences
        lines = "\n".join(f"  {key}: {old!r} in the run, {new!r} now" for key, (old, new) in differences.items())
        super().__init__(
            f"Run {run} was started with other settings, so its results cannot be continued:\n{lines}\n"
            f"Give the old values back to resume it, or choose another run_id to start afresh."
        )


class AlreadyRunningError(BatchmillError):
    """Another launcher is working on the same run."""

    exit_code = EXIT_ALREADY_RUNNING


class StorageError(BatchmillError):
    """Storage failed, is full, or cannot do what the commit protocol needs."""

    exit_code = EXIT_STORAGE


class ObjectNotFoundError(StorageError):
    """There is no object under that path."""


class StorageFullError(StorageError):
    """There is no space left. Worth waiting a while for, unlike other errors of a storage that works."""


class CorruptRunError(BatchmillError):
    """A file of a run does not match its digest or its documented format."""

    exit_code = EXIT_ERROR_BUDGET


class RunNotFoundError(BatchmillError):
    """There is no run under that name or URL."""

    exit_code = EXIT_USAGE


class DatasetError(BatchmillError):
    """The dataset cannot be read; the message names the file and the row or sample where they are known."""

    exit_code = EXIT_USAGE


class OutputError(BatchmillError):
    """What a processor returned cannot be written: wrong length, changing columns, unsupported type."""


class ReducerError(BatchmillError):
    """A reducer failed, or handed over something that cannot be stored; the message names the reducer."""


class ProcessorError(BatchmillError):
    """User code raised an error; the original is the ``__cause__`` and its traceback is in the message."""


class ErrorBudgetError(ProcessorError):
    """More samples failed than the run allows (``max_errors``)."""

    exit_code = EXIT_ERROR_BUDGET


class WorkerError(BatchmillError):
    """A worker process died too often or could not be started."""


class ModelError(BatchmillError):
    """A model, version or checkpoint is unknown, changed on disk, or was used against the rules."""

    exit_code = EXIT_USAGE
