import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

from batchmill import (
    CorruptRunError,
    Reducer,
    RunNotFoundError,
    RunRequest,
    Selection,
    TorchBatchProcessor,
    client,
    hookimpl,
    run,
    torch_batch_process,
)
from batchmill.engine.serialization import canonical_json, seal
from batchmill.inspection import describe_run, list_runs, open_run_directory, verify_run


class Doubling(TorchBatchProcessor):
    """Writes rows, files and reports, but no rows for batch 2."""

    def __init__(self, context):
        self.context = context
        self.total = context.wrap_reducer(Reducer.SUM, "total")

    def process_batch(self, batch, batch_idx):
        self.total.update(batch[0].sum())
        self.context.report_metrics("seen", batch_idx, {"rows": len(batch[0])})
        with self.context.upload_path() as path:
            (path / f"note-{batch_idx}").write_text("note")
        return None if batch_idx == 2 else {"y": batch[0] * 2}

    def on_finish(self):
        self.context.report_metrics("end", 0, {"fine": True})


class StopAfter:
    def __init__(self, checkpoints):
        self.left = checkpoints

    @hookimpl
    def should_stop(self):
        self.left -= 1
        return "enough" if self.left == 0 else None


DATA = TensorDataset(torch.arange(100.0))
COMPLETE, PARTIAL = "complete", "partial"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a complete run and a stopped one; not to be changed."""
    output = tmp_path_factory.mktemp("made") / "runs"
    arguments = {"output": output, "checkpoint_interval": 2}
    torch_batch_process(Doubling, DATA, 10, run_id=COMPLETE, **arguments)
    torch_batch_process(Doubling, DATA, 10, run_id=PARTIAL, callbacks={"stop": StopAfter(3)}, **arguments)
    return output


@pytest.fixture
def output(made, tmp_path):
    """A copy of that folder that may be changed."""
    return Path(shutil.copytree(made, tmp_path / "runs"))


def test_runs_are_listed_with_what_matters(made):
    (made / "not-a-run").mkdir(exist_ok=True)
    found = {item.run_id: item for item in list_runs(str(made))}
    assert set(found) == {COMPLETE, PARTIAL}
    done, half = found[COMPLETE], found[PARTIAL]
    assert (done.state, done.samples, done.total, done.coverage) == ("complete", 100, 100, 1.0)
    assert (done.processor, done.dataset, done.model) == ("Doubling", "TensorDataset", None)
    assert done.metrics == {"total": 4950.0}
    assert (half.state, half.samples, half.coverage, half.metrics) == ("incomplete", 60, 0.6, {})
    assert done.path == str(made / COMPLETE)
    json.dumps([item.to_json() for item in found.values()])


def test_there_may_be_no_runs_at_all(tmp_path):
    assert list_runs(str(tmp_path / "nowhere")) == []
    assert list_runs("memory://nothing-here") == []


def test_a_damaged_run_is_listed_as_such_and_hides_no_other(output):
    manifest = output / COMPLETE / "run.json"
    manifest.write_text(manifest.read_text().replace('"samples": 100', '"samples": 101'))
    assert {item.run_id: item.state for item in list_runs(str(output))} == {COMPLETE: "damaged", PARTIAL: "incomplete"}


def test_a_run_of_another_version_is_listed_too(output):
    path = output / COMPLETE / "run.json"
    manifest = json.loads(path.read_text())
    del manifest["sha256"]
    request = RunRequest(Selection("torch_module"), Selection("jsonl"), model_name="m").to_json()
    manifest["config"] = {"request": {**request, "a_new_key": 1}}
    path.write_bytes(seal(manifest))
    found = {item.run_id: item for item in list_runs(str(output))}
    assert (found[COMPLETE].processor, found[COMPLETE].dataset) == ("torch_module", "jsonl")


def test_a_run_is_described_whole(made):
    found = describe_run(str(made / COMPLETE))
    assert (found.batch_size, found.chunk_batches, found.chunks, found.committed_chunks) == (10, 2, 5, 5)
    assert found.intervals == [(0, 100)] and found.quarantined == 0
    assert [(part["start"], part["stop"], part["rows"]) for part in found.outputs] == [
        (0, 20, 20),
        (20, 40, 10),
        (40, 60, 20),
        (60, 80, 20),
        (80, 100, 20),
    ]
    assert len(found.files) == 10
    assert [report["group"] for report in found.reports] == ["seen"] * 10 + ["end"]
    assert found.links == [] and len(found.fingerprint) == 64
    assert json.loads(json.dumps(found.to_json()))["run_id"] == COMPLETE


def test_the_intervals_of_a_stopped_run_say_what_is_done(made):
    found = describe_run(str(made / PARTIAL))
    assert found.intervals == [(0, 60)] and found.committed_chunks == 3


def test_linked_models_are_described(tmp_path):
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"1")
    output = tmp_path / "runs"
    client.connect(str(output))
    try:
        version = client.create_model("digits").register_version(weights)
    finally:
        client.disconnect()

    class Linked(Doubling):
        def __init__(self, context):
            super().__init__(context)
            context.report_task_using_model_version(version)

    torch_batch_process(Linked, DATA, 50, output=output, run_id="x")
    (link,) = describe_run(str(output / "x")).links
    assert link == {"checkpoint": version.checkpoint.uuid, "model": "digits", "version": 1}


COPYING = """
import batchmill

