"""A run's events for Python's logging."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from batchmill import ConfigError, RunResult, TorchBatchProcessorContext, hookimpl

LOGGER = logging.getLogger("batchmill")


class LoggingCallback:
    """Logs to the logger ``batchmill`` on every worker.

    Args:
        level: Level of that logger. A handler for standard error is added if nobody has configured logging.
    """

    def __init__(self, level: str = "INFO") -> None:
        known = logging.getLevelNamesMapping()
        if level.upper() not in known:
            raise ConfigError(f"callbacks.logging.level is {level!r}; expected one of {', '.join(sorted(known))}.")
        if not logging.getLogger().handlers and not LOGGER.handlers:
            handler = logging.StreamHandler()
            handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
            LOGGER.addHandler(handler)
        LOGGER.setLevel(known[level.upper()])
        self._worker = ""

    @hookimpl
    def on_run_start(self, context: TorchBatchProcessorContext) -> None:
        """Log who begins."""
        self._worker = f"worker {context.get_distributed_rank()} of {context.get_distributed_size()}"
        LOGGER.info("run %s: %s begins on %s", context.run_id, self._worker, context.device)

    @hookimpl
    def on_checkpoint_end(self, chunk: int, record: Mapping[str, Any]) -> None:
        """Log a committed chunk."""
        LOGGER.debug(
            "%s: chunk %d (samples %d..%d) is committed", self._worker, chunk, record["start"], record["stop"] - 1
        )

    @hookimpl
    def report_metrics(self, group: str, steps_completed: int, metrics: Mapping[str, Any]) -> None:
        """Log stored metrics."""
        LOGGER.info("%s: %s at step %d: %s", self._worker, group, steps_completed, dict(metrics))

    @hookimpl
    def on_run_error(self, error: BaseException) -> None:
        """Log why the run failed."""
        LOGGER.error("%s: %s: %s", self._worker, type(error).__name__, error)

    @hookimpl
    def on_finish(self, result: RunResult) -> None:
        """Log the end."""
        LOGGER.info("run %s: complete, %d samples, metrics %s", result.run_id, result.samples, dict(result.metrics))
