from dataclasses import replace

import pytest

from batchmill.checkpoints import add_checkpoint
from batchmill.contracts.tracked_records import CheckpointRecord, MetricsRecord, VersionRecord
from batchmill.errors import ModelError
from batchmill.models import Model, find_version
from batchmill_plugins.trackers._sqlite import SqliteTracker

TIME = "2026-01-01T00:00:00.000000+00:00"


@pytest.fixture
def tracker(tmp_path):
    return SqliteTracker(str(tmp_path / "runs"))


@pytest.fixture
def model(tracker):
    return Model(tracker, tracker.create_model("digits", "What it is", {"k": [1]}, ["vision"]))


@pytest.fixture
def make_weights(tmp_path):
    def make(name, data=b"weights"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "weights.safetensors").write_bytes(data)
        (folder / "config.json").write_bytes(b"{}")
        return folder

    return make


def versions(*labels, archived=()):
    checkpoint = CheckpointRecord("uuid", "/weights", "digest")
    return [
        VersionRecord("m", number, checkpoint, labels=tuple(each), archived=number in archived)
        for number, each in enumerate(labels, start=1)
    ]


# --- finding versions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "found"),
    [(-1, 3), ("latest", 3), (1, 1), (2, 2), ("2", 2), ("03", 3), ("prod", 2), ("old", 1)],
)
def test_a_version_is_found_by_number_latest_or_label(asked, found):
    assert find_version(versions(["old"], ["prod", "x"], ["x"]), "m", asked).version == found


@pytest.mark.parametrize("asked", [0, 4, -2, "4", "-1", "Prod", "1.0", "", None, "\u0661"])
def test_a_version_that_is_not_there_lists_those_that_are(asked):
    with pytest.raises(ModelError, match=r"no version .*Available: 1 \(prod\), 2, 3 \(archived\)"):
        find_version(versions(["prod"], [], [], archived=[3]), "m", asked)


def test_a_misspelt_label_gets_a_hint():
    with pytest.raises(ModelError, match="Did you mean 'production'"):
        find_version(versions(["production"]), "m", "prodction")
    with pytest.raises(ModelError, match="Did you mean 'latest'"):
        find_version(versions([]), "m", "lastest")


def test_an_ambiguous_label_is_refused():
    with pytest.raises(ModelError, match=r"'prod' is on several versions of model 'm': 1, 3\."):
        find_version(versions(["prod"], [], ["prod"]), "m", "prod")
    assert find_version(versions(["prod"], [], ["prod"], archived=[1]), "m", "prod").version == 3


def test_archived_versions_are_found_by_number_only():
    records = versions(["old"], [], ["new"], archived=[1, 3])
    assert find_version(records, "m", -1).version == 2
    assert find_version(records, "m", 3).version == 3
    with pytest.raises(ModelError, match="no version 'new'"):
        find_version(records, "m", "new")
    with pytest.raises(ModelError, match="All versions of model 'm' are archived"):
        find_version([replace(record, archived=True) for record in records], "m", "latest")


def test_a_model_without_versions_says_how_to_add_one(model):
    with pytest.raises(ModelError, match=r"'digits' has no versions yet.*register_version"):
        model.get_version()
    assert model.list_versions() == []


# --- models and versions ------------------------------------------------------------------------------------


def test_a_model_shows_what_was_given(model):
    assert (model.name, model.description, model.metadata) == ("digits", "What it is", {"k": [1]})
    assert (model.labels, model.archived) == (("vision",), False)
    assert repr(model) == "Model('digits')"


