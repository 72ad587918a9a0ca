"""The suite that every tracker component passes.

Make a test class of it beside your component::

    from batchmill.testing.tracker_suite import TrackerSuite

    class TestMyTracker(TrackerSuite):
        def make_tracker(self, tmp_path):
            return MyTracker(str(tmp_path))
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from batchmill.contracts.tracked_changes import CheckpointChanges, ModelChanges, VersionChanges
from batchmill.contracts.tracked_records import CheckpointRecord, MetricsRecord, RunLink, RunRecord
from batchmill.errors import ModelError
from batchmill.testing.tracker_changes_suite import FILES, TrackerChangesSuite

TIMES = ("2026-01-01T00:00:00.000000+00:00", "2026-01-02T00:00:00.000000+00:00")


class TrackerSuite(TrackerChangesSuite):
    """Tests of the words in ``batchmill.Tracker``. A subclass gives ``make_tracker``."""

    def test_models_come_back_as_they_were(self, tmp_path: Path) -> None:
        """All fields, in another tracker object too, sorted by name."""
        tracker = self.make_tracker(tmp_path)
        metadata = {"nested": [1, 2.5, {"x": None}], "ü": "é"}
        created = tracker.create_model("b-model", "two\nlines", metadata, ["tag", "other"])
        tracker.create_model("a.model", "", {}, [])
        assert (created.name, created.description, created.labels) == (
            "b-model",
            "two\nlines",
            ("tag", "other"),
        )
        assert created.created.endswith("+00:00")
        other = self.make_tracker(tmp_path)
        assert other.get_model("b-model") == created
        assert other.get_model("b-model").metadata == metadata
        assert [model.name for model in other.list_models()] == ["a.model", "b-model"]
        assert not created.archived

    def test_a_taken_model_name_is_refused(self, tmp_path: Path) -> None:
        """The first stays as it was."""
        tracker = self.make_tracker(tmp_path)
        tracker.create_model("m", "first", {}, [])
        with pytest.raises(ModelError, match="'m'"):
            tracker.create_model("m", "second", {}, [])
        assert [model.description for model in tracker.list_models()] == ["first"]

    def test_what_is_not_there_is_an_error_that_says_what_is(self, tmp_path: Path) -> None:
        """On an empty tracker and on one that holds other things."""
        tracker = self.make_tracker(tmp_path)
        lookups: list[Callable[[], object]] = [
            lambda: tracker.get_model("resnte"),
            lambda: tracker.get_versions("resnte"),
            lambda: tracker.get_checkpoint("0000"),
            lambda: tracker.register_version("resnte", "0000", "", "", []),
            lambda: tracker.link_run("run", "runs/run", "0000", None, None),
            lambda: tracker.update_model("resnte", ModelChanges(archived=True)),
            lambda: tracker.update_version("resnte", 1, VersionChanges(archived=True)),
            lambda: tracker.update_checkpoint("0000", CheckpointChanges()),
        ]
        for lookup in lookups:
            with pytest.raises(ModelError, match=r"(resnte|0000).*Available: none"):
                lookup()
        tracker.create_model("resnet", "", {}, [])
        checkpoint = tracker.add_checkpoint("/weights/1", "d", FILES, {})
        with pytest.raises(ModelError, match=r"'resnte'.*Did you mean 'resnet'.*Available: resnet"):
            tracker.get_model("resnte")
        with pytest.raises(ModelError, match=rf"'0000'.*{checkpoint.uuid}.*/weights/1"):
            tracker.register_version("resnet", "0000", "", "", [])
        with pytest.raises(ModelError, match=r"'resnet' has no version 1.*Available: none"):
            tracker.update_version("resnet", 1, VersionChanges(archived=True))
        assert tracker.get_versions("resnet") == []

    def test_checkpoints_are_known_by_location_digest_and_metadata(self, tmp_path: Path) -> None:
        """The same three give the same checkpoint; any other a new one."""
        tracker = self.make_tracker(tmp_path)
        first = tracker.add_checkpoint("/weights/1", "d1", FILES, {"epoch": 3, "lr": 0.1})
        assert (first.location, first.digest, first.metadata) == ("/weights/1", "d1", {"epoch": 3, "lr": 0.1})
        assert first.files == FILES
        assert tracker.add_checkpoint("/weights/1", "d1", FILES, {"lr": 0.1, "epoch": 3}) == first
        others = [
            tracker.add_checkpoint("/weights/2", "d1", FILES, {"epoch": 3, "lr": 0.1}),
            tracker.add_checkpoint("/weights/1", "d2", FILES, {"epoch": 3, "lr": 0.1}),
            tracker.add_checkpoint("/weights/1", "d1", FILES, {}),
        ]
        assert len({first.uuid, *(checkpoint.uuid for checkpoint in others)}) == 4
        assert self.make_tracker(tmp_path).get_checkpoint(first.uuid) == first

    def test_versions_count_from_one_for_each_model(self, tmp_path: Path) -> None:
        """With all their fields."""
        tracker = self.make_tracker(tmp_path)
        checkpoints = self.make_checkpoints(tracker, 2)
        for name in ("a", "b"):
            tracker.create_model(name, "", {}, [])
            first = tracker.register_version(name, checkpoints[0].uuid, "small", "said", ["prod", "x"])
            second = tracker.register_version(name, checkpoints[1].uuid, "", "", [])
            assert (first.model_name, first.version, first.checkpoint) == (name, 1, checkpoints[0])
            assert (first.name, first.comment, first.labels) == ("small", "said", ("prod", "x"))
            assert (second.version, second.labels, second.archived) == (2, (), False)
            assert self.make_tracker(tmp_path).get_versions(name) == [first, second]

    def test_versions_registered_at_once_have_different_numbers(self, tmp_path: Path) -> None:
        """Many threads, none skipped and none given twice."""
        tracker = self.make_tracker(tmp_path)
        tracker.create_model("m", "", {}, [])
        checkpoints = self.make_checkpoints(tracker, 16)

        def register(checkpoint: CheckpointRecord) -> int:
            return self.make_tracker(tmp_path).register_version("m", checkpoint.uuid, "", "", []).version

        with ThreadPoolExecutor(8) as pool:
            numbers = list(pool.map(register, checkpoints))
        assert sorted(numbers) == list(range(1, 17))
        stored = {version.checkpoint.uuid: version.version for version in tracker.get_versions("m")}
        assert stored == {checkpoint.uuid: number for checkpoint, number in zip(checkpoints, numbers, strict=True)}

    def test_runs_are_those_that_are_linked_or_report(self, tmp_path: Path) -> None:
        """Each once and sorted, with its last place and all its links."""
        tracker = self.make_tracker(tmp_path)
        one, two = self.make_checkpoints(tracker, 2)
        tracker.create_model("m", "", {}, [])
        tracker.register_version("m", one.uuid, "", "", [])
        tracker.link_run("c", "old/c", two.uuid, None, None)
        tracker.link_run("c", "runs/c", two.uuid, None, None)
        tracker.link_run("c", "runs/c", one.uuid, "m", 1)
        tracker.link_run("b", "s3://bucket/b", one.uuid, None, None)
        for step in range(3):
            for group in ("inference", "validation"):
                tracker.report(MetricsRecord("c", group, step, {"m": 1}, TIMES[0]))
                tracker.report(MetricsRecord("a", group, step, {"m": 1, "n": 2}, TIMES[0]))
        assert self.make_tracker(tmp_path).list_runs() == [
            RunRecord("a"),
            RunRecord("b", "s3://bucket/b", (RunLink(one.uuid),)),
            RunRecord("c", "runs/c", (RunLink(two.uuid), RunLink(one.uuid, "m", 1))),
        ]

    def test_many_reports_are_stored_as_one_by_one(self, tmp_path: Path) -> None:
        """Those that are there already change nothing."""
        tracker = self.make_tracker(tmp_path)
        records = [MetricsRecord("run", "g", step, {"m": step, "n": [step]}, TIMES[0]) for step in range(10)]
        tracker.report_all([])
        assert tracker.list_runs() == []
        tracker.report(records[3])
        tracker.report_all(iter(records[:8]))
        tracker.report_all(records)
        assert list(tracker.iter_metrics()) == records
        with pytest.raises(ModelError, match="'m' of group 'g' at step 9"):
            tracker.report_all([MetricsRecord("run", "g", 9, {"m": 1.5}, TIMES[1])])
        assert list(tracker.iter_metrics()) == records

    def test_metrics_come_back_as_they_were(self, tmp_path: Path) -> None:
        """Numbers exactly, and all other JSON values."""
        tracker = self.make_tracker(tmp_path)
        metrics = {
            "accuracy": 0.1 + 0.2,
            "tiny": 5e-324,
            "count": 2**62,
            "flag": True,
            "one": 1,
            "one.0": 1.0,
            "text": "é\n\"'",
            "matrix": [[1, 2], [3, 4.5]],
            "nested": {"a": {"b": []}},
        }
        record = MetricsRecord("run", "validation", 7, metrics, TIMES[0], rank=3)
        tracker.report(record)
        (stored,) = self.make_tracker(tmp_path).iter_metrics()
        assert stored == record
        kinds = [type(stored.metrics[name]) for name in ("flag", "one", "one.0")]
        assert kinds == [bool, int, float]

    def test_a_repeated_report_changes_nothing(self, tmp_path: Path) -> None:
        """Also when it comes later and in another order of keys."""
        tracker = self.make_tracker(tmp_path)
        tracker.report(MetricsRecord("run", "g", 0, {"a": 1.5, "b": {"x": 1, "y": 2}}, TIMES[0]))
        tracker.report(MetricsRecord("run", "g", 0, {"b": {"y": 2, "x": 1}, "a": 1.5}, TIMES[1]))
        assert list(tracker.iter_metrics()) == [
            MetricsRecord("run", "g", 0, {"a": 1.5, "b": {"x": 1, "y": 2}}, TIMES[0])
        ]

    def test_a_report_with_another_value_is_refused_whole(self, tmp_path: Path) -> None:
        """Nothing of it is stored; ``1`` and ``1.0`` and ``True`` are different values."""
        tracker = self.make_tracker(tmp_path)
        tracker.report(MetricsRecord("run", "g", 0, {"a": 1}, TIMES[0]))
        for value in (2, 1.0, True, "1", [1]):
            with pytest.raises(ModelError, match=r"'a' of group 'g' at step 0 on rank 0"):
                tracker.report(MetricsRecord("run", "g", 0, {"new": 1, "a": value}, TIMES[1]))
        assert list(tracker.iter_metrics()) == [MetricsRecord("run", "g", 0, {"a": 1}, TIMES[0])]

    def test_reports_with_other_keys_join(self, tmp_path: Path) -> None:
        """One run, group, step and rank is one record."""
        tracker = self.make_tracker(tmp_path)
        tracker.report(MetricsRecord("run", "g", 0, {"a": 1}, TIMES[0]))
        tracker.report(MetricsRecord("run", "g", 0, {"b": 2}, TIMES[1]))
        assert list(tracker.iter_metrics()) == [MetricsRecord("run", "g", 0, {"a": 1, "b": 2}, TIMES[1])]

    def test_runs_groups_steps_and_ranks_are_kept_apart_and_in_order(self, tmp_path: Path) -> None:
        """Numbers are ordered as numbers."""
        tracker = self.make_tracker(tmp_path)
        keys = [
            (run, group, step, rank)
            for run in ("run1", "run2")
            for group in ("inference", "validation")
            for step in (2, 10)
            for rank in (0, 9, 10)
        ]
        for number, (run, group, step, rank) in reversed(list(enumerate(keys))):
            tracker.report(MetricsRecord(run, group, step, {"m": number}, TIMES[0], rank))
        found = list(tracker.iter_metrics())
        assert [(r.run_id, r.group, r.steps_completed, r.rank) for r in found] == keys
        assert [record.metrics["m"] for record in found] == list(range(len(keys)))

    def test_filters(self, tmp_path: Path) -> None:
        """Each alone and together; a model version is found through its link only."""
        tracker = self.make_tracker(tmp_path)
        one, two = self.make_checkpoints(tracker, 2)
        for name in ("a", "b"):
            tracker.create_model(name, "", {}, [])
            tracker.register_version(name, one.uuid, "", "", [])
        tracker.register_version("a", two.uuid, "", "", [])
        tracker.link_run("run-a1", "runs/run-a1", one.uuid, "a", 1)
        tracker.link_run("run-a2", "runs/run-a2", two.uuid, "a", 2)
        tracker.link_run("run-c1", "runs/run-c1", one.uuid, None, None)
        for run in ("run-a1", "run-a2", "run-c1", "run-free"):
            for group in ("inference", "validation"):
                tracker.report(MetricsRecord(run, group, 0, {"m": 1}, TIMES[0]))

        def found(**filters: Any) -> list[str]:
            return [f"{record.run_id}/{record.group[0]}" for record in tracker.iter_metrics(**filters)]

        assert len(found()) == 8
        assert found(group="inference") == ["run-a1/i", "run-a2/i", "run-c1/i", "run-free/i"]
        assert found(run_id="run-a2") == ["run-a2/i", "run-a2/v"]
        assert found(checkpoint_uuid=one.uuid, group="validation") == ["run-a1/v", "run-c1/v"]
        assert found(model_name="a", group="validation") == ["run-a1/v", "run-a2/v"]
        assert found(model_name="a", version=2) == ["run-a2/i", "run-a2/v"]
        assert found(model_name="a", version=2, checkpoint_uuid=one.uuid) == []
        assert found(model_name="b") == found(model_name="absent") == found(run_id="absent") == []
        assert found(run_id="run-c1", model_name="a") == []
        with pytest.raises(ModelError, match="model_name"):
            list(tracker.iter_metrics(version=1))

    def test_links_are_idempotent_and_checked(self, tmp_path: Path) -> None:
        """A repeated link doubles no metric; a wrong one is refused."""
        tracker = self.make_tracker(tmp_path)
        one, two = self.make_checkpoints(tracker, 2)
        tracker.create_model("m", "", {}, [])
        tracker.register_version("m", one.uuid, "", "", [])
        for path in ("runs/run", "runs/run", "elsewhere/run"):
            tracker.link_run("run", path, one.uuid, "m", 1)
            tracker.link_run("run", path, one.uuid, None, None)
        tracker.report(MetricsRecord("run", "g", 0, {"m": 1}, TIMES[0]))
        assert len(list(tracker.iter_metrics(checkpoint_uuid=one.uuid))) == 1
        assert len(list(tracker.iter_metrics(model_name="m", version=1))) == 1
        with pytest.raises(ModelError, match=r"no version 2.*Available: 1"):
            tracker.link_run("run", "runs/run", one.uuid, "m", 2)
        with pytest.raises(ModelError, match=f"{one.uuid}.*not {two.uuid}"):
            tracker.link_run("run", "runs/run", two.uuid, "m", 1)
        with pytest.raises(ModelError, match="name and a number"):
            tracker.link_run("run", "runs/run", one.uuid, "m", None)
        assert list(tracker.iter_metrics(checkpoint_uuid=two.uuid)) == []

    def test_a_link_may_come_before_or_after_the_metrics(self, tmp_path: Path) -> None:
        """They are found all the same."""
        tracker = self.make_tracker(tmp_path)
        (checkpoint,) = self.make_checkpoints(tracker, 1)
        tracker.report(MetricsRecord("run", "g", 0, {"m": 1}, TIMES[0]))
        tracker.link_run("run", "runs/run", checkpoint.uuid, None, None)
        tracker.report(MetricsRecord("run", "g", 1, {"m": 2}, TIMES[0]))
        found = tracker.iter_metrics(checkpoint_uuid=checkpoint.uuid)
        assert [record.metrics["m"] for record in found] == [1, 2]

    def test_reading_is_not_disturbed_by_writing(self, tmp_path: Path) -> None:
        """A half-read iteration neither blocks a report nor changes under it."""
        tracker = self.make_tracker(tmp_path)
        for step in range(3):
            tracker.report(MetricsRecord("run", "g", step, {"m": step}, TIMES[0]))
        reading = tracker.iter_metrics()
        assert next(reading).steps_completed == 0
        tracker.report(MetricsRecord("run", "g", 3, {"m": 3}, TIMES[0]))
        assert [record.steps_completed for record in reading] == [1, 2]
        assert len(list(tracker.iter_metrics())) == 4

    def test_an_unused_tracker_is_empty(self, tmp_path: Path) -> None:
        """Reading alone finds nothing and leaves nothing behind."""
        tracker = self.make_tracker(tmp_path)
        assert tracker.list_models() == []
        assert tracker.list_runs() == []
        assert list(tracker.iter_metrics(group="validation")) == []
        assert list(tmp_path.rglob("*")) == []
