import json
import shutil
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

from batchmill import (
    AlreadyRunningError,
    ConfigError,
    CorruptRunError,
    Reducer,
    RunNotFoundError,
    RunRequest,
    StorageError,
    TorchBatchProcessor,
    api,
    hookimpl,
    run,
    torch_batch_process,
)
from batchmill.damage import find_damage
from batchmill.engine.assembly import Assembler, open_storage
from batchmill.engine.run_directory import LOCK
from batchmill.engine.serialization import seal
from batchmill.inspection import verify_run
from batchmill.plugin_manager import get_catalog
from batchmill.repair import repair_run, set_aside

DATA = TensorDataset(torch.arange(100.0))


class Doubling(TorchBatchProcessor):
    def __init__(self, context):
        self.context = context
        self.total = context.wrap_reducer(Reducer.SUM, "total")
        context.report_metrics("start", 0, {"fine": 1})

    def process_batch(self, batch, batch_idx):
        self.total.update(batch[0].sum())
        with self.context.upload_path() as path:
            (path / f"note-{batch_idx}").write_text("note")
        return {"y": batch[0] * 2}


@pytest.fixture
def python_run(tmp_path):
    """A run from Python objects: five chunks of twenty samples."""
    torch_batch_process(Doubling, DATA, 10, checkpoint_interval=2, output=tmp_path, run_id="x")
    return tmp_path / "x"