def test_a_version_is_registered_from_a_path_a_checkpoint_or_a_uuid(model, tracker, make_weights):
    first = model.register_version(make_weights("1"), name="small", comment="said", labels=["prod"])
    second = model.register_version(str(make_weights("2")))
    checkpoint = add_checkpoint(tracker, make_weights("3"), {"epoch": 1})
    third = model.register_version(checkpoint)
    fourth = model.register_version(add_checkpoint(tracker, make_weights("4"), {}).uuid)
    assert [version.version for version in model.list_versions()] == [1, 2, 3, 4]
    assert [version.version for version in (first, second, third, fourth)] == [1, 2, 3, 4]
    assert [version.version for version in model.get_versions()] == [1, 2, 3, 4]
    found = model.get_version("prod")
    assert (found.model_name, found.version, found.name, found.comment) == ("digits", 1, "small", "said")
    assert (found.labels, found.notes, found.metadata, found.archived) == (("prod",), "", {}, False)
    assert found.path == make_weights("1")
    assert model.get_version(3).checkpoint.metadata == {"epoch": 1}
    assert repr(found) == "ModelVersion('digits', 1)"
    assert model.get_version().version == 4


def test_registering_the_same_files_again_gives_the_same_version(model, make_weights):
    first = model.register_version(make_weights("1"))
    assert model.register_version(make_weights("1")).version == first.version
    assert len(model.list_versions()) == 1
    assert model.register_version(make_weights("1", b"trained longer")).version == 2


@pytest.mark.parametrize("path", ["absent", "s3://bucket/weights", "00000000-0000-4000-8000-000000000000"])
def test_a_version_without_files_is_refused(model, path):
    with pytest.raises(ModelError, match=path):
        model.register_version(path)
    assert model.list_versions() == []


def test_bad_labels_are_refused_before_anything_is_stored(model, tracker, make_weights):
    with pytest.raises(ModelError, match="cannot be a label"):
        model.register_version(make_weights("1"), labels=["latest"])
    assert model.list_versions() == []


# --- changing them ------------------------------------------------------------------------------------------


def stored_model(tracker):
    found = Model(tracker, tracker.get_model("digits"))
    return (found.description, found.labels, found.metadata, found.archived)


def shown(version):
    return (version.name, version.notes, version.labels, version.metadata, version.archived)


def test_a_model_is_changed_and_shows_it(model, tracker):
    model.set_description("Better")
    model.set_labels(["nlp", "nlp", "x"])
    model.add_metadata({"k": 2, "tuple": (1, None)})
    model.remove_metadata(["absent", "k"])
    model.archive()
    expected = ("Better", ("nlp", "x"), {"tuple": [1, None]}, True)
    assert (model.description, model.labels, model.metadata, model.archived) == expected
    assert stored_model(tracker) == expected
    model.unarchive()
    model.set_labels([])
    assert (model.archived, model.labels) == (False, ())
    assert stored_model(tracker) == ("Better", (), {"tuple": [1, None]}, False)


def test_a_version_is_changed_and_shows_it(model, make_weights):
    version, other = model.register_version(make_weights("1"), name="small"), model.register_version(make_weights("2"))
    version.set_name("tiny")
    version.set_notes("trained\nagain")
    version.set_labels(["production"])
    version.add_metadata({"epoch": 3, "lr": 0.1})
    version.remove_metadata(["lr"])
    expected = ("tiny", "trained\nagain", ("production",), {"epoch": 3}, False)
    assert shown(version) == shown(model.get_version("production")) == expected
    assert version.version == 1
    assert shown(model.get_version(2)) == shown(other) == ("", "", (), {}, False)


def test_an_archived_version_is_found_by_number_only_until_it_is_taken_back(model, make_weights):
    model.register_version(make_weights("1"))
    second = model.register_version(make_weights("2"), labels=["new"])
    second.archive()
    assert second.archived and model.get_version(2).archived
    assert model.get_version().version == 1
    with pytest.raises(ModelError, match="no version 'new'"):
        model.get_version("new")
    second.unarchive()
    assert (second.archived, model.get_version().version, model.get_version("new").version) == (False, 2, 2)


def test_a_label_moves_from_version_to_version(model, make_weights):
    first = model.register_version(make_weights("1"), labels=["production"])
    second = model.register_version(make_weights("2"))
    second.set_labels(["production"])
    with pytest.raises(ModelError, match="several versions"):
        model.get_version("production")
    first.set_labels([])
    assert model.get_version("production").version == 2


