import dataclasses

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from batchmill import ComponentRegistry, ConfigError, Kind, RunRequest, Selection, setting
from batchmill.engine.fingerprint import dataset_identity, differences, digest_of, fingerprint_facts


@dataclasses.dataclass
class ShoutSettings:
    volume: int = 3
    log_every: int = setting(fingerprint=False, default=10)


@pytest.fixture
def registry():
    registry = ComponentRegistry()
    with registry.owned_by("shouting", "shouting==1.2"):
        registry.add(Kind.PROCESSOR, "shout", "x:Shout", schema=ShoutSettings)
    with registry.owned_by("base", "base==1.0"):
        registry.add(Kind.DATASET, "numbers", "x:Numbers", schema=dataclasses.make_dataclass("Settings", []))
        registry.add(Kind.WRITER, "parquet", "x:Writer", schema=dataclasses.make_dataclass("Settings", []))
        registry.add(Kind.REDUCER, "count", "x:Count", schema=dataclasses.make_dataclass("Settings", []))
    return registry


REQUEST = RunRequest(
    processor=Selection("shout", {"volume": 3, "log_every": 10}),
    dataset=Selection("numbers"),
    reducers={"n": Selection("count")},
    hparams={"lr": 0.1},
    batch_size=4,
)
DATA = TensorDataset(torch.arange(100.0))
MODEL = {"name": "m", "version": 1, "digest": "abc"}


def facts_of(registry, request=REQUEST, dataset=DATA, model=MODEL):
    return fingerprint_facts(request, registry, dataset, model)


def changed(registry, **changes):
    replaced = {key: changes.pop(key) for key in list(changes) if key in {"dataset_object", "model"}}
    request = dataclasses.replace(REQUEST, **changes)
    other = facts_of(registry, request, replaced.get("dataset_object", DATA), replaced.get("model", MODEL))
    return differences(facts_of(registry), other)


@pytest.mark.parametrize(
    ("changes", "key", "values"),
    [
        ({"batch_size": 8}, "batch_size", (4, 8)),
        ({"checkpoint_interval": 2}, "checkpoint_interval", (None, 2)),
        ({"limit": 10}, "limit", (None, 10)),
        ({"max_batches": 1}, "max_batches", (None, 1)),
        ({"seed": 7}, "seed", (0, 7)),
        ({"threads": None}, "threads", (1, None)),
        ({"hparams": {"lr": 0.2}}, "hparams.lr", (0.1, 0.2)),
        ({"processor": Selection("shout", {"volume": 11, "log_every": 10})}, "processor.volume", (3, 11)),
        ({"reducers": {}}, "reducers.n", ("count", None)),
        ({"model": {**MODEL, "digest": "abd"}}, "model.digest", ("abc", "abd")),
        ({"dataset_object": TensorDataset(torch.arange(101.0))}, "dataset.length", (100, 101)),
    ],
)
def test_what_changes_results_changes_a_fact_by_name(registry, changes, key, values):
    found = changed(registry, **changes)
    assert found[key] == values


