import os
import subprocess
import sys
from pathlib import Path

import pytest

from batchmill_plugins.trackers._ledger_path import ledger_path
from batchmill_plugins.trackers._sqlite import SqliteTracker


def test_it_lies_beside_the_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ledger_path("runs", "") == tmp_path / "runs" / "batchmill.sqlite"
    assert ledger_path(str(tmp_path), "") == tmp_path / "batchmill.sqlite"
    assert ledger_path("file:///data/my%20runs", "") == Path("/data/my runs/batchmill.sqlite")


def test_a_path_that_was_given_counts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert ledger_path("s3://bucket", "own.db") == tmp_path / "own.db"
    assert ledger_path("runs", "~/own.db") == Path("/home/someone/own.db")


def test_a_relative_place_stays_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tracker = SqliteTracker("runs")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    tracker.create_model("m", "", {}, [])
    assert (tmp_path / "runs" / "batchmill.sqlite").exists()


@pytest.mark.parametrize("url", ["s3://bucket/team/runs", "gs://b", "az://c/x", "memory://t"])
def test_a_url_has_one_database_on_this_machine(tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    environ = {"XDG_DATA_HOME": str(tmp_path / "data")}
    path = ledger_path(url, "", environ)
    assert path == ledger_path(f"{url}/", "", environ), "a trailing slash is the same output"
    assert path != ledger_path(f"{url}-2", "", environ)
    assert path.is_absolute() and path.name == "batchmill.sqlite"
    in_data_home = path.is_relative_to(tmp_path / "data" / "batchmill")
    assert in_data_home == (not url.startswith("memory"))
    assert not os.listdir(tmp_path)


def test_urls_that_read_alike_are_kept_apart():
    environ = {"XDG_DATA_HOME": "/data"}
    paths = {ledger_path(url, "", environ) for url in ("s3://a/b", "s3://a-b", "gs://a/b", "s3://a//b", "s3://a.b")}
    assert len(paths) == 5


@pytest.mark.parametrize("given", [None, "", "relative/data"])
def test_the_data_home_is_the_users_by_default(monkeypatch, given):
    monkeypatch.setenv("HOME", "/home/someone")
    environ = {} if given is None else {"XDG_DATA_HOME": given}
    assert ledger_path("s3://b", "", environ).is_relative_to("/home/someone/.local/share/batchmill")


def test_the_database_of_an_output_in_memory_goes_with_the_process():
    code = (
        "import os; from batchmill_plugins.trackers._sqlite import SqliteTracker; "
        "t = SqliteTracker('memory://x'); t.create_model('m', '', {}, []); "
        "assert SqliteTracker('memory://x').get_model('m'); "
        "assert not SqliteTracker('memory://y').list_models(); "
        "print(t._ledger.path)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    path = Path(output.strip())
    assert path.name == "batchmill.sqlite"
    assert not path.parent.parent.exists()
