"""The examples as people run them: in a process of their own, in an empty folder."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import batchmill

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(*command: str | Path, folder: Path, **environ: str) -> str:
    """Run a command to its end in a folder and return its standard output."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_digits_ends_with_the_table_of_three_versions(tmp_path: Path) -> None:
    told = run(sys.executable, EXAMPLES / "digits" / "run.py", "--dir", "my digits", folder=tmp_path)
    rows = re.findall(r"^ *(\d) +complete +(0\.\d+) +(\S.*?) *$", told, flags=re.MULTILINE)
    assert [version for version, _, _ in rows] == ["1", "2", "3"]
    first, second, third = (float(accuracy) for _, accuracy, _ in rows)
    assert first + 0.05 < second < third - 0.05
    assert third > 0.95
    outputs = batchmill.read_outputs(rows[2][2])
    right = sum(p == t for p, t in zip(*(outputs[name].to_pylist() for name in ("prediction", "label")), strict=True))
    assert right / outputs.num_rows == pytest.approx(third, abs=1e-6)
    assert outputs["_index"].to_pylist() == list(range(1797))
    assert f"{1797 - right} are wrong" in told

    printed = re.search(r"\$ (batchmill run -m .*?)\n\n", told, flags=re.DOTALL)
    assert printed is not None
    command = shlex.split(printed.group(1).replace("\\\n", " "))
    again = json.loads(run(sys.executable, "-m", *command, "--dry-run", "--json", folder=tmp_path))
    assert [plan["samples"] for plan in again] == [1797] * 3, "the printed command is one that can be run"


def test_python_api_gives_the_same_bytes_under_torchrun(tmp_path: Path) -> None:
    script = EXAMPLES / "python_api" / "run.py"
    told = run(sys.executable, script, "--run-id", "alone", folder=tmp_path)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    told_by_two = run(*torchrun, script, "--run-id", "two", folder=tmp_path, OMP_NUM_THREADS="1")
    assert told_by_two.replace("two", "alone") == told
    assert len(re.findall(r"digit \d: mean brightness \d\.\d{3}", told)) == 10
    alone, two = (tmp_path / "runs" / name / "result.json" for name in ("alone", "two"))
    assert alone.read_bytes() == two.read_bytes()
    files = json.loads(alone.read_text())["files"]
    assert len(files) == 8
    image = (tmp_path / "runs" / "alone" / files[0]["name"]).read_text().split()
    assert image[:4] == ["P2", "8", "8", "16"]
    assert len(image) == 4 + 64


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The third-party plugin, installed from its sources as pip does it, into a folder of its own."""
    pytest.importorskip("hatchling", reason="builds the plugin's wheel; it comes with the extra 'test'")
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    run(*pip, "--disable-pip-version-check", "--target", folder, EXAMPLES / "third_party_plugin", folder=folder)
    return folder


def test_third_party_plugin_passes_its_own_tests(site: Path, tmp_path: Path) -> None:
    tests = EXAMPLES / "third_party_plugin"
    told = run(
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", tests / "pyproject.toml"),
        *("--rootdir", tests, tests / "tests"),
        folder=tmp_path,
        PYTHONPATH=str(site),
        PYTHONDONTWRITEBYTECODE="1",
    )
    assert "3 passed" in told


def test_third_party_plugin_is_listed_with_where_it_comes_from(site: Path, tmp_path: Path) -> None:
    listed = json.loads(
        run(sys.executable, "-m", "batchmill", "plugins", "processor", "--json", folder=tmp_path, PYTHONPATH=str(site))
    )
    shout = next(each for each in listed["components"] if each["name"] == "shout")
    assert (shout["plugin"], shout["version"]) == ("acme_shout", "batchmill-acme-shout==1.2.0")
    assert [setting["name"] for setting in shout["settings"]] == ["column", "marks"]
