"""The ledger is filled again from real runs, on each kind of storage, and equals the one that was lost."""

import json
import shutil
import sqlite3
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from batchmill import MetricsRecord, RunRequest, Selection, client, hookimpl, ledger_rebuild, run
from batchmill.engine.assembly import Assembler, open_storage
from batchmill.engine.retry_view import begin_retry
from batchmill.engine.serialization import canonical_json, seal, sha256_hex
from batchmill.errors import StorageError
from batchmill.ledger_rebuild import rebuild_ledger
from batchmill.plugin_manager import get_catalog
from batchmill_plugins.storage._local import LocalStorage
from batchmill_plugins.trackers._sqlite import SqliteTracker

JOB = """
    from pathlib import Path
    import batchmill

    class Reporting(batchmill.TorchBatchProcessor):
        def __init__(self, context):
            self.context = context
            self.total = context.wrap_reducer(batchmill.Reducer.SUM, "total")
            context.report_metrics("start", 0, {"width": 1e-5})

        def process_batch(self, batch, batch_idx):
            self.context.report_metrics("seen", batch_idx, {"rows": 5, "nested": {"a": [1, 2.5]}})
            if 7 in batch["x"].tolist() and Path("broken").exists():
                raise ValueError("seven")
            self.total.update(batch["x"].sum().item())
            return {"x": batch["x"]}

        def on_finish(self):
            self.context.report_metrics("end", 1, {"fine": True})
"""
OBJECT_STORE = "batchmill_plugins.storage._object_store:ObjectStorage"


class StopAfter:
    def __init__(self, checkpoints):
        self.left = checkpoints

    @hookimpl
    def should_stop(self):
        self.left -= 1
        return "enough" if self.left == 0 else None


def request(output, run_id, **changes):
    made = RunRequest(
        Selection("ledger_job:Reporting"),
        Selection("jsonl", {"path": "numbers.jsonl"}),
        launcher=Selection("in_process"),
        output=str(output),
        run_id=run_id,
        batch_size=5,
        checkpoint_interval=1,
        allow_import=True,
        model_name="digits",
        model_version=1,
    )
    return replace(made, **changes)


def register(tracker):
    with client.use(tracker):
        return client.create_model("digits").register_version("weights", labels=["production"])


def opened(url, selection=None):
    return open_storage(Assembler(get_catalog().registry, allow_import=True), url, selection)


