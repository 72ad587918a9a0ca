"""Models in files: a builder's name with its weights, or a whole program. No pickle is read.

A model directory, as ``save_model`` writes it and a model version may hold it, has ``model.json``
(``{"builder": name, "args": {...}}``) and ``model.safetensors``; or it has ``model.pt2`` alone.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from batchmill import ConfigError, Kind, ModelError
from batchmill_plugins.processors._arguments import check_arguments
from batchmill_plugins.processors._program_check import check_exported, check_script

MODEL_FILE = "model.json"
WEIGHTS_FILE = "model.safetensors"
PROGRAM_FILE = "model.pt2"
_EXPORTED_SUFFIX = ".pt2"
_SCRIPT_SUFFIXES = (".pt", ".ts")
_NAMES_SHOWN = 5


def save_model(directory: str | Path, module: nn.Module, builder: str, args: Mapping[str, Any]) -> None:
    """Write a model directory.

    Args:
        directory: Where to; made if it is not there.
        module: The module whose weights are saved; tensors that it shares are saved once.
        builder: Registered name of the builder that makes such a module.
        args: The builder's keyword arguments, JSON values.

    Raises:
        ModelError: ``args`` are no JSON values.
    """
    try:
        described = json.dumps({"builder": builder, "args": dict(args)}, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ModelError(f"The arguments of builder {builder!r} cannot be saved as JSON: {error}.") from error
    path = Path(directory)
    path.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_model(module, str(path / WEIGHTS_FILE))
    (path / MODEL_FILE).write_text(described + "\n", encoding="utf-8")


def load_model(
    directory: Path,
    resolve: Callable[[Kind, str], Any],
    prepare: Callable[[nn.Module], nn.Module],
    device: torch.device,
    trusted: bool = False,
) -> nn.Module:
    """Return the model of a model directory, ready on a device.

    Args:
        directory: A directory with ``model.json`` or ``model.pt2``, or a ``.pt2`` file.
        resolve: Returns the registered builder of a name.
        prepare: Puts a built module into evaluation mode and onto the device.
        device: That device.
        trusted: Whether a program may run whatever it holds.

    Raises:
        ModelError: The directory holds no model, or one whose parts do not fit together.
    """
    if directory.is_file() and directory.suffix == _EXPORTED_SUFFIX:
        return load_program(directory, prepare, device, trusted)
    if (directory / MODEL_FILE).is_file():
        builder, args = _read_description(directory / MODEL_FILE)
        module = build_module(resolve(Kind.BUILDER, builder), args, f"args in {directory / MODEL_FILE}")
        load_weights(module, directory / WEIGHTS_FILE)
        return prepare(module)
    if (directory / PROGRAM_FILE).is_file():
        return load_program(directory / PROGRAM_FILE, prepare, device, trusted)
    found = sorted(file.name for file in directory.iterdir()) if directory.is_dir() else []
    raise ModelError(
        f"The linked model version at {directory} holds no model that torch_module can load: expected {MODEL_FILE} "
        f"with {WEIGHTS_FILE}, or {PROGRAM_FILE}; found {', '.join(found) or 'nothing'}. Or set processor.builder, "
        f"which needs {WEIGHTS_FILE} alone."
    )


def build_module(builder: Callable[..., Any], args: Mapping[str, Any], key: str) -> nn.Module:
    """Return the module that a builder makes of its arguments.

    Raises:
        ConfigError: The builder does not take these arguments, or it makes something else.
    """
    check_arguments(builder, 0, args, key)
    module = builder(**args)
    if not isinstance(module, nn.Module):
        name = getattr(builder, "__qualname__", repr(builder))
        raise ConfigError(f"Builder {name} returned a {type(module).__name__}; expected a torch.nn.Module.")
    return module


def load_weights(module: nn.Module, path: Path) -> None:
    """Load exactly a module's weights from a safetensors file.

    Raises:
        ModelError: There is no such file, or it has other names or shapes than the module; the message lists them.
    """
    if not path.is_file():
        raise ModelError(f"There is no file {path.absolute()} to load weights from.")
    if path.suffix != ".safetensors":
        raise ModelError(
            f"Weights {path} end in {path.suffix!r}; expected .safetensors. Convert a state dict with "
            f"safetensors.torch.save_file(state_dict, path)."
        )
    try:
        missing, unexpected = safetensors.torch.load_model(module, str(path), strict=False)
    except SafetensorError as error:
        raise ModelError(f"{path} cannot be read as safetensors: {error}") from error
    except RuntimeError as error:  # shapes: the message lists them, one a line
        raise ModelError(f"The weights in {path} do not fit the {type(module).__name__}: {error}") from error
    if missing or unexpected:
        raise ModelError(
            f"The weights in {path} do not fit the {type(module).__name__}: it lacks {_listed(missing)}, and has "
            f"{_listed(unexpected)} that the module lacks. Are these the weights of this builder with these arguments?"
        )


def load_program(
    path: Path, prepare: Callable[[nn.Module], nn.Module], device: torch.device, trusted: bool = False
) -> nn.Module:
    """Return a saved program, ready on a device.

    Args:
        path: A ``torch.export`` program (.pt2) or a TorchScript file (.pt, .ts).
        prepare: Puts a scripted module into evaluation mode and onto the device.
        device: That device.
        trusted: Whether it may run whatever it holds.

    Raises:
        ModelError: There is no such file, or it holds no such program, or one that would run other code.
    """
    if not path.is_file():
        raise ModelError(f"There is no file {path.absolute()} to load a program from.")
    if path.suffix not in (_EXPORTED_SUFFIX, *_SCRIPT_SUFFIXES):
        raise ModelError(
            f"Program {path} ends in {path.suffix!r}; expected {_EXPORTED_SUFFIX} (torch.export) or "
            f"{' or '.join(_SCRIPT_SUFFIXES)} (TorchScript)."
        )
    try:
        if not trusted:
            (check_exported if path.suffix == _EXPORTED_SUFFIX else check_script)(path)
        if path.suffix == _EXPORTED_SUFFIX:
            return _load_exported(path, device)
        with warnings.catch_warnings():
            # PyTorch discourages TorchScript for new models; whoever names such a file has an old one.
            warnings.filterwarnings("ignore", message=".*torch.jit.load.*", category=DeprecationWarning)
            script: nn.Module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except ModelError:
        raise
    except Exception as error:  # torch raises whatever comes up for a file of another kind
        raise ModelError(f"{path} cannot be loaded as a program: {type(error).__name__}: {error}") from error
    return prepare(script)


def _load_exported(path: Path, device: torch.device) -> nn.Module:
    program = torch.export.load(path)
    if device.type != "cpu":
        # The graph may hold constants made on the device it was exported on, which Module.to() does not see.
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    # An exported graph has no evaluation mode of its own: it computes what was exported.
    module: nn.Module = program.module()
    return module


def _read_description(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        described = json.loads(path.read_bytes())
    except ValueError as error:
        raise ModelError(f"{path} is no JSON: {error}") from error
    match described:
        case {"builder": str(builder), "args": dict(args)} if len(described) == 2:
            if ":" in builder:  # would be an import, which only the config of a run may ask for
                raise ModelError(
                    f"{path} names code to import ({builder!r}); a model file may only name a registered builder. "
                    f"Register it in a plugin, or set processor.builder."
                )
            return builder, args
    raise ModelError(f'{path} holds {described!r}; expected {{"builder": name, "args": {{...}}}}.')


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - _NAMES_SHOWN} more" if len(ordered) > _NAMES_SHOWN else ""
    return (", ".join(ordered[:_NAMES_SHOWN]) or "nothing") + more
