import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from batchmill import DatasetError
from batchmill_plugins.datasets import _arrays
from batchmill_plugins.datasets._tensors import TensorsDataset

X = np.arange(30, dtype=np.float32).reshape(10, 3)
Y = np.arange(10)


def rows_of(**columns):
    return [{name: values[i].tolist() for name, values in columns.items()} for i in range(10)]


@pytest.fixture(params=["safetensors", "npz", "npz compressed"])
def path(request, tmp_path):
    if request.param == "safetensors":
        save_file({"x": X, "y": Y}, tmp_path / "data.safetensors")
        return tmp_path / "data.safetensors"
    save = np.savez if request.param == "npz" else np.savez_compressed
    save(tmp_path / "data.npz", x=X, y=Y)
    return tmp_path / "data.npz"


def test_reads_every_format(path, check_dataset):
    check_dataset(TensorsDataset(str(path)), rows_of(x=X, y=Y))
    check_dataset(TensorsDataset(str(path), ["y"]), rows_of(y=Y))


def test_npy_is_one_column_named_like_the_file(tmp_path, check_dataset):
    np.save(tmp_path / "x.npy", X)
    check_dataset(TensorsDataset(str(tmp_path / "x.npy")), rows_of(x=X))


def test_odd_layouts_and_strings(tmp_path, check_dataset):
    names = np.array([f"name {i}" for i in range(10)])
    columns = {"fortran": np.asfortranarray(X), "big": X.astype(">f8"), "name": names, "empty": np.empty((10, 0))}
    np.savez(tmp_path / "odd.npz", **columns)
    dataset = TensorsDataset(str(tmp_path / "odd.npz"))
    check_dataset(dataset, rows_of(**columns))
    assert dataset.read_batch(2, 5)["fortran"].is_contiguous()
    assert dataset.read_batch(0, 1)["name"] == ["name 0"]


def test_bfloat16(tmp_path):
    values = torch.arange(10, dtype=torch.bfloat16)
    save_torch({"x": values}, tmp_path / "x.safetensors")
    batch = TensorsDataset(str(tmp_path / "x.safetensors")).read_batch(2, 5)
    assert batch["x"].dtype is torch.bfloat16
    assert torch.equal(batch["x"], values[2:5])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    hnp.arrays(
        st.sampled_from(["?", "i1", "u1", "i2", "i4", "i8", "f2", "f4", "f8", "c8", ">i4"]),
        hnp.array_shapes(max_dims=3, max_side=4),
    ),
    st.sampled_from(["safetensors", "npz", "npy"]),
    st.data(),
)
def test_any_slice_of_any_array(tmp_path, array, suffix, data):
    path = tmp_path / f"x.{suffix}"
    native = array.astype(array.dtype.newbyteorder("="))
    {"safetensors": lambda: save_file({"x": native}, path), "npz": lambda: np.savez(path, x=array)}.get(
        suffix, lambda: np.save(path, array)
    )()
    start = data.draw(st.integers(0, len(array) - 1))
    stop = data.draw(st.integers(start + 1, len(array)))
    read = TensorsDataset(str(path)).read_batch(start, stop)["x"].numpy()
    assert read.dtype == native.dtype
    assert read.tobytes() == native[start:stop].tobytes()


def test_mapped_files_are_not_read_whole(tmp_path):
    np.savez(tmp_path / "x.npz", x=X)
    save_file({"x": X}, tmp_path / "x.safetensors")
    with np.load(tmp_path / "x.npz") as loaded:
        assert not isinstance(loaded["x"], np.memmap)  # what numpy itself would do
    import zipfile

    with zipfile.ZipFile(tmp_path / "x.npz") as archive:
        mapped = _arrays._map_member(tmp_path / "x.npz", archive.infolist()[0])
    assert isinstance(mapped, np.memmap)
    assert np.array_equal(mapped, X)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"x": X, "y": Y[:9]}, r"same first dimension.*'x' \[10, 3\], 'y' \[9\].*dataset\.columns"),
        ({"x": X, "n": np.array(3)}, r"'n' \[\]"),
        ({"x": np.array([None, 1], dtype=object)}, "cannot be read as .npz.*allow_pickle"),
        ({"x": np.array(["2020-01-01"], "M8[D]")}, "'x' .* has dtype datetime64.*Leave it out"),
        ({}, "holds no tensors"),
    ],
)
def test_unusable_contents(tmp_path, columns, message):
    np.savez(tmp_path / "bad.npz", **columns)
    with pytest.raises(DatasetError, match=message):
        TensorsDataset(str(tmp_path / "bad.npz"))


@pytest.mark.parametrize("suffix", ["safetensors", "npz", "npy"])
@pytest.mark.parametrize("data", [b"", b"not such a file at all, but long enough for any header"])
def test_broken_files_are_named(tmp_path, suffix, data):
    path = tmp_path / f"broken.{suffix}"
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=rf"broken\.{suffix} cannot be read as \.{suffix}"):
        TensorsDataset(str(path))


def test_unknown_column_and_missing_file(path, tmp_path):
    with pytest.raises(DatasetError, match=r"has no column 'z'\. Available: 'x', 'y'"):
        TensorsDataset(str(path), ["x", "z"])
    with pytest.raises(DatasetError, match=r"there is no file or folder .*nothing\.npz"):
        TensorsDataset(str(tmp_path / "nothing.npz"))
    (tmp_path / "other.txt").write_text("x")
    with pytest.raises(DatasetError, match=r"ends in '\.txt'; expected one of \.safetensors, \.npz, \.npy"):
        TensorsDataset(str(tmp_path / "other.txt"))
    np.save(tmp_path / "second.npy", X)
    with pytest.raises(DatasetError, match="stands for 2 files; dataset=tensors reads one"):
        TensorsDataset(str(tmp_path / "*.n*" if path.suffix == ".npz" else tmp_path))
