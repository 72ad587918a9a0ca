"""What is asked of a run and what comes back: plain values, no Hydra, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from batchmill.errors import EXIT_COMPLETE, EXIT_PREEMPTED, ConfigError


@dataclass(frozen=True)
class Selection:
    """One chosen component: a registered name with its settings, or a live Python object.

    Attributes:
        name: The registered name (with an import opt-in: ``module:attribute``).
        settings: Checked settings, plain JSON values, passed to the factory as keyword arguments.
        instance: A class or object given in Python instead of a name; it never leaves the process.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    instance: Any = None


@dataclass(frozen=True)
class RunRequest:
    """One run, fully resolved. Equal requests on equal data give equal results.

    Attributes:
        processor: What handles each batch.
        dataset: What is read.
        writer: How returned rows are stored.
        storage: Where the run lives.
        tracker: Where models are found and metrics are reported.
        claims: How chunks are shared among workers.
        launcher: How workers are started.
        reducers: Metric name to reducer, in fold order.
        callbacks: Name to callback, in call order.
        output: Directory or URL that holds runs.
        run_id: Name of the run below ``output``; the same id resumes. None: a new one is made.
        batch_size: Samples per batch (B).
        checkpoint_interval: Batches per chunk asked for (k); None: chosen from the number of batches.
        limit: Only the first so many samples; None: all.
        max_batches: At most so many batches per worker, as in the seed; None: all.
        on_error: What to do with a sample that fails in loading or processing: "quarantine" sets it aside with its
            reason and goes on, "fail" ends the run.
        on_nonfinite: What to do with NaN or infinity in a result: "keep", "quarantine" or "fail".
        max_errors: Samples that may be set aside before the run ends; None: 10, or one in a thousand.
        seed: Seed of torch, numpy and random, set on every worker before the processor is built.
        device: "auto" or a torch device string.
        threads: CPU threads of each worker's torch operators. One by default, for the number changes bits, and so
            any number of workers agrees; None shares the machine's cores out, and bits may then depend on it.
        model_name: Registered model that the processor uses; None: no link.
        model_version: Version number, "latest" or a label.
        hparams: Free values for ``context.get_hparams()``.
        loader: Keyword arguments for ``torch.utils.data.DataLoader`` (``num_workers``, ``collate_fn``, ...).
        allow_import: Whether ``module:attribute`` may name code to import.
        profile: Whether the processor's profiler records.
        join: Whether to work beside a launcher that is already on this run.
    """

    processor: Selection
    dataset: Selection
    writer: Selection = field(default_factory=lambda: Selection("parquet"))
    storage: Selection = field(default_factory=lambda: Selection("local"))
    tracker: Selection = field(default_factory=lambda: Selection("sqlite"))
    claims: Selection = field(default_factory=lambda: Selection("dynamic"))
    launcher: Selection = field(default_factory=lambda: Selection("local"))
    reducers: Mapping[str, Selection] = field(default_factory=dict)
    callbacks: Mapping[str, Selection] = field(default_factory=dict)
    output: str = "runs"
    run_id: str | None = None
    batch_size: int = 1
    checkpoint_interval: int | None = None
    limit: int | None = None
    max_batches: int | None = None
    on_error: str = "quarantine"
    on_nonfinite: str = "keep"
    max_errors: int | None = None
    seed: int = 0
    device: str = "auto"
    threads: int | None = 1
    model_name: str | None = None
    model_version: str | int | None = None
    hparams: Mapping[str, Any] = field(default_factory=dict)
    loader: Mapping[str, Any] = field(default_factory=dict)
    allow_import: bool = False
    profile: bool = False
    join: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the request as plain JSON values, from which another process can rebuild it.

        Raises:
            ConfigError: A component was given as a Python object, which only this process has.
        """
        for name, selection in self.selections():
            if selection.instance is not None:
                raise ConfigError(
                    f"The {name} was given as a Python object, so only this process can run it. To use several "
                    f"workers, start this script with torchrun, or register the {name} in a plugin and name it."
                )
        return asdict(self)

    def selections(self) -> list[tuple[str, Selection]]:
        """Return every selection with the config key it stands under, in a fixed order."""
        single = ["processor", "dataset", "writer", "storage", "tracker", "claims", "launcher"]
        found: list[tuple[str, Selection]] = [(name, getattr(self, name)) for name in single]
        found += [(f"reducers.{alias}", selection) for alias, selection in self.reducers.items()]
        found += [(f"callbacks.{alias}", selection) for alias, selection in self.callbacks.items()]
        return found

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RunRequest:
        """Rebuild a request from ``to_json()``.

        Raises:
            ConfigError: A key is unknown, which means that another version of Batchmill wrote it.
        """
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(
                f"The stored request has unknown keys {', '.join(unknown)}; "
                f"it was written by another version of Batchmill."
            )
        rebuilt: dict[str, Any] = dict(values)
        try:
            for name in ("processor", "dataset", "writer", "storage", "tracker", "claims", "launcher"):
                if name in rebuilt:
                    rebuilt[name] = _selection(rebuilt[name])
            for name in ("reducers", "callbacks"):
                rebuilt[name] = {alias: _selection(item) for alias, item in rebuilt.get(name, {}).items()}
            return cls(**rebuilt)
        except (TypeError, AttributeError) as error:
            raise ConfigError(f"The stored request cannot be read ({error}); somebody has edited it.") from error


def _selection(stored: Mapping[str, Any]) -> Selection:
    selection = Selection(**stored)
    if not isinstance(selection.name, str) or not isinstance(selection.settings, Mapping):
        raise TypeError(f"{stored!r} is no selection of a component")
    return selection


@dataclass(frozen=True)
class RunResult:
    """What a run came to, as far as it is committed.

    Attributes:
        run_id: The run's name.
        path: Its directory or URL.
        complete: Whether every sample is committed and the metrics are final.
        coverage: Share of samples committed, 0.0 to 1.0.
        samples: Number of samples committed.
        quarantined: Number of committed samples that failed and were set aside.
        metrics: Metric name to JSON value; empty while the run is not complete.
        outputs: Committed part files in dataset order: name (relative to ``path``), start, stop, rows, bytes, sha256.
        stop_reason: Why an incomplete run stopped; None for a complete one.
    """

    run_id: str
    path: str
    complete: bool
    coverage: float
    samples: int
    quarantined: int
    metrics: Mapping[str, Any]
    outputs: tuple[Mapping[str, Any], ...]
    stop_reason: str | None = None

    @property
    def exit_code(self) -> int:
        """The process exit code for this result: 0 if complete, else 75 (preempted, resumable)."""
        return EXIT_COMPLETE if self.complete else EXIT_PREEMPTED


@dataclass(frozen=True)
class ProgressSnapshot:
    """How far a run is, for people.

    Attributes:
        total: Samples in the run.
        done: Samples committed, or being processed, by any launch.
        resumed: Samples that were committed before this launch.
        elapsed: Seconds since this launch began to work.
        workers: Rank to samples done in this launch.
        finished: Whether this is the last snapshot.
    """

    total: int
    done: int
    resumed: int
    elapsed: float
    workers: Mapping[int, int]
    finished: bool = False

    @property
    def rate(self) -> float:
        """Samples per second of this launch; what was resumed does not count."""
        return (self.done - self.resumed) / self.elapsed if self.elapsed > 0 else 0.0

    @property
    def eta(self) -> float | None:
        """Seconds left at the present rate; None while it is not known."""
        return (self.total - self.done) / self.rate if self.rate > 0 else None
