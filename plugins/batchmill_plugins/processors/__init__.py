"""Processors that config can select: a PyTorch module over columns of the batch, or a plain function."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import batchmill


@dataclass
class FunctionSettings:
    """Settings of ``processor=function``.

    Attributes:
        target: Name of a registered function, or ``module:attribute`` where imports are allowed. It is called with
            the batch, on the worker's device and under ``torch.inference_mode``, and returns what ``process_batch``
            may return.
        args: Further keyword arguments for it.
    """

    target: str = batchmill.setting(resolve=batchmill.Kind.FUNCTION)
    args: dict[str, Any] = field(default_factory=dict)


@dataclass
class TorchModuleSettings:
    """Settings of ``processor=torch_module``.

    The model is one of: ``builder`` with ``weights``; ``program``; or, if neither is set, what the linked model
    version (``model.name``) holds: ``model.json`` with ``model.safetensors``, or ``model.pt2``.

    Attributes:
        builder: Name of a registered builder, a function that returns a ``torch.nn.Module``.
        builder_args: Keyword arguments for it.
        weights: A .safetensors file with exactly the module's weights; empty for those of the linked model version,
            or, without one, for those that the builder gives.
        program: A program saved by ``torch.export`` (.pt2) or a TorchScript file (.pt, .ts). Both hold code: load
            only what you trust.
        trust_program: Whether a program may run whatever it holds. If not, one that holds pickles, or other than
            arithmetic on tensors, is refused.
        inputs: Batch columns given to the module, in this order; empty for the batch's first tensor.
        output: Name of the column, if the module returns a tensor; a tuple becomes ``<output>_0``, ``<output>_1``,
            and so on; a mapping's keys become columns by themselves.
        argmax: Name of one more column, int64, with the argmax over the last dimension of the output; empty for none.
        keep: Batch columns copied to the output, such as labels.
        precision: ``float32`` (as the module computes), ``bf16-autocast`` or ``fp16-autocast``.
        input_dtype: Torch dtype that input tensors are turned into, such as ``float32``; empty to leave them.
    """

    builder: str = batchmill.setting(resolve=batchmill.Kind.BUILDER, default="")
    builder_args: dict[str, Any] = field(default_factory=dict)
    weights: str = batchmill.setting(file=True, default="")
    program: str = batchmill.setting(file=True, default="")
    trust_program: bool = batchmill.setting(default=False, fingerprint=False)
    inputs: list[str] = field(default_factory=list)
    output: str = "output"
    argmax: str = ""
    keep: list[str] = field(default_factory=list)
    precision: str = "float32"
    input_dtype: str = ""


@batchmill.hookimpl
def register_components(registry: batchmill.ComponentRegistry) -> None:
    """Register the first-party processors and builders."""
    registry.add(
        batchmill.Kind.PROCESSOR,
        "function",
        "batchmill_plugins.processors._function:FunctionProcessor",
        schema=FunctionSettings,
        summary="A registered function of the batch.",
    )
    registry.add(
        batchmill.Kind.PROCESSOR,
        "torch_module",
        "batchmill_plugins.processors._torch_module:TorchModuleProcessor",
        schema=TorchModuleSettings,
        summary="A PyTorch module: a builder with weights, a saved program, or a registered model version.",
    )
    registry.add(
        batchmill.Kind.BUILDER,
        "mlp",
        "batchmill_plugins.processors._builders:mlp",
        summary="Linear layers with an activation between them.",
    )
