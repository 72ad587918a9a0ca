from pathlib import Path

import pytest

from batchmill.checkpoints import add_checkpoint
from batchmill.contracts.tracked_records import MetricsRecord, RunRecord
from batchmill.errors import ModelError
from batchmill.models import Model
from batchmill.tracked_runs import TrackedRun, find_run
from batchmill_plugins.trackers._sqlite import SqliteTracker

RECORDS = [
    RunRecord("nightly", "/data/runs/nightly"),
    RunRecord("remote", "s3://bucket/runs/remote"),
    RunRecord("renamed", "/data/runs/other"),
    RunRecord("unplaced"),
]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("nightly", "nightly"),
        ("/data/runs/nightly", "nightly"),
        ("/data/runs/nightly/", "nightly"),
        (Path("/data/runs/nightly"), "nightly"),
        ("/data/runs/../runs/other", "renamed"),
        ("s3://bucket/runs/remote", "remote"),
        ("s3://bucket/runs/remote/", "remote"),
        ("unplaced", "unplaced"),
        ("anywhere/unplaced", "unplaced"),
        ("s3://bucket/unplaced", "unplaced"),
    ],
)
def test_a_run_is_found_by_id_directory_or_url(asked, found):
    assert find_run(RECORDS, asked).run_id == found


def test_a_relative_directory_is_one_below_the_working_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert find_run([RunRecord("a", str(tmp_path / "runs" / "x"))], "runs/x").run_id == "a"
    assert find_run([RunRecord("a", "runs/x")], tmp_path / "runs" / "x").run_id == "a"


@pytest.mark.parametrize("asked", ["nigthly", "/elsewhere/nightly", "s3://other/runs/remote", "", "/", "runs/"])
def test_a_run_that_is_not_there_lists_those_that_are(asked):
    with pytest.raises(ModelError, match=r"knows no run .*Available: nightly, remote, renamed, unplaced\..*--rebuild"):
        find_run(RECORDS, asked)


def test_a_misspelt_run_gets_a_hint():
    for asked in ("nigthly", "/data/runs/nigthly"):
        with pytest.raises(ModelError, match="Did you mean 'nightly'"):
            find_run(RECORDS, asked)
    with pytest.raises(ModelError, match=r"Available: none\."):
        find_run([], "nightly")
    with pytest.raises(ModelError, match="and earlier ones"):
        find_run([RunRecord(f"run{number:02}") for number in range(11)], "x")
    with pytest.raises(ModelError, match="but None was given"):
        find_run(RECORDS, None)


def test_a_run_tells_what_it_used_and_reported(tmp_path):
    tracker = SqliteTracker(str(tmp_path / "runs"))
    (tmp_path / "w1").write_bytes(b"1")
    (tmp_path / "w2").write_bytes(b"2")
    model = Model(tracker, tracker.create_model("digits", "", {}, []))
    version = model.register_version(tmp_path / "w1")
    loose = add_checkpoint(tracker, tmp_path / "w2", {})
    for checkpoint, name, number in ((version.checkpoint, "digits", 1), (version.checkpoint, None, None)):
        tracker.link_run("run", "/runs/run", checkpoint.uuid, name, number)
    tracker.link_run("run", "/runs/run", loose.uuid, None, None)
    for run in ("run", "other"):
        for group in ("inference", "validation"):
            tracker.report(MetricsRecord(run, group, 0, {"m": 1}, "t"))
    other, found = (TrackedRun(tracker, record) for record in tracker.list_runs())
    assert (found.run_id, found.path) == ("run", "/runs/run")
    assert {checkpoint.uuid for checkpoint in found.checkpoints} == {version.checkpoint.uuid, loose.uuid}
    assert len(found.checkpoints) == 2
    assert [(used.model_name, used.version) for used in found.model_versions] == [("digits", 1)]
    assert found.get_metrics("validation") == [MetricsRecord("run", "validation", 0, {"m": 1}, "t")]
    assert [record.group for record in found.iter_metrics()] == ["inference", "validation"]
    assert repr(found) == "TrackedRun('run', path='/runs/run')"
    assert (other.run_id, other.path, other.checkpoints, other.model_versions) == ("other", None, [], [])
