"""The README as a newcomer follows it: every shell line after the installation, in order, in one folder."""

from __future__ import annotations

import json
import re
from pathlib import Path

from doc_pages import ROOT, blocks
from test_docs import run_shell

import batchmill

README = ROOT / "README.md"
INSTALL, EXAMPLE, TESTS = 0, 1, 2  # the first three shell blocks


def shell_blocks() -> list[str]:
    return [block.text for block in blocks(README) if block.language == "sh"]


def test_the_guide_can_be_followed(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    processor = next(b.text for b in blocks(README) if b.language == "python" and "class Brightness" in b.text)
    assert len(processor.strip().splitlines()) <= 15, "the README promises a short one"
    (tmp_path / "bright.py").write_text(processor)
    shell = shell_blocks()
    assert shell[EXAMPLE].strip() == "python examples/digits/run.py"
    told = run_shell("\n".join(["exec 2>&1", shell[EXAMPLE], *shell[TESTS + 1 :]]), tmp_path)
    assert "OK: runs/bright: 1,797 samples" in told

    rows = batchmill.read_outputs(str(tmp_path / "runs" / "bright"))
    assert rows.column_names == ["_index", "brightness", "label"]
    assert rows["_index"].to_pylist() == list(range(1797))
    average = json.loads((tmp_path / "runs" / "bright" / "result.json").read_text())["metrics"]["average"]
    assert abs(sum(rows["brightness"].to_pylist()) / 1797 - average) < 1e-6


def test_an_error_in_the_readme_is_what_is_said(tmp_path: Path) -> None:
    command, _, said = re.findall(r"^\$ (batchmill .*)\n((.*)\n)", README.read_text(), flags=re.MULTILINE)[0]
    assert said in run_shell(f"exec 2>&1\n{command} || test $? = 2", tmp_path)


def test_ci_runs_the_readme_s_test_command() -> None:
    command = shell_blocks()[TESTS].strip()
    lines = [line.strip() for line in (ROOT / ".ci" / "run").read_text().splitlines()]
    assert command in lines
