"""The processor that runs a PyTorch module over columns of the batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from batchmill import ConfigError, TorchBatchProcessor, TorchBatchProcessorContext
from batchmill_plugins.processors._batch_columns import keep_columns, name_outputs, select_inputs
from batchmill_plugins.processors._model_files import (
    WEIGHTS_FILE,
    build_module,
    load_model,
    load_program,
    load_weights,
)

_AUTOCAST: dict[str, torch.dtype | None] = {
    "float32": None,
    "bf16-autocast": torch.bfloat16,
    "fp16-autocast": torch.float16,
}


class TorchModuleProcessor(TorchBatchProcessor):
    """Runs a module under ``torch.inference_mode`` and returns its outputs as columns.

    Args:
        context: The worker's context.
        builder: A function that returns the module; None (or "") to take the module from elsewhere.
        builder_args: Keyword arguments for it.
        weights: A .safetensors file.
        program: A .pt2, .pt or .ts file.
        trust_program: Whether a program may run whatever it holds.
        inputs: Batch columns that the module takes.
        output: Column name for a tensor that the module returns.
        argmax: Column name for the argmax of the output; empty for none.
        keep: Batch columns to copy to the output.
        precision: float32, bf16-autocast or fp16-autocast.
        input_dtype: Torch dtype for the inputs; empty to leave them.

    Raises:
        ConfigError: The settings contradict each other, or no model is given.
        ModelError: The model cannot be loaded.
    """

    def __init__(
        self,
        context: TorchBatchProcessorContext,
        builder: Callable[..., Any] | str | None = None,
        builder_args: Mapping[str, Any] | None = None,
        weights: str = "",
        program: str = "",
        trust_program: bool = False,
        inputs: Sequence[str] = (),
        output: str = "output",
        argmax: str = "",
        keep: Sequence[str] = (),
        precision: str = "float32",
        input_dtype: str = "",
    ) -> None:
        if precision not in _AUTOCAST:
            raise ConfigError(f"processor.precision is {precision!r}; expected {', '.join(_AUTOCAST)}.")
        if argmax and argmax in (output, *keep):
            raise ConfigError(f"processor.argmax is {argmax!r}, which is the name of another output column.")
        self._context = context
        self._inputs, self._keep = list(inputs), list(keep)
        self._output, self._argmax = output, argmax
        self._autocast = _AUTOCAST[precision]
        self._input_dtype = _parse_dtype(input_dtype)
        self._module = _make_module(context, builder or None, dict(builder_args or {}), weights, program, trust_program)

    def process_batch(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Return the module's outputs, and what is kept of the batch, as columns.

        Raises:
            ConfigError: The batch lacks a column, or what the module returns does not fit the settings.
        """
        inputs = [self._cast(value) for value in self._context.to_device(select_inputs(batch, self._inputs))]
        with torch.inference_mode(), self._precision():
            columns = name_outputs(self._module(*inputs), self._output)
            if self._argmax:
                columns[self._argmax] = self._find_argmax(columns)
        return keep_columns(columns, batch, self._keep)

    def _cast(self, value: Any) -> Any:
        if self._input_dtype is None or not isinstance(value, torch.Tensor):
            return value
        return value.to(self._input_dtype)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self._context.device.type, dtype=self._autocast, enabled=self._autocast is not None)

    def _find_argmax(self, columns: Mapping[str, Any]) -> torch.Tensor:
        for name in (self._output, f"{self._output}_0"):
            scores = columns.get(name)
            if isinstance(scores, torch.Tensor) and scores.ndim > 1 and self._argmax not in columns:
                return scores.argmax(-1)
        shapes = {
            name: list(v.shape) if isinstance(v, torch.Tensor) else type(v).__name__ for name, v in columns.items()
        }
        raise ConfigError(
            f"processor.argmax={self._argmax} needs a column {self._output!r} of shape (rows, ..., classes), and "
            f"none of its own name, but the module returned {shapes}. Name the column with processor.output."
        )


def _make_module(
    context: TorchBatchProcessorContext,
    builder: Callable[..., Any] | str | None,
    builder_args: dict[str, Any],
    weights: str,
    program: str,
    trusted: bool,
) -> nn.Module:
    if program and (builder or weights or builder_args):
        raise ConfigError("processor.program holds code and weights; leave builder, builder_args and weights empty.")
    if not builder and (weights or builder_args):
        raise ConfigError("processor.weights and processor.builder_args need a processor.builder to make the module.")
    prepare = context.prepare_model_for_inference
    if program:
        return load_program(Path(program).expanduser(), prepare, context.device, trusted)
    if callable(builder):
        module = build_module(builder, builder_args, "processor.builder_args")
        if weights:
            load_weights(module, Path(weights).expanduser())
        elif context.checkpoint is not None:
            checkpoint = Path(context.checkpoint)
            load_weights(module, checkpoint if checkpoint.is_file() else checkpoint / WEIGHTS_FILE)
        return prepare(module)
    if context.checkpoint is None:
        raise ConfigError(
            "processor=torch_module has no model: set processor.builder (and processor.weights), or processor.program, "
            "or link a registered model version with model.name and model.version."
        )
    return load_model(Path(context.checkpoint), context.resolve, prepare, context.device, trusted)


def _parse_dtype(name: str) -> torch.dtype | None:
    if not name:
        return None
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ConfigError(f"processor.input_dtype is {name!r}; expected a torch dtype, such as float32 or int64.")
    return dtype
