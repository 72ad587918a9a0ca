"""Every extension point of Batchmill. Read this file first.

There are two plugin managers (see ``plugin_manager.py``):

* the **catalog** knows every installed plugin and asks it which components it offers;
* the **run manager** knows only the component instances that one run selected, and tells them what happens.

A plugin is a module named in the entry-point group ``batchmill``::

    import batchmill

    @batchmill.hookimpl
    def register_components(registry):
        registry.add(batchmill.Kind.PROCESSOR, "shout", Shout)

A selected component (callback, tracker, reducer, writer, claims, dataset) takes part in a run by having methods
of the names below, each marked with ``@batchmill.hookimpl``. Implementations may leave out arguments they do not
need. They are called in config order. "All ranks" means on every worker, each for itself: no hook may communicate
between ranks, for ranks do not reach the same hook at the same time. An exception in a hook fails the run; what is
committed stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from batchmill.markers import hookspec

if TYPE_CHECKING:
    from batchmill.components import ComponentRegistry
    from batchmill.contracts.run import ProgressSnapshot, RunResult
    from batchmill.engine.context import TorchBatchProcessorContext


class CatalogSpecs:
    """Asked once per process, before anything is configured."""

    @hookspec(historic=True)
    def register_components(self, registry: ComponentRegistry) -> None:
        """Register components by name with ``registry.add(kind, name, factory, schema=...)``.

        Called once for every plugin, also for plugins registered later. If it raises, none of the plugin's
        components are kept and the plugin is listed with its error.
        """

    @hookspec
    def config_packages(self) -> Sequence[str]:
        """Return names of importable packages with YAML presets (``<package>/<kind>/<preset>.yaml``).

        A package that cannot be found is an error.
        """
        raise AssertionError("a specification is never called")


class RunSpecs:
    """Told to the selected components while a run goes on."""

    @hookspec
    def on_run_start(self, context: TorchBatchProcessorContext) -> None:
        """All ranks, once: the run is open, the processor is built, nothing is claimed yet."""

    @hookspec
    def on_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """All ranks, after each batch: what ``process_batch`` returned, the batch itself and its grid number.

        Runs between batches, so keep it short. Costs nothing where nobody implements it.
        """

    @hookspec
    def on_checkpoint_start(self, chunk: int) -> None:
        """All ranks, at each of their chunks' end.

        Called after the processor's ``on_checkpoint_start`` and before the partials are taken.
        """

    @hookspec
    def on_checkpoint_end(self, chunk: int, record: Mapping[str, Any]) -> None:
        """All ranks, after a chunk they processed is committed: the commit record that won, as stored.

        Called from the commit thread.
        """

    @hookspec
    def on_quarantine(self, chunk: int, samples: Sequence[Mapping[str, Any]]) -> None:
        """All ranks, after a chunk they processed is committed with samples that failed and were set aside.

        Each has ``index``, ``stage`` ("load", "process" or "output"), ``error``, ``message`` and ``traceback``.
        Called from the commit thread, once for each chunk unless the worker dies just then.
        """

    @hookspec(firstresult=True)
    def should_stop(self, context: TorchBatchProcessorContext) -> str | None:
        """All ranks, after each of their chunks: a reason to stop now, or None to go on.

        The first reason counts. The run stops as if preempted: resumable, exit code 75.
        """
        raise AssertionError("a specification is never called")

    @hookspec
    def report_metrics(self, group: str, steps_completed: int, metrics: Mapping[str, Any]) -> None:
        """Any rank, when metrics are committed: reported ones, and the run's final ones (group ``validation``).

        A resumed run may repeat a call with equal arguments, so implementations are idempotent.
        """

    @hookspec
    def on_progress(self, progress: ProgressSnapshot) -> None:
        """One process of the run (the launcher's, or rank 0), about twice a second and once at the end."""

    @hookspec
    def on_run_error(self, error: BaseException) -> None:
        """The rank on which the run failed, once, before it leaves."""

    @hookspec
    def on_finish(self, result: RunResult) -> None:
        """All ranks, last: the run is complete and ``result.json`` is durable."""
