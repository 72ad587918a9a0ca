"""No pickle is read back: as data, and in the place of what a run leaves, it would create a flag if it were."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from bomb import Bomb

import batchmill
from batchmill import inspection
from batchmill.components import Kind
from batchmill.contracts.run import Selection
from batchmill.engine.assembly import Assembler
from batchmill.engine.serialization import decode_value
from batchmill.errors import BatchmillError, CorruptRunError, DatasetError
from batchmill.plugin_manager import get_catalog
from batchmill_plugins.processors._model_files import load_weights

# --- data ---


def dataset(name: str, path: Path) -> Any:
    settings = {"path": str(path)}
    assembler = Assembler(get_catalog().registry)
    return assembler.build(Kind.DATASET, assembler.complete_one(Kind.DATASET, "dataset", Selection(name, settings)))


def numpy_object(path: Path, bomb: bytes, flag: Path) -> None:
    np.save(path, np.array([Bomb(flag)], dtype=object), allow_pickle=True)


def numpy_objects(path: Path, bomb: bytes, flag: Path) -> None:
    np.savez(path, x=np.arange(3), y=np.array([Bomb(flag)], dtype=object))


def header_code(path: Path, bomb: bytes, flag: Path) -> None:
    header = f"{{'descr': __import__('pathlib').Path({str(flag)!r}).touch(), 'fortran_order': False, 'shape': (1,)}}"
    data = header.encode().ljust(246) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(data).to_bytes(2, "little") + data + bytes(8))


def whole(path: Path, bomb: bytes, flag: Path) -> None:
    path.write_bytes(bomb)


def huge_header(path: Path, bomb: bytes, flag: Path) -> None:
    path.write_bytes((1 << 62).to_bytes(8, "little") + b"{}")


def header_of_lies(path: Path, bomb: bytes, flag: Path) -> None:
    header = json.dumps({"x": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def arrow_lies(path: Path, bomb: bytes, flag: Path) -> None:
    pq.write_table(pa.table({"x": [1, 2]}), path)
    data = bytearray(path.read_bytes())
    data[-8:-4] = (1 << 30).to_bytes(4, "little")
    path.write_bytes(data)


def deep_json(path: Path, bomb: bytes, flag: Path) -> None:
    path.write_bytes(b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n")


FILES: list[tuple[str, str, Callable[[Path, bytes, Path], None]]] = [
    ("tensors", "x.npy", numpy_object),
    ("tensors", "x.npz", numpy_objects),
    ("tensors", "x.npy", header_code),
    ("tensors", "x.npy", whole),
    ("tensors", "x.npz", whole),
    ("tensors", "x.safetensors", whole),
    ("tensors", "x.safetensors", huge_header),
    ("tensors", "x.safetensors", header_of_lies),
    ("tensors", "x.pt", whole),
    ("parquet", "x.parquet", whole),
    ("parquet", "x.parquet", arrow_lies),
    ("jsonl", "x.jsonl", whole),
    ("jsonl", "x.jsonl", deep_json),
]


@pytest.mark.parametrize(("name", "file", "make"), FILES, ids=[f"{f}-{m.__name__}" for _, f, m in FILES])
def test_hostile_data_ends_in_an_error(
    name: str, file: str, make: Callable[[Path, bytes, Path], None], bomb: bytes, flag: Path, tmp_path: Path
) -> None:
    make(tmp_path / file, bomb, flag)
    with pytest.raises(DatasetError) as caught:
        opened = dataset(name, tmp_path / file)
        opened.read_batch(0, len(opened))
    assert file.partition(".")[0] in str(caught.value) and not flag.exists()


# --- what a run leaves ---

PARTIALS: list[Any] = [
    {"$": "object", "module": "os", "name": "system"},
    {"$": "tensor", "dtype": "load", "shape": [1], "data": "AAAA"},
    {"$": "tensor", "dtype": "float32", "shape": [1 << 50], "data": ""},
    {"$": "tensor", "dtype": "float32", "shape": ["x"], "data": "AAAAAA=="},
    {"$": "ndarray", "dtype": "O", "shape": [1], "data": "AAAAAAAAAAA="},
    {"$": "ndarray", "dtype": "no such", "shape": [1], "data": "AAAA"},
    {"$": "scalar", "dtype": "<f8", "shape": [], "data": "!"},
    {"$": "bytes", "data": 3},
    {"$": "int", "hex": "xyz"},
    {"$": "dict", "items": [[{"$": "dict", "items": []}, 1]]},
    {"$": "tuple"},
    {"$": ["tensor"]},
]


@pytest.mark.parametrize("partial", PARTIALS, ids=lambda partial: str(partial)[:50])
def test_a_hostile_partial_is_damage(partial: Any) -> None:
    with pytest.raises(CorruptRunError, match="stored partial"):
        decode_value({"x": [partial]})


def test_a_deep_partial_is_damage() -> None:
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    with pytest.raises(CorruptRunError, match="stored partial"):
        decode_value(value)
    while isinstance(value, list):  # freed step by step
        value = value[0]


class Rows(batchmill.TorchBatchProcessor):
    def __init__(self, context: batchmill.TorchBatchProcessorContext) -> None:
        self.blobs = context.wrap_reducer(lambda values: len(values), "blobs")

    def process_batch(self, batch: Any, batch_idx: int) -> Any:
        self.blobs.update(b"x" * 300_000)
        return {"x": batch[0]}


@pytest.mark.parametrize("writer", ["parquet", "jsonl", "safetensors"])
def test_pickles_in_the_place_of_a_run_s_files_are_damage(writer: str, bomb: bytes, flag: Path, tmp_path: Path) -> None:
    data = torch.utils.data.TensorDataset(torch.arange(4.0))
    batchmill.torch_batch_process(Rows, data, batch_size=2, output=tmp_path, run_id="x", writer=writer)
    run = tmp_path / "x"
    kept = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and "lock" not in path.name}
    assert any(path.name.endswith(".partials.json") for path in kept)
    for path, pristine in kept.items():
        path.write_bytes(bomb)
        for look in (inspection.describe_run, batchmill.read_outputs, inspection.list_runs):
            try:
                look(str(tmp_path if look is inspection.list_runs else run))
            except BatchmillError as error:
                assert len(str(error)) < 1500
        try:
            assert not inspection.verify_run(str(run)).ok, path
        except CorruptRunError:
            pass  # the manifest itself
        assert not flag.exists(), path
        path.write_bytes(pristine)
    assert inspection.verify_run(str(run)).ok


def test_safetensors_are_what_they_say(tmp_path: Path) -> None:
    """The one way in for weights works."""
    safetensors.torch.save_file({"weight": torch.ones(2, 2), "bias": torch.zeros(2)}, tmp_path / "w.safetensors")
    load_weights(torch.nn.Linear(2, 2), tmp_path / "w.safetensors")
