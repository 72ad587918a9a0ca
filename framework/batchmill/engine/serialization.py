"""Canonical JSON and the storable form of reducer partials; nothing here ever reads a pickle."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from batchmill.errors import CorruptRunError

_TAG = "$"
_MOST_NESTED = 100
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(value: Any) -> bytes:
    """Return the one JSON form of ``value``: sorted keys, no spaces, UTF-8, no NaN."""
    return _CANONICAL.encode(value).encode()


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of ``data`` in hex."""
    return hashlib.sha256(data).hexdigest()


def seal(document: Mapping[str, Any]) -> bytes:
    """Return a document's canonical JSON with its own digest under the key ``sha256``."""
    return canonical_json({**document, "sha256": sha256_hex(canonical_json(document))})


def unseal(data: bytes, path: str) -> dict[str, Any]:
    """Return a sealed document after checking its digest.

    Raises:
        CorruptRunError: The bytes are not the document that was sealed.
    """
    try:
        document = json.loads(data)
        claimed = document.pop("sha256")
        intact = claimed == sha256_hex(canonical_json(document))
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise CorruptRunError(f"{path} is damaged: it is not a sealed JSON document ({error}).") from error
    if not intact:
        raise CorruptRunError(f"{path} is damaged: its contents do not match the digest it carries.")
    return {**document, "sha256": claimed}


def encode_value(value: Any) -> Any:
    """Return a JSON form of a partial from which ``decode_value`` gives back an equal value of the same type.

    None, bool, int, float, str, bytes, list, tuple, dict, numpy arrays and scalars and torch tensors are stored;
    tensors come back on the CPU.

    Raises:
        ValueError: A float is NaN, a text is not valid Unicode, or values are nested too deep.
        TypeError: A value is of another type; the message names it.
    """
    return _encode(value, 0)


def _encode(value: Any, depth: int) -> Any:
    if depth > _MOST_NESTED:
        raise ValueError(f"a value is nested more than {_MOST_NESTED} levels deep, or contains itself")
    if value is None or isinstance(value, bool):
        return value
    if type(value) is int:
        # Python and other JSON readers limit the digits of a number.
        return value if value.bit_length() < 64 else {_TAG: "int", "hex": format(value, "x")}
    if isinstance(value, str):
        return _checked_text(value)
    if type(value) is float:
        if math.isnan(value):
            raise ValueError("a value is NaN")
        return value if math.isfinite(value) else {_TAG: "float", "value": str(value)}
    if type(value) is list:
        return [_encode(item, depth + 1) for item in value]
    if type(value) is tuple:
        return {_TAG: "tuple", "items": [_encode(item, depth + 1) for item in value]}
    if isinstance(value, dict):
        if all(type(key) is str for key in value) and _TAG not in value:
            return {_checked_text(key): _encode(item, depth + 1) for key, item in value.items()}
        pairs = [[_encode(key, depth + 1), _encode(item, depth + 1)] for key, item in value.items()]
        return {_TAG: "dict", "items": pairs}
    if isinstance(value, bytes):
        return {_TAG: "bytes", "data": base64.b64encode(value).decode()}
    return _encode_array(value)


def _checked_text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the text {text!r} is not valid Unicode") from error
    return text


def _encode_array(value: Any) -> Any:
    import numpy as np
    import torch

    if isinstance(value, torch.Tensor):
        if value.layout is not torch.strided or value.is_quantized:
            raise TypeError(f"a {value.layout} tensor of {value.dtype} cannot be stored; expected a dense one")
        tensor = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
        if (tensor.is_floating_point() or tensor.is_complex()) and bool(torch.isnan(tensor).any()):
            raise ValueError("a tensor holds NaN")
        raw = tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        dtype = str(tensor.dtype).removeprefix("torch.")
        return {
            _TAG: "tensor",
            "dtype": dtype,
            "shape": list(tensor.shape),
            "data": base64.b64encode(raw).decode(),
        }
    if isinstance(value, (np.ndarray, np.generic)) and not isinstance(value, np.ma.MaskedArray):
        array = np.ascontiguousarray(value)
        if array.dtype.kind not in "biufc":
            raise TypeError(f"a numpy array of dtype {array.dtype} cannot be stored; expected numbers")
        if array.dtype.kind in "fc" and bool(np.isnan(array).any()):
            raise ValueError("an array holds NaN")
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        kind = "ndarray" if isinstance(value, np.ndarray) else "scalar"
        data = base64.b64encode(array.tobytes()).decode()
        return {_TAG: kind, "dtype": array.dtype.str, "shape": list(np.shape(value)), "data": data}
    raise TypeError(
        f"a value of type {type(value).__module__}.{type(value).__qualname__} cannot be stored; expected None, bool, "
        f"int, float, str, bytes, list, tuple, dict, torch tensors or numpy arrays"
    )


def decode_value(value: Any) -> Any:
    """Return the value that ``encode_value`` stored.

    Raises:
        CorruptRunError: It is none, whoever sealed it.
    """
    try:
        return _decode(value)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, RuntimeError, TypeError, ValueError) as error:
        raise CorruptRunError(f"A stored partial cannot be read: {type(error).__name__}: {error}.") from error


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    match value.get(_TAG):
        case None:
            return {key: _decode(item) for key, item in value.items()}
        case "int":
            return int(value["hex"], 16)
        case "float":
            return float(value["value"])
        case "tuple":
            return tuple(_decode(item) for item in value["items"])
        case "dict":
            return {_decode(key): _decode(item) for key, item in value["items"]}
        case "bytes":
            return base64.b64decode(value["data"])
        case "tensor":
            import torch

            raw = bytearray(base64.b64decode(value["data"]))
            dtype = getattr(torch, value["dtype"])
            if not isinstance(dtype, torch.dtype):
                raise TypeError(f"{value['dtype']!r} is no tensor type")
            flat = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
            return flat.reshape(value["shape"])
        case "ndarray" | "scalar" as kind:
            import numpy as np

            array = np.frombuffer(base64.b64decode(value["data"]), dtype=value["dtype"]).reshape(value["shape"])
            return array.copy() if kind == "ndarray" else array[()]
        case unknown:
            raise CorruptRunError(f"A stored partial holds a value of unknown form {unknown!r}.")
