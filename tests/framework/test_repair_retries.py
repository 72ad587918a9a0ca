"""Verifying and repairing runs with a retry of quarantined samples."""

import shutil
from pathlib import Path

from batchmill import CorruptRunError, api
from batchmill.inspection import verify_run
from batchmill.repair import repair_run


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def spoil(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return bytes(data)


def every_file(path):
    names = [name for name in contents(path) if not name.rpartition("/")[2].startswith(".")]
    assert {name.partition("/")[0] for name in names} >= {"commits", "parts", "retries", "result.json", "_SUCCESS"}
    return sorted(names)


def test_damage_anywhere_in_a_retried_run_is_found(retried):
    assert verify_run(str(retried)).ok
    for name in every_file(retried):
        intact = (retried / name).read_bytes()
        spoil(retried / name)
        try:
            assert not verify_run(str(retried)).ok, name
        except CorruptRunError:
            assert name == "run.json" or name.endswith("retry.json")
        (retried / name).write_bytes(intact)


def test_damage_anywhere_in_a_retried_run_is_repaired(retried, tmp_path):
    for number, name in enumerate(every_file(retried)):
        if name in ("run.json", "retries/0001/retry.json"):
            continue
        copy = Path(shutil.copytree(retried, tmp_path / str(number) / "x"))
        bad = spoil(copy / name)
        report = repair_run(str(copy))
        assert (report.exit_code, report.complete) == (0, True), (name, report)
        assert verify_run(str(copy)).ok
        top = "retries/0001/result.json"
        assert (copy / top).read_bytes() == (retried / top).read_bytes()
        assert bad in contents(copy / "damaged").values()


def test_a_retry_whose_list_is_lost_is_begun_anew(retried):
    before = (retried / "retries" / "0001" / "result.json").read_bytes()
    spoil(retried / "retries" / "0001" / "retry.json")
    report = repair_run(str(retried))
    assert report.exit_code == 75 and "batchmill retry-quarantined" in report.advice
    assert set(report.set_aside) == {f"retries/0001/{name}" for name in ("_SUCCESS", "result.json", "retry.json")}
    found = verify_run(str(retried))
    assert found.ok and found.complete
    assert api.retry_quarantined(str(retried)).quarantined == 0
    assert (retried / "retries" / "0001" / "result.json").read_bytes() == before
    assert verify_run(str(retried)).ok and repair_run(str(retried)).exit_code == 0
