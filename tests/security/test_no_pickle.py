"""No pickle is read back and no text is run: by the source, and by files that would create a flag if they were."""

from __future__ import annotations

import ast
import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

import batchmill
from batchmill import inspection
from batchmill.components import Kind
from batchmill.contracts.run import Selection
from batchmill.engine.assembly import Assembler
from batchmill.engine.serialization import decode_value
from batchmill.errors import BatchmillError, CorruptRunError, DatasetError, ModelError
from batchmill.plugin_manager import get_catalog
from batchmill_plugins.processors._model_files import load_model, load_program, load_weights

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path
    for folder in ("framework", "plugins", "conf", "examples", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)

# Calls that run what they read, by the last names of the function.
FORBIDDEN = {
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open", "dill.load"),
    *("dill.loads", "cloudpickle.load", "cloudpickle.loads", "joblib.load", "pandas.read_pickle", "pd.read_pickle"),
    *("torch.load", "torch.jit.load", "torch.export.load", "torch.hub.load", "torch.package.PackageImporter"),
    *("cpp_extension.load", "cpp_extension.load_inline", "np.load", "numpy.load", "np.fromregex", "yaml.load"),
    *("yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "os.system"),
    *("os.popen", "hydra.utils.instantiate", "instantiate", "hydra.utils.call", "hydra.utils.get_class", "get_object"),
    *("hydra.utils.get_method", "gather_object", "dist.gather_object", "broadcast_object_list", "all_gather_object"),
    *(
        "scatter_object_list",
        "recv_object_list",
        "send_object_list",
        "importlib.import_module",
        "extractall",
        "extract",
    ),
    *("shutil.unpack_archive", "runpy.run_path", "runpy.run_module", "ctypes.CDLL", "ctypes.cdll.LoadLibrary"),
}
BUILTINS = {"eval", "exec", "compile", "__import__"}
# Where one of them is right, and why.
ALLOWED = {
    ("batchmill/__init__.py", "importlib.import_module"): "names of its own table",
    ("batchmill/settings/__init__.py", "importlib.import_module"): "names of its own table",
    ("batchmill/components.py", "importlib.import_module"): "what a loaded plugin registered by path",
    ("batchmill/engine/assembly.py", "importlib.import_module"): "module:attribute, after the check of allow_import",
    ("batchmill/launch/local_worker.py", "ctypes.CDLL"): "the C library that the process has, for prctl",
    ("batchmill_plugins/storage/_posix.py", "ctypes.CDLL"): "the C library that the process has, for renameat2",
    ("batchmill_plugins/datasets/_arrays.py", "np.load"): "with allow_pickle=False",
    ("batchmill_plugins/processors/_model_files.py", "torch.jit.load"): "after check_script",
    ("batchmill_plugins/processors/_model_files.py", "torch.export.load"): "after check_exported",
    ("batchmill_plugins/processors/_program_check.py", "torch.load"): "with weights_only=True",
    ("batchmill_plugins/writers/_safetensors.py", "numpy.load"): "that of safetensors, which knows no pickles",
}


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def forbidden(name: str) -> str | None:
    if name in BUILTINS:
        return name
    parts = name.split(".")
    return next((end for i in range(len(parts)) if (end := ".".join(parts[i:])) in FORBIDDEN), None)


def short(path: Path) -> str:
    return "/".join(path.relative_to(ROOT).parts[1:])


def test_no_source_reads_what_can_run_code() -> None:
    found = {(short(path), name) for path in SOURCES for called, _ in calls(path) if (name := forbidden(called))}
    assert found - set(ALLOWED) == set(), "read JSON, safetensors, Arrow or numpy without pickles instead"
    assert set(ALLOWED) - found == set(), "no longer there: take it off the list"


def test_what_is_allowed_is_restricted() -> None:
    checked = 0
    for path in SOURCES:
        for called, node in calls(path):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if called in ("np.load", "numpy.load"):
                checked += 1
                assert given.get("allow_pickle") == "False", path
            if called == "torch.load":
                checked += 1
                assert given.get("weights_only") == "True", path
            assert given.get("shell") != "True" and given.get("weights_only") != "False", path
    assert checked >= 3


def test_no_source_imports_a_pickle_library() -> None:
    names = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                module = node.module if isinstance(node, ast.ImportFrom) else ""
                names |= {(short(path), root) for alias in node.names if (root := (module or alias.name).split(".")[0])}
    risky = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "code", "runpy"}
    # The loader has to know the error that sending a dataset to loader processes raises.
    assert {(path, name) for path, name in names if name in risky} == {("batchmill/engine/loading.py", "pickle")}