def test_an_old_object_overwrites_only_what_it_is_told_to(model, tracker, make_weights):
    """Another process has changed the rest meanwhile, and the object shows that too."""
    version = model.register_version(make_weights("1"))
    model.get_version(1).set_notes("from elsewhere")
    model.get_version(1).add_metadata({"theirs": 1})
    version.add_metadata({"mine": 2})
    assert (version.notes, version.metadata) == ("from elsewhere", {"theirs": 1, "mine": 2})
    again = Model(tracker, tracker.get_model("digits"))
    again.set_labels(["theirs"])
    model.set_description("mine")
    assert stored_model(tracker)[:2] == ("mine", ("theirs",))


def test_registering_a_changed_version_again_gives_that_version(model, make_weights):
    version = model.register_version(make_weights("1"), labels=["candidate"])
    version.set_labels(["production"])
    version.checkpoint.add_metadata({"accuracy": 0.9})
    again = model.register_version(make_weights("1"), labels=["candidate"])
    assert (again.version, again.labels, again.checkpoint.metadata) == (1, ("production",), {"accuracy": 0.9})
    assert len(model.list_versions()) == 1


@pytest.mark.parametrize(
    ("method", "argument", "message"),
    [
        ("set_labels", ["latest"], "cannot be a label"),
        ("set_labels", "production", "expected a list"),
        ("set_labels", None, "expected a list"),
        ("set_labels", [["x"]], "cannot be a label"),
        ("add_metadata", {"x": float("nan")}, "at 'x' is nan"),
        ("add_metadata", ["x"], "expected a dict"),
        ("remove_metadata", "key", "expected a list of keys"),
        ("remove_metadata", None, "expected a list of keys"),
        ("remove_metadata", [["key"]], "expected a string"),
    ],
)
def test_what_cannot_be_stored_is_refused_and_changes_nothing(model, tracker, make_weights, method, argument, message):
    version = model.register_version(make_weights("1"), labels=["l"])
    version.add_metadata({"key": 1})
    before = (stored_model(tracker), shown(model.get_version(1)))
    for target in (model, version):
        with pytest.raises(ModelError, match=message):
            getattr(target, method)(argument)
    assert (stored_model(tracker), shown(model.get_version(1))) == before
    assert shown(version) == before[1]


@pytest.mark.parametrize("text", [None, 3, b"x", "\ud800"])
def test_names_notes_and_descriptions_are_texts(model, make_weights, text):
    version = model.register_version(make_weights("1"))
    for change in (model.set_description, version.set_name, version.set_notes):
        with pytest.raises(ModelError, match=r"expected a string|not valid Unicode"):
            change(text)


# --- metrics ------------------------------------------------------------------------------------------------


def test_metrics_are_found_by_version_and_by_checkpoint(model, tracker, make_weights):
    one, two = (model.register_version(make_weights(name)) for name in "12")
    tracker.link_run("run1", "runs/run1", one.checkpoint.uuid, "digits", 1)
    tracker.link_run("run2", "runs/run2", two.checkpoint.uuid, "digits", 2)
    tracker.link_run("loose", "runs/loose", one.checkpoint.uuid, None, None)
    for run, value in (("run1", 1.0), ("run2", 2.0), ("loose", 3.0)):
        tracker.report(MetricsRecord(run, "inference", 5, {"my_metric": value}, TIME, rank=1))
        tracker.report(MetricsRecord(run, "validation", 0, {"accuracy": value}, TIME))
    (found,) = model.get_version(1).get_metrics("inference")
    assert (found.run_id, found.group, found.steps_completed, found.rank) == ("run1", "inference", 5, 1)
    assert (found.metrics, found.end_time) == ({"my_metric": 1.0}, TIME)
    assert [record.group for record in model.get_version(2).iter_metrics()] == ["inference", "validation"]
    assert [record.run_id for record in one.checkpoint.get_metrics("validation")] == ["loose", "run1"]
    assert len(list(one.checkpoint.iter_metrics())) == 4
    assert model.get_version(1).get_metrics("absent") == []