class Copying(batchmill.TorchBatchProcessor):
    def __init__(self, context):
        pass
    def process_batch(self, batch, batch_idx):
        return {"x": batch["x"]}
"""


@pytest.fixture
def composed(tmp_path, monkeypatch):
    """A run from names alone."""
    (tmp_path / "copying_job.py").write_text(COPYING)
    monkeypatch.syspath_prepend(tmp_path)
    numbers = tmp_path / "numbers.jsonl"
    numbers.write_text("".join(json.dumps({"x": i}) + "\n" for i in range(20)))
    run(
        RunRequest(
            Selection("copying_job:Copying"),
            Selection("jsonl", {"path": str(numbers)}),
            launcher=Selection("in_process"),
            output=str(tmp_path / "runs"),
            run_id="x",
            batch_size=5,
            allow_import=True,
        )
    )
    yield tmp_path / "runs" / "x"
    sys.modules.pop("copying_job")


def test_what_is_no_run_is_not_found(tmp_path):
    for look in (describe_run, verify_run, open_run_directory):
        with pytest.raises(RunNotFoundError, match="There is no run at"):
            look(str(tmp_path))


# --- verify ---


def test_whole_runs_verify(made, composed):
    done = verify_run(str(made / COMPLETE))
    assert (done.ok, done.complete, done.samples, done.problems) == (True, True, 100, [])
    assert (done.checked_records, done.checked_parts, done.checked_files) == (5, 5, 10)
    half = verify_run(str(made / PARTIAL))
    assert (half.ok, half.complete, half.samples) == (True, False, 60)
    assert verify_run(str(composed)).ok
    json.dumps(done.to_json())


def files_of(run):
    return sorted(path for path in run.rglob("*") if path.is_file() and "tensorboard" not in path.parts)


def test_a_flipped_bit_anywhere_is_found(made, tmp_path):
    names = [path.relative_to(made / COMPLETE) for path in files_of(made / COMPLETE)]
    checked = [name for name in names if not name.name.startswith(".")]
    folders = {"commits", "parts", "files", "reports"}
    assert {name.parts[0] for name in checked} == folders | {"result.json", "run.json", "_SUCCESS"}
    copy = Path(shutil.copytree(made / COMPLETE, tmp_path / COMPLETE))
    for name in checked:
        intact = (copy / name).read_bytes()
        damaged = bytearray(intact)
        damaged[len(damaged) // 2] ^= 1
        (copy / name).write_bytes(damaged)
        if name.name == "run.json":
            with pytest.raises(CorruptRunError):
                verify_run(str(copy))
        else:
            found = verify_run(str(copy))
            assert not found.ok and any(name.name in problem for problem in found.problems), name
        (copy / name).write_bytes(intact)
    assert verify_run(str(copy)).ok


def test_a_flip_that_leaves_the_json_equal_is_found(output):
    """``1e-05`` and ``1E-05`` differ in one bit, and are one value to every JSON parser."""
    record = output / PARTIAL / "commits" / "00000001.json"
    reseal(record, reports=[{"value": 1e-05}])
    assert verify_run(str(output / PARTIAL)).ok
    data = record.read_bytes()
    assert data.count(b"1e-05") == 1
    record.write_bytes(data.replace(b"1e-05", b"1E-05"))
    assert json.loads(record.read_bytes()) == json.loads(data)
    (problem,) = verify_run(str(output / PARTIAL)).problems
    assert "commits/00000001.json is damaged: it is not laid out as it was written" in problem


def test_a_missing_file_is_found(output):
    for folder in ("parts", "files"):
        victim = next(path for path in files_of(output / PARTIAL) if folder in path.parts)
        victim.unlink()
        (problem,) = [text for text in verify_run(str(output / PARTIAL)).problems if victim.name in text]
        assert "is missing, although a commit record names it" in problem


def test_every_fault_is_listed_not_only_the_first(output):
    for path in files_of(output / PARTIAL):
        if path.parent.parent.name == "parts":
            path.write_bytes(b"")
    found = verify_run(str(output / PARTIAL))
    assert len([problem for problem in found.problems if "is damaged" in problem]) == 3


def reseal(path, **changes):
    document = json.loads(path.read_bytes())
    del document["sha256"]
    path.write_bytes(seal({**document, **changes}))


def test_a_record_that_does_not_fit_the_grid_is_found(output):
    reseal(output / PARTIAL / "commits" / "00000001.json", start=21)
    shutil.copy(output / PARTIAL / "commits" / "00000000.json", output / PARTIAL / "commits" / "00000009.json")
    problems = verify_run(str(output / PARTIAL)).problems
    assert any("chunk 1 covers samples 21..40, the grid says 20..40" in text for text in problems)
    assert any("but the run has 5 chunks" in text for text in problems)


def test_rows_that_are_not_the_chunks_samples_are_found(output):
    log = open_run_directory(str(output / PARTIAL)).log
    first, second = log.read(0), log.read(2)
    reseal(output / PARTIAL / "commits" / "00000002.json", parts=first["parts"])
    (problem,) = verify_run(str(output / PARTIAL)).problems
    assert f"{first['parts'][0]['name']} does not hold samples 40..59 once each, in order" in problem
    assert second["parts"] != first["parts"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"samples": 99}, "result.json says 99 samples, run.json 100"),
        ({"outputs": []}, "result.json lists other outputs than the commit records"),
        ({"files": []}, "result.json lists other files than the commit records"),
        ({"fingerprint": "abc"}, "result.json and run.json have different fingerprints"),
        ({"metrics": {"total": 1.0}}, "_SUCCESS carries another digest"),
    ],
)
def test_a_result_that_does_not_fit_the_records_is_found(output, changes, problem):
    reseal(output / COMPLETE / "result.json", **changes)
    assert any(problem in text for text in verify_run(str(output / COMPLETE)).problems)


def test_a_result_before_its_time_is_found(output):
    shutil.copy(output / COMPLETE / "result.json", output / PARTIAL / "result.json")
    problems = verify_run(str(output / PARTIAL)).problems
    assert any("says complete, but 2 chunks have no record, first 3" in text for text in problems)
    assert any("_SUCCESS is missing; resume the run to write it" in text for text in problems)


def test_a_writer_that_is_not_installed_is_a_problem(composed):
    path = composed / "run.json"
    manifest = json.loads(path.read_text())
    manifest["config"]["request"]["writer"]["name"] = "papyrus"
    del manifest["sha256"]
    path.write_bytes(seal(manifest))
    found = verify_run(str(composed))
    assert not found.ok and any("no writer named 'papyrus'" in text for text in found.problems)


class Lines:
    """A writer that only this process has."""

    extension = "txt"

    def encode(self, output):
        return b"".join(b"%d\n" % index for index in output.index)


def test_parts_of_a_python_writer_are_checked_by_their_digest(tmp_path):
    torch_batch_process(Doubling, DATA, 10, output=tmp_path, run_id="x", writer=Lines())
    assert verify_run(str(tmp_path / "x")).ok
    part = next(path for path in files_of(tmp_path / "x") if path.suffix == ".txt")
    part.write_bytes(part.read_bytes() + b"1\n")
    assert not verify_run(str(tmp_path / "x")).ok


def test_a_damaged_report_is_told(output):
    (report,) = (output / COMPLETE / "reports").iterdir()
    report.write_bytes(report.read_bytes()[:-2])
    with pytest.raises(CorruptRunError, match=r"reports/.* is damaged"):
        describe_run(str(output / COMPLETE))


def test_looking_changes_nothing_and_needs_no_torch(output):
    before = {path: path.read_bytes() for path in files_of(output)}
    code = (
        "import sys; from batchmill.inspection import *; o = sys.argv[1];"
        "list_runs(o); describe_run(o + '/complete'); assert verify_run(o + '/complete').ok;"
        "raise SystemExit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(output)], check=False, timeout=60)
    assert done.returncode == 0
    assert {path: path.read_bytes() for path in files_of(output)} == before
    assert canonical_json({}) == b"{}"
