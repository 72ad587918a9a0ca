import shutil

import pytest

import batchmill
from batchmill import ConfigError, DatasetError
from batchmill.plugin_manager import Catalog
from batchmill_plugins import datasets
from batchmill_plugins.datasets import _identity
from batchmill_plugins.datasets._files import find_files
from batchmill_plugins.datasets._identity import content_identity
from batchmill_plugins.datasets._python import build_dataset


def test_finds_a_file_a_folder_and_a_pattern(tmp_path, monkeypatch):
    for name in ("b.txt", "a.txt", "c.csv", ".hidden.txt", "_log.txt", "below/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.txt").mkdir()
    a, b, d = tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "below" / "d.txt"
    assert find_files(str(a), [".csv"]) == [a]
    assert find_files(str(tmp_path), [".txt"]) == [a, b]
    assert find_files(f"{tmp_path}/[ab].txt", []) == [a, b]
    assert find_files(f"{tmp_path}/**/[a-d].txt", []) == [a, b, d]
    monkeypatch.chdir(tmp_path)
    assert find_files("a.txt", []) == [a]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_files("~/a.txt", []) == [a]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gone.txt", r"there is no file or folder .*/gone\.txt"),
        ("gone*.txt", r"no file matches the pattern .*/gone\*\.txt"),
        ("empty", r"the folder .*/empty has no file ending in \.a or \.b"),
    ],
)
def test_missing_data_says_what_was_looked_for(tmp_path, path, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=message):
        find_files(str(tmp_path / path), [".a", ".b"])


def test_identity_is_that_of_the_contents(tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    first.write_bytes(b"one")
    second.write_bytes(b"two")
    identity = content_identity([first, second])
    assert identity["files"] == 2
    assert identity["bytes"] == 6
    moved = tmp_path / "elsewhere"
    shutil.copy(first, moved)
    assert content_identity([moved, second]) == identity
    assert content_identity([second, first]) != identity
    moved.write_bytes(b"onetwo")
    second.write_bytes(b"")
    assert content_identity([moved, second]) != identity


def test_identity_of_a_large_file_reads_head_tail_and_spread(tmp_path, monkeypatch):
    monkeypatch.setattr(_identity, "_BLOCK_BYTES", 10)
    monkeypatch.setattr(_identity, "_BLOCKS_IN_ALL", 4)
    path = tmp_path / "large"
    data = bytes(200)
    path.write_bytes(data)
    identity = content_identity([path])

    def changed(place):
        path.write_bytes(data[:place] + b"x" + data[place + 1 :])
        return content_identity([path]) != identity

    seen = [place for place in range(200) if changed(place)]
    assert seen == [*range(10), *range(63, 73), *range(126, 136), *range(190, 200)]
    path.write_bytes(data[:-1])
    assert content_identity([path]) != identity


class Squares:
    def __init__(self, count: int, power: int = 2) -> None:
        self.count, self.power = count, power

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return index**self.power


def test_python_dataset_is_built_from_its_arguments():
    dataset = build_dataset(Squares, {"count": 3})
    assert [dataset[i] for i in range(len(dataset))] == [0, 1, 4]


@pytest.mark.parametrize(
    ("target", "args", "message"),
    [
        (Squares, {"cuont": 3}, r"dataset\.args does not fit Squares\(count: int, power: int = 2\).*Given: cuont"),
        (Squares, {}, "missing a required argument: 'count'"),
        (lambda: iter([]), {}, "which is no map-style dataset"),
    ],
)
def test_python_dataset_refusals(target, args, message):
    with pytest.raises(ConfigError, match=message):
        build_dataset(target, args)


def test_errors_inside_a_python_dataset_are_its_own():
    def broken():
        raise TypeError("mine")

    with pytest.raises(TypeError, match="mine"):
        build_dataset(broken, {})


def test_registered_under_their_names():
    catalog = Catalog()
    catalog.register(datasets, "datasets")
    registry = catalog.registry
    assert registry.names(batchmill.Kind.DATASET) == ["jsonl", "parquet", "python", "tensors"]
    for component in registry:
        assert callable(component.load())
        fields = component.schema.__dataclass_fields__
        # Where data lies must not be part of a run's identity; what is in it is.
        if "path" in fields:
            assert fields["path"].metadata["fingerprint"] is False
    assert (
        registry.get(batchmill.Kind.DATASET, "python").schema.__dataclass_fields__["target"].metadata["resolve"]
        is batchmill.Kind.DATASET
    )
