"""The processor that is a plain function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from batchmill import TorchBatchProcessor, TorchBatchProcessorContext
from batchmill_plugins.processors._arguments import check_arguments


class FunctionProcessor(TorchBatchProcessor):
    """Calls a function with each batch.

    Args:
        context: The worker's context.
        target: The function, called as ``target(batch, **args)``.
        args: Keyword arguments for it.

    Raises:
        ConfigError: The function does not take these arguments.
    """

    def __init__(
        self, context: TorchBatchProcessorContext, target: Callable[..., Any], args: Mapping[str, Any]
    ) -> None:
        check_arguments(target, 1, args, "processor.args")
        self._context, self._target, self._args = context, target, dict(args)

    def process_batch(self, batch: Any, batch_idx: int) -> Any:
        """Return what the function returns for the batch on this worker's device."""
        with torch.inference_mode():
            return self._target(self._context.to_device(batch), **self._args)
