import json
import sys
import textwrap

import numpy as np
import pytest

from batchmill import (
    ConfigError,
    RunRequest,
    Selection,
    client,
    hookimpl,
    iter_quarantined,
    read_outputs,
    resume,
    retry_quarantined,
    run,
)
from batchmill.engine import trust
from batchmill.inspection import describe_run, verify_run

BAD = {5, 130, 131, 777}

JOB = """
    from pathlib import Path
    import torch
    import batchmill

    class Job(batchmill.TorchBatchProcessor):
        def __init__(self, context):
            torch.manual_seed(0)
            self.net = torch.nn.Linear(4, 3)
            self.total = context.wrap_reducer(batchmill.Reducer.SUM, "total")

        def process_batch(self, batch, batch_idx):
            x = batch["data"]
            if (x[:, 0] == 7).any() and Path("broken").exists():
                raise ValueError("seven is bad")
            with torch.inference_mode():
                y = self.net(x)
            self.total.update(y.double().sum().item())
            return {"y": y}
"""


@pytest.fixture
def make_request(tmp_path, monkeypatch):
    data = np.random.default_rng(0).normal(size=(1000, 4)).astype("float32")
    data[sorted(BAD), 0] = 7
    np.save(tmp_path / "data.npy", data)
    (tmp_path / "job_of_retries.py").write_text(textwrap.dedent(JOB))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def make(run_id, **changes):
        return RunRequest(
            processor=Selection("job_of_retries:Job"),
            dataset=Selection("tensors", {"path": "data.npy"}),
            launcher=Selection("in_process"),
            output="runs",
            run_id=run_id,
            batch_size=32,
            checkpoint_interval=2,
            allow_import=True,
            **changes,
        )

    yield make
    sys.modules.pop("job_of_retries", None)


@pytest.fixture
def complete(make_request, tmp_path):
    """A complete run with four quarantined samples whose cause is mended now."""
    (tmp_path / "broken").touch()
    result = run(make_request("x"))
    assert result.complete and result.quarantined == 4
    (tmp_path / "broken").unlink()
    return tmp_path / "runs/x"


def files_below(path):
    return {each.relative_to(path).as_posix(): each.read_bytes() for each in path.rglob("*") if each.is_file()}


def without_folders(result):
    """Return a result but for the folders in which a retry keeps its parts."""
    document = json.loads(result.read_bytes())
    del document["sha256"]
    return json.dumps(document).replace(".retry-0001/", "/")


def test_a_retry_gives_what_a_run_without_failures_gives(complete, make_request, tmp_path):
    before = files_below(complete)
    assert {entry["index"] for entry in iter_quarantined(complete)} == BAD
    result = retry_quarantined(str(complete))
    assert (result.complete, result.quarantined) == (True, 0)
    assert read_outputs(result)["_index"].to_pylist() == list(range(1000))
    assert list(iter_quarantined(result)) == []
    run(make_request("good"))
    assert without_folders(complete / "retries/0001/result.json") == without_folders(tmp_path / "runs/good/result.json")
    after = files_below(complete)
    assert {name: after[name] for name in before} == before, "nothing of the first result was touched"
    assert verify_run(str(complete)).ok
    assert describe_run(str(complete)).quarantined == 0


def test_code_is_imported_for_a_retry_in_a_folder_of_others_with_leave_only(complete, monkeypatch):
    monkeypatch.setattr(trust, "_is_own_group", lambda gid: False)
    complete.chmod(0o770)
    with pytest.raises(ConfigError, match="others than its owner may write to"):
        retry_quarantined(str(complete))
    assert retry_quarantined(str(complete), allow_import=True).quarantined == 0


def test_a_retry_may_report_what_differs_from_the_first_time(make_request, tmp_path):
    """The tracker keeps what was told first; the retry is complete all the same, however often it goes on."""
    job = textwrap.dedent(JOB).replace("self.net =", "self.context = context\n        self.net =")
    told_in_a_batch = 'self.context.report_metrics("parts", batch_idx, {"failing": int(Path("broken").exists())})'
    (tmp_path / "job_of_retries.py").write_text(job.replace("return {", f"{told_in_a_batch}\n        return {{"))
    (tmp_path / "broken").touch()
    first = run(make_request("x"))
    assert (first.complete, first.quarantined) == (True, 4)
    (tmp_path / "broken").unlink()
    with pytest.warns(UserWarning, match="That stands, not what the retry reported"):
        assert retry_quarantined(first.path).quarantined == 0
    with client.use(client.open_tracker("runs")):
        told = {each.steps_completed: each.metrics for each in client.get_run("x").get_metrics("parts")}
    assert set(told) == set(range(32)) and all(metrics == {"failing": 1} for metrics in told.values())


def test_only_the_chunks_with_failures_are_processed_again(complete):
    retry_quarantined(str(complete))
    records = sorted((complete / "retries/0001/commits").iterdir())
    assert [json.loads(path.read_bytes())["chunk"] for path in records] == [0, 2, 12]


def test_a_retry_in_which_samples_fail_again_can_be_repeated(complete, tmp_path):
    (tmp_path / "broken").touch()
    again = retry_quarantined(str(complete))
    assert (again.complete, again.quarantined) == (True, 4)
    (tmp_path / "broken").unlink()
    assert retry_quarantined(str(complete)).quarantined == 0
    assert (complete / "retries/0002/result.json").exists()


class StopAtOnce:
    @hookimpl
    def should_stop(self):
        return "enough"


def test_a_stopped_retry_is_gone_on_with_and_readers_see_the_first_result_until_then(complete, make_request):
    from batchmill.engine.retry_view import begin_retry
    from batchmill_plugins.storage._local import LocalStorage

    begin_retry(LocalStorage(str(complete)), 1, [0, 2, 12])
    stopped = run(make_request("x", callbacks={"stop": Selection("", instance=StopAtOnce())}))
    assert not stopped.complete and stopped.coverage < 1
    assert describe_run(str(complete)).quarantined == 4
    assert len(read_outputs(str(complete))) == 996
    assert resume(str(complete)).quarantined == 0
    assert describe_run(str(complete)).quarantined == 0


def test_the_metrics_of_a_retry_come_after_the_first_ones(complete, tmp_path):
    from batchmill import client
    from batchmill_plugins.trackers._sqlite import SqliteTracker

    retry_quarantined(str(complete))
    tracker = SqliteTracker(str(tmp_path / "runs"))
    with client.use(tracker):
        found = list(tracker.iter_metrics(run_id="x", group="validation"))
    assert [record.steps_completed for record in found] == [32, 38]
    assert found[0].metrics != found[1].metrics


def test_a_run_without_failures_is_left_as_it_is(make_request, tmp_path):
    run(make_request("x"))
    before = files_below(tmp_path / "runs/x")
    assert retry_quarantined(str(tmp_path / "runs/x")).complete
    assert files_below(tmp_path / "runs/x") == before


def test_a_run_that_is_not_complete_has_to_be_resumed_first(make_request, tmp_path):
    run(make_request("x", callbacks={"stop": Selection("", instance=StopAtOnce())}))
    with pytest.raises(ConfigError, match=r"is not complete.*batchmill resume .*runs/x"):
        retry_quarantined(str(tmp_path / "runs/x"))
