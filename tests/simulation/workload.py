"""The tiny job that simulated workers do: a dataset, a processor with reducers, a writer and a tracker."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import batchmill
from batchmill.contracts.run import RunRequest, Selection
from batchmill.contracts.tracker import MetricsRecord
from batchmill.errors import ModelError

from .faults import BAD_SAMPLE
from .runtime import active

RUN_ID = "run"
REPORT_GROUP = "batches"


@dataclass(frozen=True)
class Workload:
    """What is computed. Equal workloads have equal results, if they are deterministic.

    Attributes:
        samples: Number of samples.
        batch_size: Samples per batch.
        interval: Batches per chunk asked for.
        deterministic: Whether each attempt at a batch gives the same rows.
        reports: Whether each batch reports a metric.
        files: Whether each chunk uploads a file.
        sidecar: Whether partials are too large for the commit record.
        bad: Samples that fail, and are to be quarantined; only where attempts are alike, because what a batch with
            such a sample hands over comes from more than one call.
    """

    samples: int
    batch_size: int
    interval: int
    deterministic: bool
    reports: bool
    files: bool
    sidecar: bool
    bad: tuple[int, ...] = ()

    @classmethod
    def draw(cls, rng: random.Random) -> Workload:
        """Draw a workload of 2 to 6 chunks."""
        batch_size = rng.choice((1, 2, 3))
        batches, interval = rng.choice(((2, 1), (3, 1), (4, 1), (4, 1), (5, 1), (6, 1), (9, 2), (10, 2)))
        samples = batches * batch_size - rng.choice((0, batch_size - 1))
        deterministic, extra = rng.random() < 0.6, rng.random()
        bad = rng.choice(((), (), (), (1,), (0, samples - 1), (0, 1, 2))) if deterministic else ()
        return cls(
            samples,
            batch_size,
            interval,
            deterministic,
            reports=extra > 0.6,
            files=extra > 0.85,
            sidecar=0.5 < extra < 0.75,
            bad=tuple(sorted({index for index in bad if index < samples})),
        )

    @property
    def batches(self) -> int:
        """Number of batches."""
        return -(-self.samples // self.batch_size)

    @property
    def chunk_batches(self) -> int:
        """Batches per chunk that the engine should freeze: there are to be eight chunks, if there can."""
        return max(1, min(self.interval, -(-self.batches // 8)))


def value_of(index: int) -> float:
    """Return the number that the processor gives for a sample."""
    return (index * 7919 + 13) % 1000 / 7.0


class Indices:
    """A dataset whose samples are their own indices."""

    def __len__(self) -> int:
        return active().workload.samples

    def read_batch(self, start: int, stop: int) -> list[int]:
        return list(range(start, stop))


class _Collecting(batchmill.MetricReducer):
    """Collects values; subclasses say what becomes of them."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def reset(self) -> None:
        self.values = []

    def update(self, values: Sequence[Any]) -> None:
        self.values += values


class Total(_Collecting):
    """A sum of whole numbers: the same for every order."""

    def per_slot_reduce(self) -> int:
        return sum(self.values)

    def cross_slot_reduce(self, per_slot_metrics: Sequence[Any]) -> int:
        return sum(per_slot_metrics)


class FloatSum(_Collecting):
    """A plain float sum: its last bits depend on the order."""

    def per_slot_reduce(self) -> float:
        return sum_in_order(self.values)

    def cross_slot_reduce(self, per_slot_metrics: Sequence[Any]) -> float:
        return sum_in_order(per_slot_metrics)


def sum_in_order(values: Sequence[float]) -> float:
    """Return a float sum without the compensation that ``sum`` has in newer versions of Python."""
    total = 0.0
    for value in values:
        total += value
    return total


class Digest(_Collecting):
    """A digest of all values one after another: any other order gives another one."""

    def per_slot_reduce(self) -> list[Any]:
        return self.values

    def cross_slot_reduce(self, per_slot_metrics: Sequence[Any]) -> str:
        return digest_of([value for part in per_slot_metrics for value in part])


def digest_of(values: Sequence[Any]) -> str:
    """Return a text that changes with every value and with their order."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


class Marking(batchmill.TorchBatchProcessor):
    """Gives each sample a number and each batch the mark of the attempt that processed it."""

    def __init__(self, context: batchmill.TorchBatchProcessorContext) -> None:
        self.context = context
        self.total = context.wrap_reducer(Total(), "total")
        self.floats = context.wrap_reducer(FloatSum(), "floats")
        self.marks = context.wrap_reducer(Digest(), "marks")
        self.seen: dict[int, str] = {}

    def process_batch(self, batch: list[int], batch_idx: int) -> dict[str, list[Any]]:
        simulation = active()
        simulation.compute()
        mark = f"b{batch_idx}" if simulation.workload.deterministic else simulation.new_mark(batch_idx)
        values = [value_of(index) for index in batch]
        self.total.update(batch)
        if not simulation.mended and not set(simulation.workload.bad).isdisjoint(batch):
            simulation.faults.injected[BAD_SAMPLE] += 1
            raise ValueError("a bad sample")  # after it was added to a reducer, which must not count
        self.floats.update(values)
        self.marks.update([mark])
        if simulation.workload.reports:
            self.context.report_metrics(REPORT_GROUP, batch_idx, {"mark": mark})
        if simulation.workload.files:
            self.seen[batch_idx] = mark
        return {"y": values, "mark": [mark] * len(batch)}

    def on_checkpoint_start(self) -> None:
        if self.seen:
            with self.context.upload_path() as folder:
                (folder / "marks.json").write_text(json.dumps(list(self.seen.values())))
            self.seen = {}


class RowsWriter(batchmill.Writer):
    """Writes rows as a JSON list of objects."""

    extension = "json"

    def encode(self, output: Any) -> bytes:
        rows = zip(output.index.tolist(), output.columns["y"], output.columns["mark"], strict=True)
        return json.dumps([{"_index": index, "y": y, "mark": mark} for index, y, mark in rows]).encode()

    def decode(self, data: bytes) -> Any:
        return json.loads(data)


class Ledger:
    """A tracker as strict as the embedded one: what was reported stays, and cannot be reported as another value."""

    def __init__(self) -> None:
        self.reported: dict[tuple[str, int, int], dict[str, Any]] = {}

    def report(self, record: MetricsRecord) -> None:
        active().scheduler.step("report", record.steps_completed)
        key = (record.group, record.steps_completed, record.rank)
        known = self.reported.setdefault(key, dict(record.metrics))
        if known != record.metrics:
            raise ModelError(f"{key} was reported as {known} and cannot become {dict(record.metrics)}.")


def make_request(
    workload: Workload, storage: object, claims: object, ledger: Ledger, output: str, *, join: bool, stranger: bool
) -> RunRequest:
    """Return the request that a worker of a simulated run is given; a stranger's has other settings."""
    return RunRequest(
        processor=Selection("marking", instance=Marking),
        dataset=Selection("indices", instance=Indices),
        writer=Selection("rows", instance=RowsWriter),
        storage=Selection("simulated", instance=storage),
        tracker=Selection("ledger", instance=ledger),
        claims=Selection("claims", instance=claims),
        launcher=Selection("simulated", instance=object()),
        output=output,
        run_id=RUN_ID,
        batch_size=workload.batch_size,
        checkpoint_interval=workload.interval,
        device="cpu",
        hparams={"stranger": True} if stranger else {},
        join=join,
    )
