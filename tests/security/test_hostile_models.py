"""Weights and programs that would create a flag if what is in them were run."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bomb import Bomb

from batchmill.errors import ModelError
from batchmill_plugins.processors._model_files import load_model, load_program, load_weights


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
