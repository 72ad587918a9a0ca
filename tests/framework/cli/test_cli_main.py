import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import Result

import batchmill
from batchmill.cli import app
from batchmill.errors import BatchmillError, ConfigError, StorageError

Invoke = Callable[..., Result]
VERBS = ["run", "resume", "ls", "show", "metrics", "quarantined", "retry-quarantined", "verify", "repair"]
VERBS += ["plugins", "doctor"]


def test_version(invoke: Invoke) -> None:
    assert invoke("--version").stdout == f"batchmill, version {batchmill.__version__}\n"


def test_help_lists_every_verb_and_exit_code(invoke: Invoke) -> None:
    text = invoke("--help").stdout
    assert [verb for verb in VERBS if f"\n  {verb} " not in text] == []
    assert "..." not in text.partition("Commands:")[2]
    for code in ("0 complete", "1 a --fail-if condition holds", "75 stopped early", "65 ", "70 ", "73 ", "74 ", "78 "):
        assert code in " ".join(text.split())


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_teaches_by_example(invoke: Invoke, verb: str) -> None:
    shown = invoke(verb, "--help")
    assert shown.exit_code == 0
    assert f"batchmill {verb} " in shown.stdout or f"batchmill {verb}\n" in shown.stdout
    assert "\b" not in shown.stdout
    assert invoke(verb, "-h").stdout == shown.stdout


def test_a_misspelt_verb(invoke: Invoke) -> None:
    done = invoke("verfy", "x")
    assert done.exit_code == 2
    assert "There is no command 'verfy'. Did you mean 'verify'?" in done.stderr
    assert done.stdout == ""


def test_a_misspelt_option(invoke: Invoke) -> None:
    done = invoke("run", "--dry-rnu")
    assert done.exit_code == 2
    assert "--dry-run" in done.stderr


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(output: str) -> Any:
        raise error

    monkeypatch.setattr("batchmill.inspection.list_runs", fail)


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "code"), [(ConfigError("Not so."), 2), (StorageError("Disk full."), 74), (BatchmillError("Oh."), 70)]
    )
    def test_ours_are_a_message_and_a_code(
        self, invoke: Invoke, monkeypatch: pytest.MonkeyPatch, error: BatchmillError, code: int
    ) -> None:
        failing(monkeypatch, error)
        done = invoke("ls", env={"BATCHMILL_FULL_ERROR": "0"})
        assert (done.exit_code, done.stdout, done.stderr) == (code, "", f"Error: {error}\n")

    def test_with_a_traceback_where_it_is_asked_for(self, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
        failing(monkeypatch, ConfigError("Not so."))
        done = invoke("ls", env={"BATCHMILL_FULL_ERROR": "1"})
        assert done.exit_code == 2
        assert "Traceback" in done.stderr
        assert done.stderr.endswith("Error: Not so.\n")

    def test_others_are_a_traceback_and_an_internal_error(
        self, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        failing(monkeypatch, ZeroDivisionError("oops"))
        done = invoke("ls")
        assert done.exit_code == 70
        assert "ZeroDivisionError: oops" in done.stderr
        assert done.stdout == ""

    def test_ctrl_c_says_how_to_go_on(self, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
        failing(monkeypatch, KeyboardInterrupt())
        done = invoke("ls")
        assert done.exit_code == 130
        assert "batchmill resume RUN" in done.stderr
        assert "Traceback" not in done.stderr

    def test_a_closed_pipe_is_no_error_of_ours(self, folder: Path) -> None:
        script = "import sys; from batchmill.__main__ import main; sys.argv = ['batchmill', 'plugins']; main()"
        process = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        stderr = process.stderr.read()
        process.stderr.close()
        process.wait()
        assert "Traceback" not in stderr


def test_every_command_is_reachable_as_a_module(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "batchmill", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("batchmill, version")
    assert sorted(app.commands) == sorted(VERBS)
    assert isinstance(app, click.Group)


HEAVY = ("torch", "pyarrow", "obstore", "hydra", "safetensors")


def imported_after(*calls: list[str]) -> list[list[Any]]:
    """Make calls one after the other in a fresh process; return each one's exit code and the heavy modules so far."""
    script = (
        "import json, sys\nfrom batchmill.cli import app\n"
        f"for arguments in {list(calls)!r}:\n"
        "    try:\n        app(arguments, prog_name='batchmill')\n"
        "    except SystemExit as left:\n"
        f"        seen = [left.code or 0, [m for m in {HEAVY!r} if m in sys.modules]]\n"
        "        print('SEEN', json.dumps(seen))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return [json.loads(line[5:]) for line in done.stdout.splitlines() if line.startswith("SEEN ")]


def test_quick_answers_import_nothing_heavy(folder: Path) -> None:
    calls = [["--help"], ["run", "--help"], ["plugins"], ["plugins", "--json"], ["ls"], ["ls", "--json"]]
    calls += [["ls", "--rebuild"], ["metrics"], ["metrics", "--json"], ["metrics", "compare", "--help"]]
    wrong = [["show", "nowhere"], ["metrics", "compare", "a", "b"], ["metrics", "compare", "m:1", "m:2"]]
    assert imported_after(*calls, *wrong) == [[0, []]] * len(calls) + [[2, []]] * len(wrong)


def test_config_errors_import_no_more_than_hydra(folder: Path) -> None:
    calls = [["procesor=x"], ["processor=no_such_one"], ["-m", "batch_size=1,x"], ["a=[1"]]
    assert imported_after(*(["run", *call] for call in calls)) == [[2, ["hydra"]]] * len(calls)
