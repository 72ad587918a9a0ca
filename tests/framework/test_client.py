import subprocess
import sys
import threading

import pytest

import batchmill
from batchmill import client
from batchmill.contracts.tracker import MetricsRecord
from batchmill.errors import ModelError, UnknownComponentError
from batchmill_plugins.trackers._sqlite import SqliteTracker


@pytest.fixture(autouse=True)
def own_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(client.OUTPUT_VARIABLE, raising=False)
    yield
    client.disconnect()


@pytest.fixture
def weights(tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "w.bin").write_bytes(b"abc")
    return tmp_path / "weights"


def names(tracker):
    return [model.name for model in tracker.list_models()]


def test_the_words_of_the_seed_guide(weights):
    """Step 2 and 5, without the run between them: what it stores stands in for it."""
    model = client.create_model("digits", "Handwritten", {"source": "here"}, ["vision"])
    model.register_version("weights")
    model_version = client.get_model("digits").get_version(1)
    ckpt = client.get_checkpoint(model_version.checkpoint.uuid)
    tracker = client.current_tracker()
    tracker.link_run("run", "runs/run", ckpt.uuid, "digits", 1)
    tracker.report(MetricsRecord("run", "inference", 0, {"my_metric": 1.0}, "2026"))
    code = """
from batchmill import client
import sys
ckpt = client.get_checkpoint(sys.argv[1])
model_version = client.get_model("digits").get_version(1)
for metrics in (ckpt.get_metrics("inference"), model_version.get_metrics("inference")):
    print([(each.run_id, each.steps_completed, each.metrics) for each in metrics])
"""
    output = subprocess.run([sys.executable, "-c", code, ckpt.uuid], capture_output=True, text=True, check=True).stdout
    assert output == "[('run', 0, {'my_metric': 1.0})]\n" * 2


def test_it_is_a_public_name():
    assert batchmill.client is client
    assert batchmill.Model is type(client.create_model("m"))


def test_models_are_listed_and_found():
    client.create_model("b", metadata={"a": (1, None)}, labels=["x", "x"])
    client.create_model("a")
    assert [model.name for model in client.list_models()] == ["a", "b"]
    assert client.get_model("b").metadata == {"a": [1, None]}
    assert client.get_model("b").labels == ("x",)
    with pytest.raises(ModelError, match=r"'c'.*Available: a, b"):
        client.get_model("c")
    with pytest.raises(ModelError, match="'a' already"):
        client.create_model("a")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a/b",), "model's name"),
        ((None,), "model's name"),
        (("m", "", {"x": float("nan")}), "metadata of model 'm', at 'x' is nan"),
        (("m", "", None, ["latest"]), "cannot be a label"),
        (("m", "", None, "prod"), "expected a list"),
        (("m", None), "description of model 'm' is None; expected a string"),
    ],
)
def test_what_cannot_be_a_model_is_refused(arguments, message):
    with pytest.raises(ModelError, match=message):
        client.create_model(*arguments)
    assert client.list_models() == []


def test_hparams_that_are_missing_get_a_plain_answer():
    with pytest.raises(ModelError, match="unlike None"):
        client.get_model({}.get("model_name"))
    with pytest.raises(ModelError, match="None was given"):
        client.get_checkpoint({}.get("checkpoint_uuid"))


def test_checkpoints_are_added_once(weights):
    first = client.add_checkpoint(weights, {"epoch": 1})
    assert client.add_checkpoint("weights", {"epoch": 1}).uuid == first.uuid
    assert client.get_checkpoint(first.uuid).metadata == {"epoch": 1}
    assert client.add_checkpoint(weights).uuid != first.uuid
    with pytest.raises(ModelError, match=rf"'nope'.*{first.uuid} \(.*weights\)"):
        client.get_checkpoint("nope")


def test_runs_are_listed_and_found(weights, tmp_path):
    tracker, checkpoint = client.current_tracker(), client.add_checkpoint(weights)
    tracker.link_run("b", str(tmp_path / "runs" / "b"), checkpoint.uuid, None, None)
    for run in "ab":
        tracker.report(MetricsRecord(run, "inference", 0, {"m": run}, "2026"))
    assert [run.run_id for run in client.list_runs()] == ["a", "b"]
    found = client.get_run("runs/b")
    assert (found.run_id, found.checkpoints[0].uuid) == ("b", checkpoint.uuid)
    assert [record.metrics for record in client.get_run("a").get_metrics("inference")] == [{"m": "a"}]
    assert isinstance(found, batchmill.TrackedRun)
    with pytest.raises(ModelError, match=r"'c'.*Available: a, b"):
        client.get_run("c")


def test_looking_leaves_nothing_behind(tmp_path):
    assert client.list_models() == client.list_runs() == []
    with pytest.raises(ModelError, match="Available: none"):
        client.get_model("m")
    assert list(tmp_path.iterdir()) == []


# --- which tracker ------------------------------------------------------------------------------------------


def test_by_default_it_is_the_one_in_runs(tmp_path):
    client.create_model("m")
    assert names(SqliteTracker(str(tmp_path / "runs"))) == ["m"]


def test_the_environment_names_another_output(tmp_path, monkeypatch):
    monkeypatch.setenv(client.OUTPUT_VARIABLE, str(tmp_path / "elsewhere"))
    client.create_model("m")
    assert names(SqliteTracker(str(tmp_path / "elsewhere"))) == ["m"]
    monkeypatch.setenv(client.OUTPUT_VARIABLE, "")
    assert client.list_models() == []


def test_connect_goes_before_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv(client.OUTPUT_VARIABLE, str(tmp_path / "elsewhere"))
    assert client.connect("mine") is client.current_tracker()
    client.create_model("m")
    assert names(SqliteTracker(str(tmp_path / "mine"))) == ["m"]
    client.connect("mine", path="own.db")
    client.create_model("n")
    assert names(SqliteTracker("", path="own.db")) == ["n"]
    client.disconnect()
    assert client.list_models() == []
    with pytest.raises(UnknownComponentError, match=r"'sqlit'.*'sqlite'"):
        client.connect(tracker="sqlit")


def test_a_run_goes_before_everything_and_ends():
    outer, inner = SqliteTracker("outer"), SqliteTracker("inner")
    client.connect("connected")
    with client.use(outer) as used:
        assert used is outer
        client.create_model("o")
        with pytest.raises(KeyError), client.use(inner):
            client.create_model("i")
            raise KeyError
        assert client.current_tracker() is outer
    client.create_model("c")
    assert (names(outer), names(inner), names(client.current_tracker())) == (["o"], ["i"], ["c"])


def test_threads_of_a_run_find_its_tracker():
    tracker, seen = SqliteTracker("run"), []
    with client.use(tracker):
        thread = threading.Thread(target=lambda: seen.append(client.current_tracker()))
        thread.start()
        thread.join(timeout=10)
    assert seen == [tracker]


def test_runs_in_two_threads_keep_to_their_own():
    barrier, seen = threading.Barrier(2), {}

    def run(name):
        tracker = SqliteTracker(name)
        with client.use(tracker):
            barrier.wait(timeout=10)
            seen[name] = client.current_tracker() is tracker
            barrier.wait(timeout=10)

    threads = [threading.Thread(target=run, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert seen == {"a": True, "b": True}


def test_the_client_imports_no_torch():
    code = (
        "import sys; from batchmill import client; client.create_model('m'); client.get_model('m'); "
        "print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output == "False False\n"
