import dataclasses
import json

import pytest

from batchmill import ConfigError, ProgressSnapshot, RunRequest, RunResult, Selection

FULL = RunRequest(
    processor=Selection("torch_module", {"builder": "net", "layers": [1, 2]}),
    dataset=Selection("jsonl", {"path": "x"}),
    reducers={"n": Selection("count", {"column": "y"}), "m": Selection("max", {"column": "y"})},
    callbacks={"log": Selection("logging")},
    launcher=Selection("local", {"nproc": 4}),
    output="s3://bucket/runs",
    run_id="x",
    batch_size=8,
    checkpoint_interval=3,
    limit=100,
    max_batches=5,
    seed=7,
    threads=None,
    model_name="m",
    model_version="best",
    hparams={"lr": 0.1, "deep": {"a": [1]}},
    loader={"num_workers": 2},
    allow_import=True,
    join=True,
)


def test_a_request_of_names_survives_being_sent_to_another_process():
    assert RunRequest.from_json(json.loads(json.dumps(FULL.to_json()))) == FULL
    least = RunRequest(Selection("p"), Selection("d"))
    assert RunRequest.from_json(json.loads(json.dumps(least.to_json()))) == least


def test_the_order_of_reducers_and_callbacks_is_kept():
    again = RunRequest.from_json(json.loads(json.dumps(FULL.to_json())))
    assert list(again.reducers) == ["n", "m"]


@pytest.mark.parametrize("key", ["processor", "writer", "launcher", "tracker"])
def test_a_python_object_cannot_be_sent_and_is_named(key):
    request = dataclasses.replace(FULL, **{key: Selection("", instance=object())})
    with pytest.raises(ConfigError, match=f"The {key} was given as a Python object"):
        request.to_json()


def test_a_python_object_among_many_is_named():
    request = dataclasses.replace(FULL, callbacks={"log": Selection("logging"), "mine": Selection("", instance=1)})
    with pytest.raises(ConfigError, match=r"The callbacks\.mine was given as a Python object"):
        request.to_json()


def test_a_request_of_another_version_is_refused():
    with pytest.raises(ConfigError, match="unknown keys colour, shape; it was written by another version"):
        RunRequest.from_json({**FULL.to_json(), "shape": 1, "colour": 2})


def test_every_selection_is_listed_with_its_key():
    keys = [key for key, _ in FULL.selections()]
    assert keys == [
        "processor", "dataset", "writer", "storage", "tracker", "claims", "launcher",
        "reducers.n", "reducers.m", "callbacks.log",
    ]  # fmt: skip


def result(complete):
    return RunResult("x", "/runs/x", complete, 1.0 if complete else 0.5, 10, 0, {}, ())


def test_the_exit_code_says_whether_to_come_back():
    assert (result(True).exit_code, result(False).exit_code) == (0, 75)


def test_the_rate_counts_only_what_this_launch_did():
    snapshot = ProgressSnapshot(total=1000, done=600, resumed=400, elapsed=10.0, workers={0: 120, 1: 80})
    assert snapshot.rate == 20.0 and snapshot.eta == 20.0


@pytest.mark.parametrize(("done", "elapsed"), [(400, 10.0), (400, 0.0), (500, 0.0)])
def test_without_a_rate_there_is_no_estimate(done, elapsed):
    assert ProgressSnapshot(1000, done, 400, elapsed, {}).eta is None
