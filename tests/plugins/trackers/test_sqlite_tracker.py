import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from batchmill.components import Kind
from batchmill.contracts.tracked_changes import CheckpointChanges, VersionChanges
from batchmill.contracts.tracked_records import MetricsRecord
from batchmill.errors import ModelError, StorageError
from batchmill.plugin_manager import get_catalog
from batchmill.testing.tracker_suite import TrackerSuite
from batchmill_plugins.trackers import _ledger
from batchmill_plugins.trackers._sqlite import SqliteTracker

TIME = "2026-01-01T00:00:00.000000+00:00"


class TestSqliteTracker(TrackerSuite):
    def make_tracker(self, tmp_path):
        return SqliteTracker(str(tmp_path / "runs"))


@pytest.fixture
def start():
    """Start processes with a ``tracker`` on the first argument; none outlives the test."""
    started = []
    opening = """
import sys
from batchmill import MetricsRecord
from batchmill_plugins.trackers._sqlite import SqliteTracker
tracker, me = SqliteTracker(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
"""

    def run(code, *arguments):
        process = subprocess.Popen(
            [sys.executable, "-c", opening + code, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def begin(*processes):
    """Wait until all are ready, then let them go at once."""
    for process in processes:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()


@pytest.mark.parametrize("steps", [50, pytest.param(1000, marks=pytest.mark.campaign)])
def test_eight_processes_open_a_fresh_ledger_and_report_at_once(tmp_path, start, steps):
    code = """
for step in range(int(sys.argv[3])):
    tracker.report(MetricsRecord("run", "inference", step, {"m": step, "who": me}, "t", me))
"""
    processes = [start(code, tmp_path, me, steps) for me in range(8)]
    begin(*processes)
    for process in processes:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
    found = list(SqliteTracker(str(tmp_path)).iter_metrics())
    assert [(record.steps_completed, record.rank) for record in found] == [
        (step, me) for step in range(steps) for me in range(8)
    ]
    assert all(record.metrics == {"m": record.steps_completed, "who": record.rank} for record in found)
    assert sorted(os.listdir(tmp_path)) == ["batchmill.sqlite"], "the last one to leave tidies up"


def test_a_new_file_that_another_process_is_setting_up_is_waited_for(tmp_path):
    """SQLite itself does not wait when a file is switched to WAL; eight processes at once meet this in practice."""
    (tmp_path / "batchmill.sqlite").touch()
    other = sqlite3.connect(tmp_path / "batchmill.sqlite", check_same_thread=False, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.3, other.close)
    timer.start()
    SqliteTracker(str(tmp_path)).create_model("m", "", {}, [])
    timer.join()
    assert [model.name for model in SqliteTracker(str(tmp_path)).list_models()] == ["m"]


def test_eight_processes_register_versions_of_one_model_at_once(tmp_path, start):
    code = """
for number in range(10):
    checkpoint = tracker.add_checkpoint(f"/weights/{me}/{number}", "d", {}, {})
    print(tracker.register_version("m", checkpoint.uuid, "", "", []).version)
"""
    SqliteTracker(str(tmp_path)).create_model("m", "", {}, [])
    processes = [start(code, tmp_path, me) for me in range(8)]
    begin(*processes)
    answers = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, answers
    assert sorted(int(line) for output, _ in answers for line in output.split()) == list(range(1, 81))


def test_processes_add_metadata_to_one_version_at_once(tmp_path, start):
    code = """
from batchmill import VersionChanges
for number in range(10):
    tracker.update_version("m", 1, VersionChanges(add_metadata={f"{me}-{number}": number, "last": me}))
    tracker.update_version("m", 1, VersionChanges(remove_metadata=(f"{me}-{number - 1}",)))
"""
    tracker = SqliteTracker(str(tmp_path))
    tracker.create_model("m", "", {}, [])
    tracker.register_version("m", tracker.add_checkpoint("/weights", "d", {}, {}).uuid, "", "", [])
    processes = [start(code, tmp_path, me) for me in range(4)]
    begin(*processes)
    answers = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, answers
    metadata = dict(tracker.get_versions("m")[0].metadata)
    assert metadata.pop("last") in range(4)
    assert metadata == {f"{me}-9": 9 for me in range(4)}


def test_a_killed_writer_loses_and_doubles_nothing(tmp_path, start):
    """SIGKILL at changing moments, from the first creation of the file on; what was acknowledged is there."""
    code = """
import itertools
for step in itertools.count():
    tracker.report(MetricsRecord(f"run{me}", "g", step, {"a": step, "b": -step}, "t"))
    print(step, flush=True)
"""
    acknowledged = {}
    for attempt in range(12):
        process = start(code, tmp_path, attempt)
        begin(process)
        time.sleep(0.004 * attempt)
        process.send_signal(signal.SIGKILL)
        lines = process.communicate()[0].split()
        assert process.returncode == -signal.SIGKILL
        acknowledged[f"run{attempt}"] = len(lines)
    assert sum(acknowledged.values()) > 20, "the kills came too early to show anything"
    tracker = SqliteTracker(str(tmp_path))
    for run, count in acknowledged.items():
        found = list(tracker.iter_metrics(run_id=run))
        assert count <= len(found) <= count + 1, "at most the report that was under way is there besides"
        assert [record.metrics for record in found] == [{"a": n, "b": -n} for n in range(len(found))]
    first = next(tracker.iter_metrics())
    tracker.report(first)
    assert next(tracker.iter_metrics()) == first
    with sqlite3.connect(tmp_path / "batchmill.sqlite") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_a_fork_after_use_is_harmless(tmp_path):
    tracker = SqliteTracker(str(tmp_path))
    tracker.report(MetricsRecord("run", "g", 0, {"m": 0}, TIME))
    reading = tracker.iter_metrics()
    next(reading)
    child = os.fork()
    if child == 0:
        try:
            tracker.report(MetricsRecord("run", "g", 1, {"m": 1}, TIME))
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert list(reading) == []
    assert [record.metrics["m"] for record in tracker.iter_metrics()] == [0, 1]


def test_commits_are_durable_and_readers_do_not_block(tmp_path):
    ledger = _ledger.Ledger(tmp_path / "deep" / "er" / "x.sqlite")
    with ledger.writing() as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert connection.execute("PRAGMA foreign_keys").fetchone() == (1,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA busy_timeout").fetchone() == (60_000,)
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)
        with ledger.reading() as other:
            assert other is None, "not committed yet"
    with ledger.reading() as connection:
        assert connection is not None


def test_an_interrupted_transaction_is_undone(tmp_path):
    ledger = _ledger.Ledger(tmp_path / "x.sqlite")
    insert = "INSERT INTO metric VALUES ('run', 'g', 0, 0, ?, '1', 't')"
    with ledger.writing() as connection:
        connection.execute(insert, ("kept",))
    with pytest.raises(KeyboardInterrupt), ledger.writing() as connection:
        connection.execute(insert, ("dropped",))
        raise KeyboardInterrupt
    with ledger.reading() as connection:
        assert connection.execute("SELECT name FROM metric").fetchall() == [("kept",)]


def test_an_empty_file_is_an_empty_ledger(tmp_path):
    """As a writer leaves it that is killed before its first commit."""
    (tmp_path / "batchmill.sqlite").touch()
    tracker = SqliteTracker(str(tmp_path))
    assert tracker.list_models() == []
    tracker.create_model("m", "", {}, [])
    assert [model.name for model in tracker.list_models()] == ["m"]


def test_a_file_of_something_else_is_named_and_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a database " * 100)
    tracker = SqliteTracker(str(tmp_path), path=str(path))
    for operation in (tracker.list_models, lambda: tracker.create_model("m", "", {}, [])):
        with pytest.raises(StorageError, match=r"notes\.txt.*not a database.*tracker\.path"):
            operation()
    assert path.read_text() == "not a database " * 100


def test_a_ledger_of_a_newer_version_is_refused(tmp_path):
    tracker = SqliteTracker(str(tmp_path))
    tracker.create_model("m", "", {}, [])
    with sqlite3.connect(tmp_path / "batchmill.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    for operation in (tracker.list_models, lambda: tracker.create_model("n", "", {}, [])):
        with pytest.raises(StorageError, match=r"format 99.*Upgrade"):
            operation()


@pytest.fixture
def old_ledger(tmp_path):
    """A ledger of format 1, with a model, a version and metrics."""
    tracker = SqliteTracker(str(tmp_path))
    with sqlite3.connect(tmp_path / "batchmill.sqlite") as connection:
        for statement in _ledger._STEPS[0].split(";"):
            connection.execute(statement)
        insert = "INSERT INTO checkpoint (uuid, location, digest, files, metadata, created) VALUES (?, ?, ?, ?, ?, ?)"
        connection.execute(insert, ("u", "/w", "d", "{}", '{"epoch":1}', TIME))
        connection.execute("INSERT INTO model VALUES ('m', '', '{}', '[]', 0, ?)", (TIME,))
        insert = "INSERT INTO model_version (model_name, version, checkpoint_uuid, name, comment, labels, created)"
        connection.execute(f"{insert} VALUES ('m', 1, 'u', 'n', '', '[]', ?)", (TIME,))
        connection.execute("INSERT INTO run_link VALUES ('run', 'u', 'm', 1, 'runs/run')")
        connection.execute("INSERT INTO metric VALUES ('run', 'g', 0, 0, 'm', '1', ?)", (TIME,))
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    return tracker


def test_an_older_ledger_is_brought_up_to_date_by_the_first_who_reads_it(old_ledger, tmp_path):
    (version,) = old_ledger.get_versions("m")
    assert (version.name, version.checkpoint.metadata) == ("n", {"epoch": 1})
    assert [record.metrics for record in old_ledger.iter_metrics(model_name="m", version=1)] == [{"m": 1}]
    changed = old_ledger.update_version("m", 1, VersionChanges(name="x"))
    assert old_ledger.register_version("m", "u", "n", "", []) == changed
    with sqlite3.connect(tmp_path / "batchmill.sqlite") as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (_ledger.SCHEMA_VERSION,)
    connection.close()


def test_an_older_ledger_is_brought_up_to_date_by_the_first_who_writes_to_it(old_ledger):
    changed = old_ledger.update_checkpoint("u", CheckpointChanges(add_metadata={"lr": 0.1}))
    assert changed.metadata == {"epoch": 1, "lr": 0.1}
    assert old_ledger.add_checkpoint("/w", "d", {}, {"epoch": 1}) == changed


def test_processes_bring_an_older_ledger_up_to_date_at_once(old_ledger, tmp_path, start):
    code = "print(tracker.list_models()[0].name, tracker.list_runs()[0].run_id)"
    processes = [start(code, tmp_path, me) for me in range(4)]
    begin(*processes)
    answers = [process.communicate(timeout=60) for process in processes]
    assert [output for output, _ in answers] == ["m run\n"] * 4, answers


def test_many_reports_are_stored_all_or_none(tmp_path):
    tracker = SqliteTracker(str(tmp_path))
    tracker.report(MetricsRecord("run", "g", 2, {"m": 2}, TIME))
    records = [MetricsRecord("run", "g", step, {"m": -step}, TIME) for step in range(4)]
    with pytest.raises(ModelError, match="at step 2"):
        tracker.report_all(records)
    assert [record.metrics for record in tracker.iter_metrics()] == [{"m": 2}]


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file/runs/batchmill\.sqlite.*tracker\.path"):
        SqliteTracker(str(tmp_path / "file" / "runs")).create_model("m", "", {}, [])


def test_a_full_disk_is_named_and_leaves_what_was_there(tmp_path, monkeypatch):
    tracker = SqliteTracker(str(tmp_path))
    tracker.report(MetricsRecord("run", "g", 0, {"m": 0}, TIME))
    connect = _ledger.Ledger._connect

    def connect_small(ledger, mode):
        connection = connect(ledger, mode)
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(_ledger.Ledger, "_connect", connect_small)
        with pytest.raises(StorageError, match="full"):
            tracker.report(MetricsRecord("run", "g", 1, {"m": "x" * 1_000_000}, TIME))
    tracker.report(MetricsRecord("run", "g", 2, {"m": 2}, TIME))
    assert [record.steps_completed for record in tracker.iter_metrics()] == [0, 2]


def test_values_json_does_not_have_are_never_stored(tmp_path):
    tracker = SqliteTracker(str(tmp_path))
    with pytest.raises(ValueError, match="JSON"):
        tracker.report(MetricsRecord("run", "g", 0, {"ok": 1, "bad": float("nan")}, TIME))
    assert list(tracker.iter_metrics()) == []


def test_odd_characters_in_the_path_are_no_part_of_a_uri(tmp_path):
    folder = tmp_path / "a?mode=memory#b%20c 'd'"
    SqliteTracker(str(folder)).create_model("m", "", {}, [])
    assert os.listdir(folder) == ["batchmill.sqlite"]
    assert [model.name for model in SqliteTracker(str(folder)).list_models()] == ["m"]


def test_hostile_names_are_values_not_code(tmp_path):
    tracker = SqliteTracker(str(tmp_path))
    name = "'); DROP TABLE metric; --"
    tracker.report(MetricsRecord(name, name, 0, {name: name}, TIME))
    assert [record.metrics for record in tracker.iter_metrics(run_id=name, group=name)] == [{name: name}]
    with pytest.raises(ModelError, match="Available: none"):
        tracker.get_model(name)


def test_it_is_registered_and_light():
    component = get_catalog().registry.get(Kind.TRACKER, "sqlite")
    assert component.schema().path == ""
    field = component.schema.__dataclass_fields__["path"]
    assert field.metadata["fingerprint"] is False
    code = (
        "import sys, batchmill_plugins.trackers as t; from batchmill.components import ComponentRegistry; "
        "r = ComponentRegistry(); t.register_components(r); print('sqlite3' in sys.modules); "
        "from batchmill import client; client.list_models(); "
        "print(sorted({'torch', 'numpy', 'pyarrow', 'obstore'} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output == "False\n[]\n"
