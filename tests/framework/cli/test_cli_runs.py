"""The reading verbs on a real run, which a subprocess makes once."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result

from batchmill import client
from batchmill.engine.serialization import canonical_json, sha256_hex

Invoke = Callable[..., Result]

MODULE = """
import batchmill

class Halve(batchmill.TorchBatchProcessor):
    def __init__(self, context, spoil=False):
        self.spoil = spoil

    def process_batch(self, batch, batch_idx):
        print("processing", batch_idx)
        if self.spoil:
            raise RuntimeError("spoilt")
        return {"half": [x / 2 for x in batch["x"].tolist()]}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with one complete run, ``good``, and a sweep of which one job failed."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "halving.py").write_text(MODULE)
    (folder / "data.jsonl").write_text("".join(f'{{"x": {i}}}\n' for i in range(10)))
    yield folder


@pytest.fixture(scope="module")
def sweep(place: Path) -> subprocess.CompletedProcess[str]:
    """Two jobs: the first writes run ``job-0``, the second fails on every sample."""
    overrides = ["+processor.name=halving:Halve", "+processor.spoil=false,true", "allow_import=true"]
    overrides += ["dataset=jsonl", "dataset.path=data.jsonl", "batch_size=4", "checkpoint_interval=1"]
    overrides += ["reducers=[sum]", "reducers.sum.column=half", "run_id=spoil-${processor.spoil}"]
    return subprocess.run(
        [sys.executable, "-m", "batchmill", "run", "-m", *overrides, "--json"],
        capture_output=True,
        text=True,
        cwd=place,
        timeout=120,
    )