def storage_of(path):
    return open_storage(Assembler(get_catalog().registry), str(path))


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def spoil(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return bytes(data)


def part_of(path, chunk):
    (part,) = (path / "parts" / f"{chunk:08d}").iterdir()
    return part


def test_a_whole_run_is_left_as_it_is(named, python_run):
    for path in (named, python_run):
        before = contents(path)
        report = repair_run(str(path))
        assert (report.exit_code, report.problems, report.folder, report.set_aside) == (0, [], None, [])
        assert report.complete and contents(path) == before


def test_only_what_is_bad_is_computed_again(named):
    before = contents(named)
    bad = spoil(part_of(named, 2))
    report = repair_run(str(named))
    assert (report.exit_code, report.chunks, report.complete, report.remaining, report.advice) == (
        0,
        [2],
        True,
        [],
        None,
    )
    part = next(name for name in before if name.startswith("parts/00000002"))
    assert report.set_aside == ["_SUCCESS", "result.json", "commits/00000002.json", part]
    assert Path("processed").read_text() == "2\n"
    after = contents(named)
    assert after[f"{report.folder}/{part}"] == bad
    record = "commits/00000002.json"
    assert after[f"{report.folder}/{record}"] == before[record] != after[record]  # another attempt
    assert {name: data for name, data in after.items() if not name.startswith("damaged/")} == {
        **before,
        record: after[record],
    }
    reasons = json.loads(after[f"{report.folder}/reasons.json"])
    assert reasons["set_aside"] == report.set_aside
    assert [(reason["path"], reason["chunk"]) for reason in reasons["problems"]] == [(part, 2)]
    assert "is damaged: it is not the file that was committed" in reasons["problems"][0]["problem"]


def test_a_bad_result_is_folded_again_without_processing(named):
    before = (named / "result.json").read_bytes()
    spoil(named / "result.json")
    report = repair_run(str(named))
    assert (report.exit_code, report.chunks, report.set_aside) == (0, [], ["_SUCCESS", "result.json"])
    assert (named / "result.json").read_bytes() == before
    assert not Path("processed").exists()


def test_a_missing_success_is_written_and_nothing_moved(named):
    (named / "_SUCCESS").unlink()
    report = repair_run(str(named))
    assert (report.exit_code, report.folder, report.set_aside) == (0, None, [])
    assert (named / "_SUCCESS").exists() and verify_run(str(named)).ok


def test_a_missing_record_is_computed_again(named):
    (named / "commits" / "00000003.json").unlink()
    report = repair_run(str(named))
    assert report.exit_code == 0 and Path("processed").read_text() == "3\n"


def test_without_resuming_the_run_is_left_incomplete(named):
    spoil(named / "commits" / "00000001.json")
    report = repair_run(str(named), resume=False)
    assert (report.exit_code, report.complete, report.remaining) == (75, False, [])
    assert report.advice == f"Go on: batchmill resume {named}"
    found = verify_run(str(named))
    assert found.ok and not found.complete and found.samples == 15
    assert not Path("processed").exists()


def test_a_run_that_others_may_have_written_is_resumed_by_its_user_s_leave_only(named):
    named.chmod(0o777)
    spoil(part_of(named, 1))
    report = repair_run(str(named))
    assert (report.exit_code, report.chunks, report.complete) == (75, [1], False)
    assert "batchmill resume" in report.advice and "--allow-import" in report.advice
    assert not Path("processed").exists()
    assert api.resume(str(named), allow_import=True).complete
    assert verify_run(str(named)).ok


def test_a_run_from_python_objects_is_left_to_its_script(python_run):
    before = (python_run / "result.json").read_bytes()
    spoil(part_of(python_run, 4))
    report = repair_run(str(python_run))
    assert (report.exit_code, report.complete) == (75, False)
    assert report.advice.endswith("run the same script again, with run_id='x'.")
    torch_batch_process(Doubling, DATA, 10, checkpoint_interval=2, output=python_run.parent, run_id="x")
    assert repair_run(str(python_run)).exit_code == 0
    assert (python_run / "result.json").read_bytes() == before


def test_a_bad_report_leaves_the_result_alone(python_run):
    (report_file,) = (python_run / "reports").iterdir()
    spoil(report_file)
    report = repair_run(str(python_run))
    assert (report.exit_code, report.set_aside) == (0, [f"reports/{report_file.name}"])
    assert report.complete and verify_run(str(python_run)).ok


def test_a_stranger_among_the_records_is_set_aside(python_run):
    shutil.copy(python_run / "commits" / "00000000.json", python_run / "commits" / "notes.json")
    shutil.copy(python_run / "commits" / "00000000.json", python_run / "commits" / "00000007.json")
    report = repair_run(str(python_run))
    assert report.chunks == [] and {"commits/notes.json", "commits/00000007.json"} < set(report.set_aside)
    torch_batch_process(Doubling, DATA, 10, checkpoint_interval=2, output=python_run.parent, run_id="x")
    assert verify_run(str(python_run)).ok


def test_other_settings_after_a_lost_manifest_are_refused(python_run):
    before = contents(python_run)
    spoil(python_run / "run.json")
    report = repair_run(str(python_run))
    assert report.exit_code == 75 and report.set_aside == ["_SUCCESS", "result.json", "run.json"]
    assert "Start the run again" in report.advice
    again = {"checkpoint_interval": 2, "output": python_run.parent, "run_id": "x"}
    with pytest.raises(CorruptRunError, match="is the record of a run with other settings or data"):
        torch_batch_process(Doubling, DATA, 10, seed=3, **again)
    report = repair_run(str(python_run))  # the records agree with each other: it is run.json that is wrong
    assert report.set_aside == ["run.json"]
    assert torch_batch_process(Doubling, DATA, 10, **again).complete
    assert (python_run / "result.json").read_bytes() == before["result.json"]
    assert all((python_run / name).read_bytes() == before[name] for name in before if name.startswith("commits/"))


def test_another_grid_after_a_lost_manifest_is_refused(python_run):
    """The same settings on more workers can cut smaller chunks; records of the larger ones must not be folded."""
    manifest = json.loads((python_run / "run.json").read_bytes())
    del manifest["sha256"]
    shutil.rmtree(python_run / "reports")
    (python_run / "result.json").unlink()
    (python_run / "_SUCCESS").unlink()
    (python_run / "run.json").write_bytes(seal({**manifest, "chunk_batches": 1}))
    with pytest.raises(CorruptRunError, match=r"chunk 0 covers samples 0\.\.20, the grid says 0\.\.10"):
        torch_batch_process(Doubling, DATA, 10, checkpoint_interval=2, output=python_run.parent, run_id="x")


def test_an_incomplete_run_loses_only_what_is_bad(tmp_path):
    class StopAfter:
        left = 3

        @hookimpl
        def should_stop(self):
            self.left -= 1
            return "enough" if self.left == 0 else None

    arguments = {"checkpoint_interval": 2, "output": tmp_path, "run_id": "x"}
    torch_batch_process(Doubling, DATA, 10, callbacks={"stop": StopAfter()}, **arguments)
    spoil(tmp_path / "x" / "commits" / "00000001.json")
    report = repair_run(str(tmp_path / "x"))
    assert (report.exit_code, report.chunks, report.complete) == (75, [1], False)
    assert verify_run(str(tmp_path / "x")).samples == 40
    assert torch_batch_process(Doubling, DATA, 10, **arguments).complete
    assert verify_run(str(tmp_path / "x")).ok


def test_a_run_that_is_worked_on_is_refused(named):
    spoil(part_of(named, 0))
    before = contents(named)
    with storage_of(named).lock(LOCK) as held, pytest.raises(AlreadyRunningError, match="needs the run for itself"):
        assert held
        repair_run(str(named))
    assert {name: data for name, data in contents(named).items() if not name.startswith(".")} == {
        name: data for name, data in before.items() if not name.startswith(".")
    }


def test_a_file_that_changes_meanwhile_is_not_removed(named, monkeypatch):
    spoil(named / "commits" / "00000001.json")
    storage = storage_of(named)
    damage = find_damage(storage)
    put = storage.put

    def meddle(path, data):
        put(path, data)
        if path.endswith("reasons.json"):
            (named / "commits" / "00000001.json").write_bytes(b"somebody else's")

    monkeypatch.setattr(storage, "put", meddle)
    with pytest.raises(StorageError, match=r"00000001\.json changed during the repair, so somebody works on the run"):
        set_aside(storage, damage)
    assert (named / "commits" / "00000001.json").read_bytes() == b"somebody else's"


def test_what_cannot_be_checked_is_no_damage(named):
    manifest = json.loads((named / "run.json").read_bytes())
    manifest["config"]["request"]["writer"]["name"] = "papyrus"
    del manifest["sha256"]
    (named / "run.json").write_bytes(json.dumps(json.loads(seal(manifest)), indent=2, sort_keys=True).encode())
    before = contents(named)
    with pytest.raises(ConfigError, match="no writer named 'papyrus'"):
        repair_run(str(named))
    assert contents(named) == before


def test_a_run_of_a_later_format_is_left_alone(named):
    (named / "run.json").write_bytes(seal({"format": 2}))
    before = contents(named)
    with pytest.raises(CorruptRunError, match="has format 2; this version of Batchmill reads format 1"):
        repair_run(str(named))
    assert contents(named) == before


def test_where_there_is_no_run(tmp_path):
    with pytest.raises(RunNotFoundError, match="There is no run at"):
        repair_run(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("at", range(9))
def test_a_repair_that_dies_on_the_way_can_be_repeated(named, monkeypatch, at):
    """It dies before its n-th change; the run is then as bad as it was, or better, and says so."""
    before = (named / "result.json").read_bytes()
    spoil(named / "commits" / "00000001.json")
    storage = storage_of(named)
    damage = find_damage(storage)
    left = at

    class Died(Exception):
        pass

    def dying(change):
        def call(*arguments):
            nonlocal left
            left -= 1
            if left < 0:
                raise Died
            change(*arguments)

        return call

    with monkeypatch.context() as patched:
        for name in ("put", "delete"):
            patched.setattr(storage, name, dying(getattr(storage, name)))
        with pytest.raises(Died):
            set_aside(storage, damage)
    found = verify_run(str(named))
    assert not found.ok or not found.complete, "a run that is not whole looks whole"
    report = repair_run(str(named))
    if report.advice is not None or not report.problems:
        run_again = json.loads((named / "run.json").read_bytes())["config"]["request"]
        assert run(RunRequest.from_json(run_again)).complete
    assert verify_run(str(named)).ok and (named / "result.json").read_bytes() == before
