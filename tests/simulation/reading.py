"""Reads a finished simulated run back with the engine's own readers, which must agree that all is well."""

from __future__ import annotations

from unittest.mock import patch

from batchmill import inspection, outputs
from batchmill.engine.run_directory import open_existing

from .checker import ViolationError
from .simulation import Simulation
from .workload import RowsWriter, value_of


def check_reading(simulation: Simulation) -> None:
    """Check a finished run with ``verify_run`` and ``iter_outputs``.

    Raises:
        ViolationError: They find something wrong, or do not find every row.
    """
    storage = simulation.make_storage()
    with patch.object(inspection, "open_run_directory", lambda run: open_existing(storage)):
        report = inspection.verify_run("run")
    if not report.ok or not report.complete:
        raise ViolationError(f"I2: verify finds {report.problems} in a run that is whole")
    with patch.object(outputs, "open_storage", lambda assembler, run: storage):
        chunks = list(outputs.iter_outputs("run", writer=RowsWriter()))
    rows = [row for chunk in chunks for row in chunk]
    workload = simulation.watcher.generations[-1].workload
    wanted = [(index, value_of(index)) for index in range(workload.samples) if index not in workload.bad]
    if [(row["_index"], row["y"]) for row in rows] != wanted:
        raise ViolationError("I1: iter_outputs does not give every sample once, in order")
