"""What a program file may hold before torch is asked to load it: torch unpickles and evaluates some of it.

A check of a known format, not a wall: a program is code that somebody else wrote. What is found is refused, unless
``processor.trust_program=true`` says that whoever wrote it may run what they like.
"""

from __future__ import annotations

import ast
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from batchmill import ModelError

_MOST_JSON_BYTES = 256 << 20
_MEMBERS = re.compile(
    r"data/weights/(?:weight_\d+|model_weights_config\.json)|data/constants/(?:tensor_\d+|model_constants_config\.json)"
    r"|data/sample_inputs/model\.pt|models/model\.json|archive_format|archive_version|byteorder|\.data/[a-z_]+|extra/.*"
)
_OPERATORS = re.compile(
    r"torch\.ops\.(?:aten|prims|higher_order|quantized\w*|torchvision|torchaudio)\.\w+(?:\.\w+)?|_operator\.\w+"
    r"|math\.\w+|torch\.sym_\w+|torch\._sym_\w+"
)
_WRITERS = re.compile(r"torch\.ops\.aten\.(?:save|load|from_file)\b.*")
_FUNCTIONS = frozenset(
    "Symbol Integer Float Rational Add Mul Pow Max Min Mod PythonMod FloorDiv CeilDiv CleanDiv IntTrueDiv TruncToInt "
    "FloatTrueDiv FloorToInt CeilToInt RoundToInt ToFloat Where ModularIndexing Identity Abs Eq Ne Lt Le Gt Ge And Or "
    "Not Equality Unequality StrictLessThan LessThan StrictGreaterThan GreaterThan floor ceiling "
    "len int float bool max min abs size dim stride numel storage_offset".split()
)
_NODES = (
    *(ast.Expression, ast.Constant, ast.Name, ast.Load, ast.Call, ast.keyword, ast.BinOp, ast.UnaryOp, ast.BoolOp),
    *(ast.Compare, ast.Subscript, ast.Attribute, ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.Tuple, ast.List),
)
_ATTRIBUTES = frozenset("size dim stride numel storage_offset shape ndim dtype device requires_grad".split())
_WORD = re.compile(r"[\w. -]*")
_SCRIPT = re.compile(
    r"\b(?:torch|aten)\.(?:save|load|from_file)\(|\bops\.(?!aten\b|prim\b|quantized\b|torchvision\b)\w+"
)


def check_exported(path: Path) -> None:
    """Refuse a ``torch.export`` archive that holds pickles, libraries or text to be evaluated.

    Raises:
        ModelError: It does; the message says what.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        root = names[0].partition("/")[0] if names else ""
        for name in names:
            inner = name.removeprefix(f"{root}/")
            if not _MEMBERS.fullmatch(inner):
                raise _refused(path, f"it holds {inner!r}, which is no part of a program of tensors")
        for config in ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json"):
            _check_tensors(path, _read_json(archive, f"{root}/{config}", path))
        with archive.open(f"{root}/data/sample_inputs/model.pt") as inputs:
            _check_inputs(path, inputs)
        _check_graph(path, _read_json(archive, f"{root}/models/model.json", path))


def check_script(path: Path) -> None:
    """Refuse a TorchScript archive whose code reads or writes files, or calls operators that torch lacks.

    Raises:
        ModelError: It does; the message says what.
    """
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.filename.endswith(".py"):
                found = _SCRIPT.search(archive.read(info).decode("utf-8", "replace"))
                if found:
                    raise _refused(path, f"its code calls {found[0].rstrip('(')}")


def _read_json(archive: zipfile.ZipFile, name: str, path: Path) -> Any:
    if archive.getinfo(name).file_size > _MOST_JSON_BYTES:
        raise _refused(path, f"its {name} is larger than {_MOST_JSON_BYTES >> 20} MiB")
    return json.loads(archive.read(name))


def _check_tensors(path: Path, config: Any) -> None:
    for name, payload in config["config"].items():
        if payload.get("use_pickle") is not False:
            raise _refused(path, f"{name} is kept as a pickle")


def _check_inputs(path: Path, file: Any) -> None:
    try:
        torch.load(file, weights_only=True)
    except Exception as error:
        # torch itself would try again without the restriction, and so run what is in there.
        raise _refused(path, f"its example inputs are a pickle of more than tensors ({type(error).__name__})") from None


def _check_graph(path: Path, document: Any) -> None:
    for key, value in _strings(document, ""):
        if key == "target" and (not _OPERATORS.fullmatch(value) or _WRITERS.fullmatch(value)):
            raise _refused(path, f"it calls {value!r}")
        if key in ("expr_str", "guards_code", "as_operator") and not _is_arithmetic(value):
            raise _refused(path, f"it has {value[:80]!r} evaluated")


def _strings(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _strings(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, key)
    elif isinstance(value, str):
        yield key, value


def _is_arithmetic(text: str) -> bool:
    """Return whether an expression computes with sizes, and does nothing else when it is evaluated."""
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(isinstance(node, _NODES) and _is_harmless(node) for node in nodes)


def _is_harmless(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name(id=name)) | ast.Call(func=ast.Attribute(attr=name)):
            return name in _FUNCTIONS
        case ast.Call():
            return False
        case ast.Attribute(attr=name):
            return name in _ATTRIBUTES
        case ast.Name(id=name):
            return not name.startswith("_")
        case ast.Constant(value=str(text)):
            return _WORD.fullmatch(text) is not None and "__" not in text
    return True


def _refused(path: Path, what: str) -> ModelError:
    return ModelError(
        f"{path} is refused: {what}, and so would run code of whoever wrote it as soon as it is loaded. Export the "
        f"module again from its source; or, if you trust the file, set processor.trust_program=true."
    )
