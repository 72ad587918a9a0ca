"""``batchmill metrics compare`` on real runs, and how fast both verbs answer."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from metric_runs import HOSTILE, MATRIX, TURNED

Invoke = Callable[..., Result]


def test_two_versions(invoke: Invoke, reported: Path) -> None:
    done = invoke("metrics", "compare", "digits:production", "digits:latest", "--group", "inference")
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"A: digits:1, run base (complete), {reported}/runs/base"
    # The newest complete run: not `earlier`, nor `cut`, which came later and is not complete.
    assert lines[1] == f"B: digits:2, run tonight (complete), {reported}/runs/tonight"
    by_metric = {line.split()[0]: line.split() for line in lines[4:]}
    assert by_metric["accuracy"] == ["accuracy", "0.99", "0.98", "-0.01", "-1.01", "%"]
    assert by_metric["loss"] == ["loss", "0.333333", "0.5", "+0.166667", "+50", "%"]
    assert by_metric["name"] == ["name", "text"]


def test_two_runs_as_json(invoke: Invoke, reported: Path, folder: Path) -> None:
    sides = [str(reported / "runs" / name) for name in ("base", "tonight")]
    done = invoke("metrics", "compare", *sides, "--group", "inference", "--fail-if", "B.loss<0.75", "--json")
    assert done.exit_code == 1
    document = json.loads(done.stdout)
    assert (document["group"], document["same_data"], document["failed"]) == ("inference", True, True)
    assert document["a"] == {
        "given": sides[0],
        "version": None,
        "run": "base",
        "path": sides[0],
        "complete": True,
    }
    rows = {row.pop("metric"): row for row in document["metrics"]}
    assert rows["accuracy"] == {"a": 0.99, "b": 0.98, "difference": -0.01, "relative": pytest.approx(-1 / 99)}
    assert rows["matrix"] == {"a": MATRIX, "b": MATRIX, "difference": None, "relative": None}
    assert rows["name"] == {"a": None, "b": "text", "difference": None, "relative": None}
    (condition,) = document["conditions"]
    assert condition == {
        "condition": "B.loss<0.75",
        "subject": "value",
        "measured": 0.5,
        "holds": True,
        "beyond": 0.25,
    }


@pytest.mark.parametrize(
    ("conditions", "code", "verdicts"),
    [
        (["accuracy<-0.01"], 0, ["passed accuracy<-0.01: B - A is -0.01, 0 from the limit"]),
        (["accuracy<=-0.01"], 1, ["FAILED accuracy<=-0.01: B - A is -0.01, past the limit by 0"]),
        (["loss>5%"], 1, ["FAILED loss>5%: relative difference is +50 %, past the limit by 45 %"]),
        (["B.accuracy<0.9"], 0, ["passed B.accuracy<0.9: B is 0.98, 0.08 from the limit"]),
        (["loss>1", "loss>0.1", "accuracy>0"], 1, ["passed loss>1", "FAILED loss>0.1", "passed accuracy>0"]),
    ],
)
def test_conditions(invoke: Invoke, reported: Path, conditions: list[str], code: int, verdicts: list[str]) -> None:
    given = [part for condition in conditions for part in ("--fail-if", condition)]
    done = invoke("metrics", "compare", "base", "tonight", "--group", "inference", *given)
    assert done.exit_code == code
    told = [line for line in done.stdout.splitlines() if line.startswith(("passed", "FAILED"))]
    assert len(told) == len(verdicts)
    for line, verdict in zip(told, verdicts, strict=True):
        assert line.startswith(verdict)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["base", "tonight", "--fail-if", "acuracy<0"], "Did you mean 'accuracy'?"),
        (["base", "tonight", "--fail-if", "name<0"], "A has no such metric and in B it is a text, not a number"),
        (["base", "tonight", "--fail-if", "matrix<0"], "in A it is a list, not a number"),
        (["base", "tonight", "--fail-if", "accuracy"], "has no comparison"),
        (["base", "tonihgt"], "Did you mean 'tonight'?"),
        (["base", "digits:3"], "has no version '3'"),
        (["base", "digist:1"], "Did you mean 'digits'?"),
        (["base", "digits:"], "has no version ''"),
        (["base", ":1"], "A model's name has"),
        (["base", "wider"], "Run wider reported no metrics in group 'inference'. Groups there: validation, wide."),
        (["digits:1", "digits:2", "--group", "wide"], "No run of model 'digits' version 1 reported metrics"),
        (["base", "--group", "inference"], "Missing argument 'B'"),
    ],
)
def test_wrong_use(invoke: Invoke, reported: Path, arguments: list[str], fault: str) -> None:
    group = [] if "--group" in arguments else ["--group", "inference"]
    done = invoke("metrics", "compare", *arguments, *group)
    assert (done.exit_code, done.stdout) == (2, "")
    assert fault in done.stderr
    assert "Traceback" not in done.stderr


def test_final_metrics_are_the_default_group(invoke: Invoke, reported: Path) -> None:
    document = json.loads(invoke("metrics", "compare", "base", "tonight", "--json").stdout)
    assert document["group"] == "validation"
    assert [(row["metric"], row["a"], row["difference"]) for row in document["metrics"]] == [("total", 45, 0)]


def test_other_data_and_incomplete_runs_are_told(invoke: Invoke, reported: Path) -> None:
    other = invoke("metrics", "compare", "base", "wider")
    assert "did not read the same data" in other.stderr
    cut = invoke("metrics", "compare", "base", "cut", "--group", "inference")
    assert cut.exit_code == 0
    assert "B is not complete" in cut.stderr
    assert "run cut (incomplete)" in cut.stdout
    assert "same data" not in cut.stderr


def test_a_version_without_a_complete_run(invoke: Invoke, reported: Path, folder: Path) -> None:
    output = folder / "runs"
    shutil.copytree(reported / "runs", output)
    for name in ("earlier", "tonight"):
        shutil.rmtree(output / name)
    done = invoke("metrics", "compare", "digits:1", "digits:2", "--group", "inference")
    assert done.exit_code == 2
    for part in ("cut (incomplete)", "tonight (not below 'runs')", "batchmill resume RUN"):
        assert part in done.stderr


def test_hostile_names(invoke: Invoke, reported: Path) -> None:
    condition = json.dumps(HOSTILE, ensure_ascii=False) + "<0"
    for arguments in (["alone", "alone", "--group", TURNED], ["base", "alone", "--fail-if", condition]):
        done = invoke("metrics", "compare", *arguments)
        assert not {"\x1b", "\r", "\u202e"} & set(done.output)


def test_runs_need_no_ledger(invoke: Invoke, reported: Path, folder: Path) -> None:
    for name in ("base", "tonight"):
        shutil.copytree(reported / "runs" / name, folder / "runs" / name)
    done = invoke("metrics", "compare", "base", "tonight", "--group", "inference", "--fail-if", "accuracy<0")
    assert done.exit_code == 1
    assert "FAILED accuracy<0: B - A is -0.01, past the limit by 0.01" in done.stdout


def test_answers_import_nothing_heavy_and_come_at_once(reported: Path) -> None:
    script = (
        "import sys\nfrom batchmill.cli import app\n"
        "try:\n    app(sys.argv[1:], prog_name='batchmill')\n"
        "finally:\n"
        "    heavy = {'torch', 'pyarrow', 'obstore', 'hydra', 'safetensors'} & set(sys.modules)\n"
        "    assert not heavy, heavy"
    )
    for arguments, code in (
        (["metrics", "--model", "digits"], 0),
        (["metrics", "--csv"], 0),
        (["metrics", "compare", "digits:1", "digits:2", "--group", "inference", "--fail-if", "loss>1%"], 1),
        (["metrics", "compare", "base", "tonight", "--json"], 0),
    ):
        spent = []
        for _ in range(3):
            before = os.times()
            done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
            after = os.times()
            assert done.returncode == code, done.stderr
            # Processor time, for the machine may be busy with other work.
            spent.append(after.children_user + after.children_system - before.children_user - before.children_system)
            if spent[-1] < 0.7:
                break
        assert min(spent) < 0.7, arguments
