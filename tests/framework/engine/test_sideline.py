import json

import pytest
import torch

from batchmill import ModelError, OutputError
from batchmill.engine.run_directory import LINKS, REPORTS
from batchmill.engine.sideline import Sideline

pytestmark = pytest.mark.usefixtures("quick_retries")


class Tracker:
    """Keeps what it is told."""

    def __init__(self):
        self.reports, self.links = [], []

    def report(self, record):
        self.reports.append((record.run_id, record.group, record.steps_completed, dict(record.metrics), record.rank))

    def link_run(self, *link):
        self.links.append(link)


@pytest.fixture
def tracker():
    return Tracker()


@pytest.fixture
def announced():
    return []


@pytest.fixture
def sideline(storage, tracker, announced):
    return Sideline(storage, tracker, "digits", 2, lambda *told: announced.append(told))


def documents(storage, folder):
    return [json.loads(storage.get(path)) for path in storage.paths(folder)]


def test_reports_of_a_chunk_wait_for_it(sideline, storage, tracker, announced):
    sideline.open_chunk()
    sideline.report("train", 3, {"loss": torch.tensor(0.5)})
    sideline.report("train", 4, {"loss": 0.25})
    assert (tracker.reports, announced, storage.paths()) == ([], [], [])
    files, reports = sideline.close_chunk()
    assert files == {}
    assert [(item["group"], item["steps_completed"], item["metrics"], item["rank"]) for item in reports] == [
        ("train", 3, {"loss": 0.5}, 2),
        ("train", 4, {"loss": 0.25}, 2),
    ]
    sideline.deliver(reports)
    assert tracker.reports == [("digits", "train", 3, {"loss": 0.5}, 2), ("digits", "train", 4, {"loss": 0.25}, 2)]
    assert announced == [("train", 3, {"loss": 0.5}), ("train", 4, {"loss": 0.25})]


def test_reports_outside_of_chunks_are_stored_at_once(sideline, storage, tracker, announced):
    sideline.report("setup", 0, {"seconds": 1.5})
    assert tracker.reports == [("digits", "setup", 0, {"seconds": 1.5}, 2)]
    assert announced == [("setup", 0, {"seconds": 1.5})]
    (stored,) = documents(storage, REPORTS)
    assert (stored["group"], stored["metrics"], stored["rank"]) == ("setup", {"seconds": 1.5}, 2)


def test_a_report_of_an_earlier_launch_stands(sideline, storage, tracker):
    sideline.report("setup", 0, {"seconds": 1.5})
    resumed = Sideline(storage, tracker, "digits", 2, lambda *told: None)
    with pytest.warns(UserWarning, match=r"'setup' at step 0 were reported by an earlier launch of run digits"):
        resumed.report("setup", 0, {"seconds": 2.5})
    assert {str(report) for report in tracker.reports} == {str(("digits", "setup", 0, {"seconds": 1.5}, 2))}
    same = Sideline(storage, tracker, "digits", 2, lambda *told: None)
    same.report("setup", 0, {"seconds": 1.5})
    assert len(documents(storage, REPORTS)) == 1


def test_a_group_and_step_may_not_repeat_a_metric(sideline):
    sideline.report("g", 1, {"a": 1})
    sideline.report("g", 1, {"b": 1})
    sideline.report("g", 2, {"a": 1})
    sideline.open_chunk()
    with pytest.raises(ModelError, match="Metrics a were reported before for group 'g' at step 1"):
        sideline.report("g", 1, {"a": 1, "c": 2})
    sideline.report("g", 1, {"c": 2})


def test_a_dropped_chunk_leaves_no_trace(sideline, storage):
    sideline.report("g", 1, {"before": 1})
    sideline.open_chunk()
    sideline.report("g", 1, {"dropped": 1})
    sideline.report("h", 1, {"dropped": 1})
    sideline.add_files({"f": b"dropped"})
    sideline.drop_chunk()
    sideline.open_chunk()
    sideline.report("g", 1, {"dropped": 2})
    sideline.report("h", 1, {"dropped": 2})
    sideline.add_files({"f": b"again"})
    with pytest.raises(ModelError, match="before"):
        sideline.report("g", 1, {"before": 2})
    files, reports = sideline.close_chunk()
    assert files == {"f": b"again"}
    assert [report["metrics"] for report in reports] == [{"dropped": 2}, {"dropped": 2}]
    assert storage.paths("files") == []


@pytest.mark.parametrize(
    ("group", "steps", "metrics", "message"),
    [
        ("a.b", 0, {"m": 1}, "must not contain"),
        ("", 0, {"m": 1}, "1 to 100 characters"),
        ("g", -1, {"m": 1}, "expected 0 or more"),
        ("g", 1.5, {"m": 1}, "expected an int"),
        ("g", 0, {}, "at least one metric"),
        ("g", 0, {"m": None}, "'m' of group 'g' is None"),
        ("g", 0, {"m": float("nan")}, "only finite numbers"),
        ("g", 0, {"m": object()}, "expected a finite number"),
        ("g", 0, {"m": b"x"}, "expected a finite number"),
    ],
)
def test_a_report_that_breaks_a_rule_is_refused_and_leaves_nothing(sideline, storage, group, steps, metrics, message):
    with pytest.raises(ModelError, match=message):
        sideline.report(group, steps, metrics)
    assert storage.paths() == []
    sideline.report("g", 0, {"m": 1})


def test_every_group_name_that_is_allowed_can_be_stored(tmp_path, tracker):
    from batchmill_plugins.storage._local import LocalStorage

    storage = LocalStorage(str(tmp_path))
    sideline = Sideline(storage, tracker, "digits", 0, lambda *told: None)
    names = ["日" * 100, "with space", "a:b*?", "x" * 100]
    for group in names:
        sideline.report(group, 0, {"m": 1})
    stored = [json.loads(storage.get(info.path))["group"] for info in storage.list(REPORTS)]
    assert sorted(stored) == sorted(names)


def test_files_of_a_chunk_go_with_it_and_others_are_stored_at_once(sideline, storage):
    sideline.add_files({"notes/start.txt": b"1"})
    sideline.open_chunk()
    sideline.add_files({"a": b"2"})
    sideline.add_files({"b": b"3"})
    assert storage.paths() == ["files/rank-00002/notes/start.txt"]
    files, _ = sideline.close_chunk()
    assert files == {"a": b"2", "b": b"3"}
    sideline.add_files({"notes/start.txt": b"4"})
    assert storage.get("files/rank-00002/notes/start.txt") == b"4"


def test_a_file_name_twice_in_one_chunk_is_refused(sideline):
    sideline.open_chunk()
    sideline.add_files({"a": b"1"})
    with pytest.raises(OutputError, match="file 'a' twice within one chunk; the first would be lost"):
        sideline.add_files({"b": b"2", "a": b"3"})
    sideline.close_chunk()
    sideline.open_chunk()
    sideline.add_files({"a": b"4"})


def test_a_link_is_kept_with_the_run_and_told_to_the_tracker(sideline, storage, tracker):
    for _ in range(2):
        sideline.link("uuid-1", "digits", 3)
    sideline.link("uuid-2", None, None)
    assert sorted(documents(storage, LINKS), key=str) == [
        {"checkpoint": "uuid-1", "model": "digits", "version": 3},
        {"checkpoint": "uuid-2", "model": None, "version": None},
    ]
    assert tracker.links[-1] == ("digits", storage.url, "uuid-2", None, None)