@pytest.fixture
def good(sweep: subprocess.CompletedProcess[str], place: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of a complete run below ``runs`` of the working directory."""
    monkeypatch.chdir(place)
    assert (place / "runs" / "spoil-False").is_dir(), sweep.stderr
    return "spoil-False"


def test_a_real_sweep_from_end_to_end(sweep: subprocess.CompletedProcess[str]) -> None:
    shown = json.loads(sweep.stdout)
    first, second = shown["jobs"]
    assert first["result"]["complete"]
    assert first["result"]["metrics"] == {"sum": 22.5}
    assert second["overrides"] == {"processor.spoil": "true"}
    assert second["error"] is not None or second["result"]["quarantined"] == 10
    assert sweep.returncode == shown["exit_code"]
    assert "processing 0" in sweep.stderr


def test_ls(invoke: Invoke, good: str) -> None:
    runs = json.loads(invoke("ls", "--json").stdout)
    (run,) = [run for run in runs if run["run_id"] == good]
    assert (run["state"], run["samples"], run["total"], run["metrics"]) == ("complete", 10, 10, {"sum": 22.5})
    shown = invoke("ls").stdout
    assert "10/10" in shown
    assert "sum=22.5" in shown


@pytest.fixture
def ledger(good: str, place: Path) -> Iterator[Path]:
    """The ledger, which a test may lose."""
    path = place / "runs" / "batchmill.sqlite"
    before = path.read_bytes()
    yield path
    path.write_bytes(before)


def test_ls_rebuild_fills_a_lost_ledger(invoke: Invoke, good: str, ledger: Path) -> None:
    client.connect("runs")
    try:
        metrics = client.get_run(good).get_metrics()
        ledger.unlink()
        assert client.list_runs() == []
        done = invoke("ls", "--rebuild")
        assert (done.exit_code, done.stdout) == (0, "Rebuilt from 2 runs in 'runs': 1 reports, 0 links.\n")
        assert client.get_run(good).get_metrics() == metrics
        assert [record.metrics for record in metrics] == [{"sum": 22.5}]
    finally:
        client.disconnect()
    again = json.loads(invoke("ls", "--rebuild", "--json").stdout)
    assert (again["runs"], again["reports"], again["skipped"]) == ([good, "spoil-True"], 1, {})


def test_ls_rebuild_names_damaged_runs(invoke: Invoke, good: str, ledger: Path, place: Path) -> None:
    result = place / "runs" / good / "result.json"
    before = result.read_bytes()
    result.write_bytes(before[:-20])
    try:
        done = invoke("ls", "--rebuild")
        assert done.exit_code == 65
        assert f"  left out: runs/{good}: " in done.stdout
        assert "batchmill repair RUN" in done.stdout
        shown = json.loads(invoke("ls", "--rebuild", "--json").stdout)
        assert (shown["runs"], list(shown["skipped"]), shown["exit_code"]) == (["spoil-True"], [f"runs/{good}"], 65)
    finally:
        result.write_bytes(before)


def test_ls_rebuild_says_that_models_cannot_be_rebuilt(invoke: Invoke, good: str, ledger: Path, place: Path) -> None:
    link = canonical_json({"checkpoint": "0000", "model": "digits", "version": 3})
    path = place / "runs" / good / "links" / f"{sha256_hex(link)[:16]}.json"
    path.parent.mkdir()
    path.write_bytes(link)
    try:
        done = invoke("ls", "--rebuild")
        assert done.exit_code == 0
        assert f"  not linked: runs/{good}: It used version 3 of model 'digits' (checkpoint 0000). There" in done.stdout
        assert "Models cannot be rebuilt" in done.stdout
    finally:
        shutil.rmtree(path.parent)


def test_ls_where_nothing_is(invoke: Invoke, folder: Path) -> None:
    assert "There are no runs in 'runs'" in invoke("ls").stdout
    assert json.loads(invoke("ls", "--json").stdout) == []
    assert invoke("ls", "--rebuild").stdout == "Rebuilt from 0 runs in 'runs': 0 reports, 0 links.\n"
    assert list(folder.iterdir()) == []


def test_show(invoke: Invoke, good: str) -> None:
    run = json.loads(invoke("show", good, "--json").stdout)
    assert (run["run_id"], run["chunks"], run["committed_chunks"], run["intervals"]) == (good, 3, 3, [[0, 10]])
    shown = invoke("show", f"runs/{good}").stdout
    for part in ("is complete", "10 of 10 committed", "3 of 3", "22.5", "batchmill.read_outputs(", "0..3", "8..9"):
        assert part in shown


def test_verify(invoke: Invoke, good: str) -> None:
    done = invoke("verify", good)
    assert done.exit_code == 0
    assert "OK: runs/spoil-False: 10 samples, 3 commit records, 3 parts, 0 files checked." in done.stdout
    assert json.loads(invoke("verify", good, "--json").stdout)["ok"] is True


def test_verify_finds_damage(invoke: Invoke, good: str, place: Path) -> None:
    part = next(path for path in (place / "runs" / good / "parts").rglob("*") if path.is_file())
    before = part.read_bytes()
    part.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    try:
        done = invoke("verify", good)
        assert done.exit_code == 65
        assert done.stdout.startswith(f"DAMAGED: runs/{good}: 1 problems")
        assert part.name in done.stdout
        found = json.loads(invoke("verify", good, "--json").stdout)
        assert (found["ok"], len(found["problems"])) == (False, 1)
    finally:
        part.write_bytes(before)


def test_repair(invoke: Invoke, good: str, place: Path) -> None:
    whole = invoke("repair", good)
    assert (whole.exit_code, whole.stdout) == (
        0,
        f"OK: runs/{good}: nothing is damaged; nothing was changed.\n",
    )
    run = place / "runs" / good
    result = (run / "result.json").read_bytes()
    record = run / "commits" / "00000001.json"
    record.write_bytes(record.read_bytes()[:-20])
    waiting = invoke("repair", good, "--no-resume")
    assert waiting.exit_code == 75
    for part in ("1 problems found", "commits/00000001.json is damaged", "files were set aside", "batchmill resume"):
        assert part in waiting.stdout
    assert invoke("resume", good).exit_code == 0
    (run / "_SUCCESS").write_bytes(b"")
    done = invoke("repair", good, "--json", "--nproc", "1")
    shown = json.loads(done.stdout)
    assert (done.exit_code, shown["complete"], shown["set_aside"]) == (0, True, ["_SUCCESS", "result.json"])
    assert (run / "result.json").read_bytes() == result
    (run / "_SUCCESS").write_bytes(b"")
    assert "Repaired: 0 chunks were computed again, and everything verifies." in invoke("repair", good).stdout


def test_damage_met_by_other_verbs_is_told_with_what_to_do(invoke: Invoke, good: str, place: Path) -> None:
    result = place / "runs" / good / "result.json"
    before = result.read_bytes()
    result.write_bytes(before[:-2])
    try:
        done = invoke("resume", good)
        assert done.exit_code == 65
        assert "`batchmill repair RUN` sets it aside and computes it again" in done.stderr
    finally:
        result.write_bytes(before)


class TestLocate:
    @pytest.mark.parametrize("verb", ["show", "verify", "repair", "resume"])
    def test_a_misspelt_id(self, invoke: Invoke, good: str, verb: str) -> None:
        done = invoke(verb, "spoil-Flase")
        assert done.exit_code == 2
        assert "There is no run 'spoil-Flase' in 'runs'" in done.stderr
        assert "Did you mean 'spoil-False'?" in done.stderr

    def test_elsewhere(self, invoke: Invoke, good: str, place: Path, folder: Path) -> None:
        assert invoke("show", good).exit_code == 2
        assert invoke("show", good, "--output", str(place / "runs")).exit_code == 0
        assert invoke("show", str(place / "runs" / good)).exit_code == 0

    def test_a_folder_that_is_no_run(self, invoke: Invoke, folder: Path) -> None:
        (folder / "other").mkdir()
        done = invoke("show", "other")
        assert done.exit_code == 2
        assert "Traceback" not in done.stderr

    def test_the_id_below_output_comes_first(self, invoke: Invoke, good: str, place: Path) -> None:
        (place / good).mkdir()
        try:
            assert invoke("show", good).exit_code == 0
        finally:
            (place / good).rmdir()
