"""Reading back what a run committed, in dataset order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from batchmill.components import Kind
from batchmill.contracts.run import RunRequest, RunResult, Selection
from batchmill.contracts.writer import Writer
from batchmill.engine.assembly import Assembler, open_storage
from batchmill.engine.finish import read_records
from batchmill.engine.run_directory import RunDirectory, open_existing
from batchmill.errors import ConfigError
from batchmill.plugin_manager import get_catalog

if TYPE_CHECKING:
    import pyarrow as pa


def read_outputs(run: str | RunResult, *, writer: Writer | None = None) -> pa.Table:
    """Return all committed rows of a run, in dataset order, as one Arrow table.

    Args:
        run: A run's directory or URL, or its result.
        writer: The writer, if the run was given a Python object instead of a name.

    Raises:
        RunNotFoundError: There is no run.
        CorruptRunError: A part is missing or damaged.
    """
    import pyarrow as pa

    tables = list(iter_outputs(run, writer=writer))
    if not tables:
        return pa.table({"_index": pa.array([], pa.int64())})
    return pa.concat_tables(tables, promote_options="permissive")


def iter_outputs(run: str | RunResult, *, writer: Writer | None = None) -> Iterator[pa.Table]:
    """Yield the committed rows of a run, one Arrow table per chunk, in dataset order; memory stays small.

    Args:
        run: A run's directory or URL, or its result.
        writer: The writer, if the run was given a Python object instead of a name.

    Raises:
        RunNotFoundError: There is no run.
        CorruptRunError: A part is missing or damaged.
    """
    assembler = Assembler(get_catalog().registry)
    opened = open_existing(open_storage(assembler, run.path if isinstance(run, RunResult) else str(run)))
    decoder = writer or writer_of(opened)
    for chunk in sorted(opened.log.committed()):
        for part in opened.log.read(chunk)["parts"]:
            yield decoder.decode(opened.log.read_named(part))


def iter_quarantined(run: str | RunResult) -> Iterator[dict[str, Any]]:
    """Yield the samples that failed and were set aside, in dataset order.

    Args:
        run: A run's directory or URL, or its result.

    Yields:
        ``index`` (the sample), ``stage`` ("load", "process" or "output"), ``error`` (the exception's class),
        ``message`` and ``traceback``.

    Raises:
        RunNotFoundError: There is no run.
        CorruptRunError: A record is damaged.
    """
    where = run.path if isinstance(run, RunResult) else str(run)
    opened = open_existing(open_storage(Assembler(get_catalog().registry), where))
    for record in read_records(opened, sorted(opened.log.committed())):
        yield from record["quarantined"]


def writer_of(run: RunDirectory) -> Writer:
    """Return the writer that wrote a run's parts.

    Raises:
        ConfigError: It was given as a Python object, which is not stored.
    """
    assembler = Assembler(get_catalog().registry)
    config: dict[str, Any] = run.manifest["config"]
    if "request" in config:
        selection = RunRequest.from_json(config["request"]).writer
    else:
        name = config["python"]["writer"]
        if name not in assembler.registry.names(Kind.WRITER):
            raise ConfigError(
                f"Run {run.run_id} was written by a Python object ({name}); pass it as read_outputs(run, writer=...)."
            )
        selection = assembler.complete_one(Kind.WRITER, "writer", Selection(name))
    writer: Writer = assembler.build(Kind.WRITER, selection)
    return writer
