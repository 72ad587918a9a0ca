import dataclasses
import json

import pytest
import torch
from torch.utils.data import TensorDataset

from batchmill import (
    ConfigError,
    ConfigMismatchError,
    ModelError,
    RunRequest,
    Selection,
    StorageError,
    TorchBatchProcessor,
    client,
)
from batchmill.engine.grid import Grid
from batchmill.engine.opening import assemble, describe_request, open_run, plan_grid, plan_run
from batchmill.plugin_manager import get_catalog
from batchmill_plugins.storage._memory import MemoryStorage


class Processor(TorchBatchProcessor):
    def __init__(self, context):
        raise AssertionError("opening builds no processor")

    def process_batch(self, batch, batch_idx):
        raise AssertionError("opening processes nothing")


@pytest.fixture
def request_for(storage):
    """Make requests for one run in memory."""
    output = storage.url.rsplit("/", 1)[0]

    def make(**changes):
        values = {
            "processor": Selection("", instance=Processor),
            "dataset": Selection("", instance=TensorDataset(torch.arange(95.0))),
            "storage": Selection("memory"),
            "output": output,
            "run_id": "run",
            "batch_size": 10,
            "checkpoint_interval": 2,
        }
        return RunRequest(**{**values, **changes})

    return make


@pytest.fixture
def on_disk(request_for, tmp_path):
    """Make requests for one run on disk, which several workers may share."""
    return lambda **changes: request_for(output=str(tmp_path), storage=Selection("local"), **changes)


@pytest.fixture
def registry():
    return get_catalog().registry


def test_opening_freezes_a_new_run(request_for, registry, storage):
    opened = open_run(request_for(), registry, 1)
    assert opened.directory.grid == Grid(95, 10, 2)
    assert (opened.directory.run_id, opened.directory.path) == ("run", storage.url)
    assert opened.request.writer.settings == {"compression": "none"}, "completed"
    manifest = json.loads(storage.get("run.json"))
    assert manifest["config"]["python"]["processor"] == "Processor"
    assert set(manifest["versions"]) == {"batchmill", "torch", "numpy"}
    assert manifest["fingerprint"]["covers"]["dataset.length"] == 95


def test_a_resume_on_other_workers_keeps_the_grid(on_disk, registry):
    first = open_run(on_disk(), registry, 1).directory.grid
    assert open_run(on_disk(), registry, 50).directory.grid == first


def test_storage_inside_one_process_is_for_one_worker(request_for, registry):
    with pytest.raises(ConfigError, match="is inside one process, so 2 workers would not see each other's results"):
        open_run(request_for(), registry, 2)


def test_a_resume_with_other_settings_is_refused(request_for, registry):
    open_run(request_for(), registry, 1)
    with pytest.raises(ConfigMismatchError) as caught:
        open_run(request_for(batch_size=5, seed=3), registry, 1)
    assert caught.value.differences == {"batch_size": (10, 5), "seed": (0, 3)}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"run_id": None}, ConfigError, "run_id is not set"),
        ({"run_id": "../x"}, ConfigError, "cannot name a run"),
        ({"batch_size": 0}, ConfigError, "batch_size should be a positive integer"),
        ({"checkpoint_interval": 0}, ConfigError, "checkpoint_interval should be a positive integer"),
        ({"limit": 0}, ConfigError, "limit should be a positive integer"),
        ({"max_batches": -1}, ConfigError, "max_batches should be a positive integer"),
        ({"writer": Selection("parket")}, ConfigError, "Did you mean 'parquet'"),
        ({"dataset": Selection("", instance=iter([1]))}, ConfigError, "cannot be run"),
        ({"storage": Selection("local")}, ConfigError, "Storage 'local' does not serve"),
        ({"model_name": "nobody"}, ModelError, "no model named 'nobody'"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_written(
    request_for, registry, storage, changes, error, message
):
    with pytest.raises(error, match=message):
        open_run(request_for(**changes), registry, 1)
    assert storage.paths() == []


class Sloppy(MemoryStorage):
    exclusive_create = False


def test_storage_that_cannot_commit_exactly_once_is_refused(request_for, registry, storage):
    with pytest.raises(StorageError, match="cannot create an object exclusively"):
        open_run(request_for(storage=Selection("", instance=Sloppy)), registry, 1)


def test_a_plan_creates_nothing_and_says_what_there_is(on_disk, registry, tmp_path):
    plan = plan_run(on_disk(), registry, 3)
    assert list(tmp_path.iterdir()) == []
    assert {key: plan[key] for key in ("samples", "batches", "chunks", "committed_chunks", "workers", "run_id")} == {
        "samples": 95,
        "batches": 10,
        "chunks": 5,
        "committed_chunks": 0,
        "workers": 3,
        "run_id": "run",
    }
    run = open_run(on_disk(), registry, 1).directory
    with pytest.raises(ConfigMismatchError):
        plan_run(on_disk(seed=1), registry, 1)
    run.storage.put("commits/00000001.json", b"{}")
    plan = plan_run(on_disk(), registry, 100)
    assert (plan["committed_chunks"], plan["chunks"]) == (1, 5), "the frozen grid"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Grid(95, 10, 2)),
        ({"limit": 35}, Grid(35, 10, 1)),
        ({"max_batches": 2}, Grid(40, 10, 1)),
        ({"checkpoint_interval": None}, Grid(95, 10, 1)),
        ({"batch_size": 200}, Grid(95, 200, 1)),
    ],
)
def test_the_grid_of_a_first_launch(request_for, changes, expected):
    assert plan_grid(request_for(**changes), 95, 2) == expected


def test_a_linked_model_is_part_of_the_fingerprint_and_must_be_unchanged(request_for, registry, tmp_path):
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "a.bin").write_bytes(b"1")
    request = request_for(model_name="digits", model_version="latest")
    parts = assemble(request_for(), registry, 1)
    with client.use(parts.tracker):
        client.create_model("digits").register_version(weights)
    opened = open_run(request, registry, 1)
    covers = opened.directory.manifest["fingerprint"]["covers"]
    assert (covers["model.name"], covers["model.version"]) == ("digits", 1)
    assert opened.model_version is not None and opened.model_version.path == weights
    (weights / "a.bin").write_bytes(b"2")
    with pytest.raises(ModelError, match="was changed since it was registered"):
        open_run(request, registry, 1)


def test_requests_of_names_alone_are_kept_for_resume(request_for):
    request = request_for(processor=Selection("function", {"name": "f"}), dataset=Selection("jsonl", {"path": "x"}))
    stored = json.loads(json.dumps(describe_request(request)))
    assert RunRequest.from_json(stored["request"]) == request


def test_requests_with_python_objects_say_which(request_for):
    described = describe_request(
        dataclasses.replace(request_for(), callbacks={"mine": Selection("", instance=object())})
    )
    assert described["python"]["callbacks.mine"] == "object"
    assert described["python"]["writer"] == "parquet"
