"""The benchmarks run; how fast anything is, no test says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("workloads", [["W1", "W1b", "W2", "W3", "W8", "W9"], ["W7"], ["W10"]], ids=" ".join)
def test_short_form_measures_every_case(tmp_path: Path, workloads: list[str]) -> None:
    out = tmp_path / "out.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--short", "--json", str(out), *workloads],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(out.read_text())
    assert [each["name"] for each in document["workloads"]] == workloads
    for workload in document["workloads"]:
        assert len(workload["timings"]) >= 2
        for case, timing in workload["timings"].items():
            assert case in done.stdout
            assert all(seconds > 0 for seconds in timing["seconds"])


def test_unknown_workload_is_named() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "W99"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "W99" in done.stderr