def test_the_lint_would_see_one() -> None:
    for source in ("pickle.loads(x)", "torch.load(f)", "np.load(f, allow_pickle=True)", "a.b.yaml.load(x)", "eval(x)"):
        (called,) = [ast.unparse(node.func) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
        assert forbidden(called)
    assert not forbidden("json.loads") and not forbidden("storage.load") and not forbidden("re.compile_all")


# --- hostile files ---


class Bomb:
    """Creates the flag when it is unpickled."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.flag,))


@pytest.fixture
def bomb(flag: Path) -> bytes:
    made = pickle.dumps(Bomb(flag))
    pickle.loads(made)  # noqa: S301 - our own
    assert flag.exists(), "the trap does not work"
    flag.unlink()
    return made


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


def prepare(module: torch.nn.Module) -> torch.nn.Module:
    return module


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin", ".pth"])
@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_hostile_weights_end_in_an_error(suffix: str, form: str, bomb: bytes, flag: Path, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(bomb)
    if form == "torch":
        torch.save({"weight": Bomb(flag)}, path)
    with pytest.raises(ModelError):
        load_weights(torch.nn.Linear(2, 2), path)
    assert not flag.exists()


@pytest.mark.parametrize("suffix", [".pt2", ".pt", ".ts"])
def test_a_pickle_in_the_place_of_a_program_ends_in_an_error(
    suffix: str, bomb: bytes, flag: Path, tmp_path: Path
) -> None:
    for write in (lambda path: path.write_bytes(bomb), lambda path: torch.save(Bomb(flag), path)):
        path = tmp_path / f"program{suffix}"
        write(path)
        with pytest.raises(ModelError):
            load_program(path, prepare, torch.device("cpu"))
        assert not flag.exists()


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program with a dynamic batch size."""
    path = tmp_path_factory.mktemp("exported") / "model.pt2"
    program = torch.export.export(
        torch.nn.Linear(3, 2), (torch.ones(4, 3),), dynamic_shapes={"input": {0: torch.export.Dim.DYNAMIC}}
    )
    torch.export.save(program, path)
    return path


def rewrite(source: Path, target: Path, change: Callable[[str, bytes], bytes | None], **more: bytes) -> None:
    """Copy an archive with its members changed (None leaves one out) and others added."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        root = old.namelist()[0].partition("/")[0]
        for name in old.namelist():
            data = change(name.removeprefix(f"{root}/"), old.read(name))
            if data is not None:
                new.writestr(name, data)
        for name, data in more.items():
            new.writestr(f"{root}/{name}", data)


def torch_bomb(flag: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save((Bomb(flag),), buffer)
    return buffer.getvalue()


def replaced(member: str, old: str, new: str) -> Callable[[str, bytes], bytes]:
    def change(name: str, data: bytes) -> bytes:
        if name != member:
            return data
        assert old.encode() in data, f"{member} of this torch has no {old}"
        return data.replace(old.encode(), new.encode())

    return change


def archives(flag: Path) -> dict[str, tuple[Callable[[str, bytes], bytes | None], dict[str, bytes]]]:
    touch = f"__import__('pathlib').Path({str(flag)!r}).touch()"
    keep = lambda name, data: data  # noqa: E731 - one of many small changes
    symbol = json.dumps("Symbol('s")[1:-1]
    weights, model = "data/weights/model_weights_config.json", "models/model.json"
    opaque = (
        '{"config": {"c": {"path_name": "opaque_obj_0", "is_param": false, "use_pickle": true, "tensor_meta": null}}}'
    )
    pickled = lambda name, data: (  # noqa: E731
        torch_bomb(flag)
        if name == "data/weights/weight_0"
        else replaced(weights, '"use_pickle": false', '"use_pickle": true')(name, data)
    )
    return {
        "pickled example inputs": (
            lambda name, data: torch_bomb(flag) if name == "data/sample_inputs/model.pt" else data,
            {},
        ),
        "pickled weights": (pickled, {}),
        "weights of the older format": (keep, {"data/weights/model.pt": torch_bomb(flag)}),
        "constants of the older format": (keep, {"data/constants/model.pt": torch_bomb(flag)}),
        "an opaque object": (
            lambda name, data: opaque.encode() if name == "data/constants/model_constants_config.json" else data,
            {"data/constants/opaque_obj_0": pickle.dumps(Bomb(flag))},
        ),
        "a compiled library": (keep, {"data/aotinductor/model/x.so": b"\x7fELF"}),
        "a size that is evaluated": (
            replaced(model, f'"expr_str": "{symbol}', f'"expr_str": "{touch} or {symbol}'),
            {},
        ),
        "a guard that is evaluated": (
            replaced(model, '"guards_code": [', f'"guards_code": [{json.dumps(touch)}, '),
            {},
        ),
        "an operator that loads": (replaced(model, "torch.ops.aten.linear.default", "torch.hub.load"), {}),
        "an operator that writes": (
            replaced(model, "torch.ops.aten.linear.default", "torch.ops.aten.from_file.default"),
            {},
        ),
        "an operator of Python": (replaced(model, "torch.ops.aten.linear.default", "torch.os.system"), {}),
        "the oldest format": (
            lambda name, data: None,
            {"../version": b"8.1", "../serialized_state_dict.json": torch_bomb(flag)},
        ),
    }


NAMES = list(archives(Path("x")))


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_program_is_refused(name: str, exported: Path, flag: Path, tmp_path: Path) -> None:
    change, more = archives(flag)[name]
    path = tmp_path / "model.pt2"
    rewrite(exported, path, change, **more)
    for load in (
        lambda: load_program(path, prepare, torch.device("cpu")),
        lambda: load_model(tmp_path, lambda kind, name: None, prepare, torch.device("cpu")),
    ):
        with pytest.raises(ModelError):
            load()
        assert not flag.exists()


def test_an_honest_program_is_loaded(exported: Path, tmp_path: Path) -> None:
    module = load_program(exported, prepare, torch.device("cpu"))
    assert module(torch.ones(7, 3)).shape == (7, 2)
    shutil.copy(exported, tmp_path / "model.pt2")
    rewrite(exported, tmp_path / "strange.pt2", lambda name, data: data, **{"strange": b""})
    with pytest.raises(ModelError, match=r"it holds 'strange', which is no part of a program of tensors"):
        load_program(tmp_path / "strange.pt2", prepare, torch.device("cpu"))
    trusted = load_program(tmp_path / "strange.pt2", prepare, torch.device("cpu"), trusted=True)
    assert trusted(torch.ones(5, 3)).shape == (5, 2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_script_that_writes_files_is_refused(flag: Path, tmp_path: Path) -> None:
    class Writes(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    path = tmp_path / "model.pt"
    torch.jit.save(torch.jit.script(Writes()), path)
    assert load_program(path, prepare, torch.device("cpu"))(torch.ones(2)).shape == (2,)

    def write(name: str, data: bytes) -> bytes:
        written = f"return torch.from_file({json.dumps(str(flag))}, True, 8)".encode()
        return data.replace(b"return x", written) if name.endswith(".py") else data

    rewrite(path, tmp_path / "writes.pt", write)
    with pytest.raises(ModelError, match=r"its code calls torch\.from_file"):
        load_program(tmp_path / "writes.pt", prepare, torch.device("cpu"))


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