@pytest.mark.parametrize(
    "changes",
    [
        {"processor": Selection("shout", {"volume": 3, "log_every": 99})},
        {"launcher": Selection("local", {"nproc": 8})},
        {"callbacks": {"progress": Selection("progress")}},
        {"loader": {"num_workers": 4}},
        {"claims": Selection("static")},
        {"storage": Selection("memory")},
        {"output": "elsewhere"},
        {"run_id": "other"},
        {"join": True},
        {"profile": True},
        {"device": "cpu"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_cannot_change_results_is_left_out(registry, changes):
    assert changed(registry, **changes) == {}


def test_a_new_version_of_a_plugin_is_a_change(registry):
    other = ComponentRegistry()
    for component in registry:
        version = "shouting==2.0" if component.name == "shout" else component.version
        with other.owned_by(component.plugin, version):
            other.add(component.kind, component.name, component.factory, schema=component.schema)
    found = differences(facts_of(registry), facts_of(other))
    assert found == {"processor.plugin": ("shouting==1.2", "shouting==2.0")}


def test_a_python_object_counts_by_its_class(registry):
    class Other:
        pass

    request = dataclasses.replace(REQUEST, processor=Selection("", instance=Other))
    facts = facts_of(registry, request)
    assert facts["processor"].startswith("python:") and facts["processor"].endswith("Other")


def test_the_digest_covers_every_fact(registry):
    facts = facts_of(registry)
    assert digest_of(facts) == digest_of(dict(reversed(facts.items())))
    for key in facts:
        assert digest_of({**facts, key: "changed"}) != digest_of(facts)


class Named(Dataset):
    def __init__(self, identity):
        self._identity = identity

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return index

    def identity(self):
        return self._identity


def test_a_dataset_names_its_contents_itself():
    assert dataset_identity(Named({"rows": "abc"})) == {"rows": "abc"}


def test_an_identity_that_is_no_json_is_refused_by_name(registry):
    with pytest.raises(ConfigError, match=r"identity\(\) of dataset Named is .* is not JSON"):
        facts_of(registry, dataset=Named({"rows": {1, 2}}))


def test_hparams_that_are_no_json_are_refused_by_name(registry):
    for value in (object(), float("nan"), torch.tensor([1.0, 2.0])):
        request = dataclasses.replace(REQUEST, hparams={"good": 1, "device": value})
        with pytest.raises(ConfigError, match=r"hparams\.device"):
            facts_of(registry, request)


@pytest.mark.parametrize(
    "other",
    [
        TensorDataset(torch.arange(100.0) + 1),
        TensorDataset(torch.arange(100.0).double()),
        TensorDataset(torch.arange(100.0).reshape(100, 1)),
        TensorDataset(torch.arange(100.0), torch.arange(100)),
        TensorDataset(torch.cat([torch.arange(99.0), torch.tensor([-1.0])])),
    ],
    ids=["values", "dtype", "shape", "columns", "last-row"],
)
def test_tensors_in_memory_are_told_apart(other):
    assert dataset_identity(other) != dataset_identity(DATA)


def test_of_many_rows_the_last_is_always_looked_at():
    rows = torch.arange(1000.0)
    changed = torch.cat([rows[:-1], torch.tensor([-1.0])])
    assert dataset_identity(TensorDataset(rows)) != dataset_identity(TensorDataset(changed))


def test_equal_tensors_are_the_same_data():
    assert dataset_identity(TensorDataset(torch.arange(100.0))) == dataset_identity(DATA)
    for rows in (0, 1, 63, 64, 65, 1000):
        assert dataset_identity(TensorDataset(torch.zeros(rows))) == dataset_identity(TensorDataset(torch.zeros(rows)))


class Lists(Dataset):
    """A dataset that happens to call its data ``tensors``."""

    tensors = ([1, 2], np.arange(2))

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.tensors[0][index]


def test_of_any_other_dataset_the_class_is_known():
    assert dataset_identity(Lists()) == {"class": "Lists"}
    assert dataset_identity([1, 2, 3]) == {"class": "list"}


def test_a_file_setting_counts_by_its_contents_not_its_path(tmp_path):
    @dataclasses.dataclass
    class Weighted:
        weights: str = setting(file=True, default="")

    registry = ComponentRegistry()
    registry.add(Kind.PROCESSOR, "weighted", lambda context, weights="": None, schema=Weighted)
    for name, data in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / name).write_bytes(data)

    def facts(weights):
        request = RunRequest(
            processor=Selection("weighted", {"weights": weights}),
            dataset=Selection("", instance=[1]),
            writer=Selection("", instance=object()),
        )
        return fingerprint_facts(request, registry, [1], None)

    assert facts(str(tmp_path / "a")) == facts(str(tmp_path / "b"))
    assert facts(str(tmp_path / "a")) != facts(str(tmp_path / "c"))
    assert facts("")["processor.weights"] == ""
    with pytest.raises(ConfigError, match=r"processor\.weights=.*missing.* cannot be read"):
        facts(str(tmp_path / "missing"))