def make_runs(output, tracker, **changes):
    """A complete run, one that was stopped, one that was tried again, and one without a model."""
    register(tracker)
    assert run(request(output, "complete", **changes)).complete
    stop = {"stop": Selection("", instance=StopAfter(2))}
    assert not run(request(output, "stopped", callbacks=stop, **changes)).complete
    Path("broken").touch()
    assert run(request(output, "retried", **changes)).quarantined == 1
    Path("broken").unlink()
    begin_retry(opened(f"{output}/retried", changes.get("storage")), 1, [1])
    assert run(request(output, "retried", **changes)).quarantined == 0
    assert run(request(output, "free", model_name=None, model_version=None, **changes)).complete


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A working directory with runs, and a copy of them."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "ledger_job.py").write_text(textwrap.dedent(JOB))
    (folder / "numbers.jsonl").write_text("".join(json.dumps({"x": i}) + "\n" for i in range(20)))
    (folder / "weights").write_bytes(b"weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [str(folder), *sys.path])
        make_runs("runs", SqliteTracker("runs"))
    (folder / "runs").rename(folder / "copy")
    yield folder
    sys.modules.pop("ledger_job", None)


@pytest.fixture
def place(made, monkeypatch):
    """That directory, without runs."""
    shutil.rmtree(made / "runs", ignore_errors=True)
    (made / "weights").write_bytes(b"weights")
    monkeypatch.chdir(made)
    monkeypatch.setattr(sys, "path", [str(made), *sys.path])
    return made


@pytest.fixture
def tracker(place):
    return SqliteTracker("runs")


@pytest.fixture
def runs(place):
    """The runs, where they were made; they may be changed."""
    shutil.copytree(place / "copy", place / "runs")
    return Path("runs")


def contents(tracker):
    return tracker.list_runs(), list(tracker.iter_metrics())


def forget(tracker):
    """Empty the ledger but for its models."""
    connection = sqlite3.connect(tracker._ledger.path)
    with connection:
        connection.execute("DELETE FROM metric")
        connection.execute("DELETE FROM run_link")
    connection.close()
    assert contents(tracker) == ([], [])


def damage(path):
    data = path.read_bytes()
    path.write_bytes(data[:-20] + b"x" + data[-19:])


def test_a_ledger_that_was_emptied_is_as_it_was(runs, tracker):
    before = contents(tracker)
    steps = [
        record.steps_completed for record in before[1] if (record.run_id, record.group) == ("retried", "validation")
    ]
    assert steps == [4, 5], "the result before the retry, and the one after it"
    assert {record.group for record in before[1] if record.run_id == "stopped"} == {"start", "seen"}
    forget(tracker)
    report = rebuild_ledger("runs", tracker)
    assert contents(tracker) == before
    assert (report.runs, report.exit_code) == (["complete", "free", "retried", "stopped"], 0)
    assert (report.links, report.skipped, report.unlinked) == (3, {}, {})
    assert report.reports == len(before[1]) + 1, "the retry's chunk reports the same once more"
    assert rebuild_ledger("runs", tracker) == report
    assert contents(tracker) == before, "repeating it changes nothing"
    json.dumps(report.to_json())


def test_what_the_tracker_knows_besides_stays(runs, tracker):
    tracker.report(MetricsRecord("deleted", "validation", 0, {"m": 1}, "t"))
    before = contents(tracker)
    shutil.rmtree(runs / "stopped")
    assert rebuild_ledger("runs", tracker).exit_code == 0
    assert contents(tracker) == before


def test_a_retry_that_is_not_complete_counts_too(runs, tracker):
    forget(tracker)
    begin_retry(opened("runs/complete"), 1, [0, 2])
    stop = {"stop": Selection("", instance=StopAfter(1))}
    assert not run(request("runs", "complete", callbacks=stop)).complete
    record = next((runs / "complete/retries/0001/commits").iterdir())
    document = json.loads(record.read_bytes())
    document.pop("sha256")
    document["reports"].append({**document["reports"][0], "group": "retried"})
    record.write_bytes(seal(document))
    forget(tracker)
    assert rebuild_ledger("runs", tracker).exit_code == 0
    groups = [each.group for each in tracker.iter_metrics(run_id="complete")]
    assert groups.count("retried") == 1
    assert groups.count("seen") == 4 and groups.count("validation") == 1


def test_models_that_were_registered_again_are_linked_by_their_files(runs, tracker):
    metrics = list(tracker.iter_metrics(model_name="digits", version=1))
    (runs / "batchmill.sqlite").unlink()
    report = rebuild_ledger("runs", tracker)
    assert (report.exit_code, report.links, len(report.runs)) == (0, 0, 4)
    assert set(report.unlinked) == {str(runs / name) for name in ("complete", "retried", "stopped")}
    for (reason,) in report.unlinked.values():
        assert reason.startswith("It used version 1 of model 'digits' (checkpoint ")
        assert "There is no model named 'digits'" in reason
    assert list(tracker.iter_metrics(run_id="complete")) != []
    version = register(tracker)
    report = rebuild_ledger("runs", tracker)
    assert (report.exit_code, report.links, report.unlinked) == (0, 3, {})
    assert list(tracker.iter_metrics(model_name="digits", version=1)) == metrics
    assert list(tracker.iter_metrics(checkpoint_uuid=version.checkpoint.uuid)) == metrics


def test_a_version_with_other_files_is_not_taken_for_the_one_that_was_used(runs, place, tracker):
    (runs / "batchmill.sqlite").unlink()
    (place / "weights").write_bytes(b"others")
    register(tracker)
    report = rebuild_ledger("runs", tracker)
    assert (report.links, len(report.unlinked)) == (0, 3)
    assert list(tracker.iter_metrics(model_name="digits")) == []


@pytest.mark.parametrize(
    "path",
    [
        "run.json",
        "commits/00000002.json",
        "result.json",
        "reports",
        "links",
        "retries/0001/retry.json",
        "retries/commit",
    ],
)
def test_a_damaged_run_is_left_out_and_the_others_are_restored(runs, tracker, path):
    before = [record for record in contents(tracker)[1] if record.run_id != "retried"]
    forget(tracker)
    file = runs / "retried" / path
    if path in ("reports", "links"):
        file = min(file.iterdir())
    elif path == "retries/commit":
        (file,) = (runs / "retried/retries/0001/commits").iterdir()
    damage(file)
    report = rebuild_ledger("runs", tracker)
    assert (list(report.skipped), report.exit_code) == ([str(runs / "retried")], 65)
    assert "damaged" in report.skipped[str(runs / "retried")]
    assert report.runs == ["complete", "free", "stopped"]
    assert contents(tracker)[1] == before
    assert "retried" not in [record.run_id for record in tracker.list_runs()]


def sealed_report(**changes):
    report = {"group": "seen", "steps_completed": 0, "metrics": {"forged": 1}, "rank": 0, "time": "t"}
    return {key: value for key, value in {**report, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    "reports",
    [
        [sealed_report(rank=-1)],
        [sealed_report(rank=2**63)],
        [sealed_report(steps_completed=2**63)],
        [sealed_report(group="a/b")],
        [sealed_report(time=3)],
        [sealed_report(metrics=[])],
        [sealed_report(metrics=3)],
        [sealed_report(time=None)],
        ["report"],
        3,
    ],
)
def test_records_that_somebody_else_sealed_are_damage(runs, tracker, reports):
    forget(tracker)
    record = runs / "complete" / "commits" / "00000000.json"
    document = json.loads(record.read_bytes())
    document.pop("sha256")
    record.write_bytes(seal({**document, "reports": reports}))
    report = rebuild_ledger("runs", tracker)
    assert (list(report.skipped), report.exit_code) == ([str(runs / "complete")], 65)
    assert list(tracker.iter_metrics(run_id="complete")) == []


@pytest.mark.parametrize("link", [{}, [], {"checkpoint": 1, "model": None, "version": None}, None])
def test_links_that_are_none_are_damage(runs, tracker, link):
    data = canonical_json(link)
    (runs / "complete" / "links" / f"{sha256_hex(data)[:16]}.json").write_bytes(data)
    report = rebuild_ledger("runs", tracker)
    assert (list(report.skipped), report.exit_code) == ([str(runs / "complete")], 65)


def test_a_copy_of_a_run_is_not_taken_for_the_run(runs, tracker):
    shutil.copytree(runs / "complete", runs / "a-copy")
    before = contents(tracker)
    forget(tracker)
    report = rebuild_ledger("runs", tracker)
    assert list(report.skipped) == [str(runs / "a-copy")]
    assert "holds run 'complete'" in report.skipped[str(runs / "a-copy")]
    assert contents(tracker) == before, "the path is the original's too"


def test_a_run_that_contradicts_the_tracker_is_told(runs, tracker):
    forget(tracker)
    tracker.report(MetricsRecord("complete", "seen", 1, {"rows": 6}, "t"))
    report = rebuild_ledger("runs", tracker)
    assert (list(report.skipped), report.exit_code) == ([str(runs / "complete")], 65)
    assert "'rows' of group 'seen' at step 1" in report.skipped[str(runs / "complete")]
    assert len(list(tracker.iter_metrics(run_id="complete"))) == 1


def test_storage_that_cannot_be_read_hides_no_other_run(runs, tracker, monkeypatch):
    get = LocalStorage.get

    def failing(storage, path):
        if "complete" in storage.url:
            raise StorageError(f"{storage.url}/{path}: permission denied")
        return get(storage, path)

    forget(tracker)
    monkeypatch.setattr(LocalStorage, "get", failing)
    monkeypatch.setattr("batchmill.engine.retries._FIRST_DELAY", 0.0)
    report = rebuild_ledger("runs", tracker)
    assert (list(report.skipped), report.exit_code) == ([str(runs / "complete")], 74)
    assert report.runs == ["free", "retried", "stopped"]


def test_nothing_is_made_where_no_runs_are(place, tracker):
    (place / "runs" / "no-run").mkdir(parents=True)
    report = rebuild_ledger("runs", tracker)
    assert (report.runs, report.skipped, report.exit_code) == ([], {}, 0)
    assert not (place / "runs" / "batchmill.sqlite").exists()
    assert rebuild_ledger(str(place / "absent"), tracker) == report
    assert not (place / "absent").exists()


def test_runs_in_memory(place):
    output = "memory://test-ledger-rebuild/runs"
    tracker = SqliteTracker(output)
    make_runs(output, tracker, storage=Selection("memory"))
    before = contents(tracker)
    forget(tracker)
    assert rebuild_ledger(output, tracker).links == 3
    assert contents(tracker) == before


def test_runs_in_an_object_store(place, monkeypatch):
    output = (place / "store").as_uri()
    tracker = SqliteTracker(output)
    make_runs(output, tracker, storage=Selection(OBJECT_STORE))
    before = contents(tracker)
    forget(tracker)
    # The scheme of this URL means plain files; the code that reads objects is the same for all stores.
    used = []

    def open_object_store(_, url):
        used.append(opened(url, Selection(OBJECT_STORE)))
        return used[-1]

    monkeypatch.setattr(ledger_rebuild, "open_storage", open_object_store)
    report = rebuild_ledger(output, tracker)
    assert (report.runs, report.links) == (["complete", "free", "retried", "stopped"], 3)
    assert {type(storage).__name__ for storage in used} == {"ObjectStorage"}
    assert contents(tracker) == before
