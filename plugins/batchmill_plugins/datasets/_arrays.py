"""Tensors in safetensors and numpy files, mapped into memory instead of read."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open

from batchmill import DatasetError

SUFFIXES = (".safetensors", ".npz", ".npy")
_LOCAL_HEADER_BYTES = 30

Column = torch.Tensor | npt.NDArray[Any]


def open_columns(path: Path) -> dict[str, Column]:
    """Return a file's arrays by name, as far as possible without reading them.

    Args:
        path: A .safetensors file; an .npz file, whose uncompressed members are mapped and whose compressed
            ones are read; or an .npy file, whose one array gets the file's name without the ending.

    Returns:
        Name to a tensor; arrays of strings stay numpy arrays. Writing to them never reaches the file.

    Raises:
        DatasetError: The file cannot be read, or an array has a dtype without a tensor form.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}
        if path.suffix == ".npz":
            arrays = _open_npz(path)
        elif path.suffix == ".npy":
            arrays = {path.stem: np.load(path, mmap_mode="c", allow_pickle=False)}
        else:
            raise DatasetError(f"{path} ends in {path.suffix!r}; expected one of {', '.join(SUFFIXES)}.")
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, SafetensorError) as error:
        raise DatasetError(f"{path} cannot be read as {path.suffix}: {error}") from error
    return {name: _as_column(name, array, path) for name, array in arrays.items()}


def _open_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    arrays = {}
    with zipfile.ZipFile(path) as archive, np.load(path, allow_pickle=False) as loaded:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            mapped = _map_member(path, info) if info.compress_type == zipfile.ZIP_STORED else None
            arrays[name] = loaded[name] if mapped is None else mapped
    return arrays


def _map_member(path: Path, info: zipfile.ZipInfo) -> npt.NDArray[Any] | None:
    """Map an uncompressed member of a zip file; None if it has a form that only ``np.load`` knows."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(_LOCAL_HEADER_BYTES)
        # The names and extra fields that follow may differ in length from those in the central directory.
        name_bytes, extra_bytes = (int.from_bytes(header[i : i + 2], "little") for i in (26, 28))
        file.seek(info.header_offset + _LOCAL_HEADER_BYTES + name_bytes + extra_bytes)
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            return None
        if dtype.hasobject or 0 in shape:
            return None
        return np.memmap(path, dtype, "c", file.tell(), shape, "F" if fortran else "C")


def _as_column(name: str, array: npt.NDArray[Any], path: Path) -> Column:
    if array.dtype.kind == "U":
        return array
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    try:
        return torch.from_numpy(np.asarray(array))
    except TypeError as error:
        raise DatasetError(
            f"Array {name!r} of {path} has dtype {array.dtype}, which has no tensor form; expected bools, "
            f"numbers or strings. Leave it out with dataset.columns."
        ) from error
