"""Text from data, user code and file names cannot move the cursor, hide lines, or write lines of its own into logs."""

from __future__ import annotations

import io
import logging
import unicodedata
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

import batchmill
from batchmill.cli import app
from batchmill.cli.display import show_facts, show_table
from batchmill.cli.failures import report
from batchmill.engine.safe_text import printable, safe_text
from batchmill.errors import ProcessorError
from batchmill_plugins.callbacks._logging import LoggingCallback

CLEAR, OVERWRITE, FORGED = "\x1b[2J\x1b[H", "\rall is well", "\n2026-01-01 00:00:00 batchmill INFO run x: complete"
HOSTILE = f"bad{CLEAR}{OVERWRITE}{FORGED}\x9b31m\u202eevil\u2066\u2028next\x07\x00\ud800\x7f"


def assert_tame(text: str, lines: int | None = None) -> None:
    for character in "\x1b\r\x9b\u202e\u2066\u2028\x07\x00\ud800\x7f\x08":
        assert character not in text, f"{character!r} in {text!r}"
    if lines is not None:
        assert len(text.splitlines()) == lines, text


@given(st.text(alphabet=st.characters(), max_size=60), st.sampled_from(["", "\n", "\n\t"]))
def test_whatever_is_shown_is_printable(text: str, keep: str) -> None:
    shown = printable(text, keep)
    categories = {unicodedata.category(character) for character in shown if character not in keep}
    assert not categories & {"Cc", "Cf", "Zl", "Zp", "Cs"}
    assert len(shown.splitlines()) <= max(1, text.count("\n") + 1)
    assert printable(shown, keep) == shown
    if all(character.isprintable() for character in text):
        assert shown == text, "what needs no escape is left alone"


def test_escapes_can_be_read() -> None:
    assert printable("a\x1b[31m\r\u202e\U000e0001é日\n", keep="") == "a\\x1b[31m\\x0d\\u202e\\U000e0001é日\\x0a"


class Raises(batchmill.TorchBatchProcessor):
    def __init__(self, context: batchmill.TorchBatchProcessorContext) -> None:
        self.fails = context.get_hparams()["fails"]

    def process_batch(self, batch: Any, batch_idx: int) -> Any:
        if 3.0 in batch[0] and self.fails:
            raise RuntimeError(HOSTILE)
        return {HOSTILE.replace("\ud800", ""): batch[0]}


@pytest.fixture
def log() -> Any:
    """What a log file of a program with a plain format gets."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger = logging.getLogger("batchmill")
    before = logger.level
    logger.addHandler(handler)
    yield stream
    logger.removeHandler(handler)
    logger.setLevel(before)


def run(output: Path, **more: Any) -> batchmill.RunResult:
    data = TensorDataset(torch.arange(8.0))
    given = {"batch_size": 2, "output": output, "run_id": "x", "callbacks": {"log": LoggingCallback("DEBUG")}}
    return batchmill.torch_batch_process(Raises, data, **given, **more)


def test_a_sample_s_error_stays_one_line_of_the_log(tmp_path: Path, log: io.StringIO) -> None:
    result = run(tmp_path, hparams={"fails": True}, writer="jsonl")
    assert result.quarantined == 1
    told = log.getvalue()
    assert "\\x1b[2J" in told
    assert_tame(told)
    assert [line for line in told.splitlines() if line.startswith("2026-01-01")] == []
    assert sum("run x: complete" in line for line in told.splitlines()) >= 1
    assert all(line.partition(" ")[0] in ("DEBUG", "INFO", "WARNING") for line in told.splitlines())


def test_an_error_and_its_traceback_stay_tame_in_the_log(tmp_path: Path, log: io.StringIO) -> None:
    with pytest.raises(ProcessorError):
        run(tmp_path, hparams={"fails": True}, on_error="fail")
    try:
        raise RuntimeError(HOSTILE)
    except RuntimeError:
        logging.getLogger("batchmill").exception("it %s", "failed\x1b[0m")
    told = log.getvalue()
    assert "ERROR worker 0 of 1: ProcessorError" in told and "ERROR it failed\\x1b[0m" in told
    assert_tame(told)


def test_the_command_line_shows_errors_tamely(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ProcessorError) as caught:
        run(tmp_path, hparams={"fails": True}, on_error="fail")
    report(caught.value)
    assert_tame(click.unstyle(capsys.readouterr().err))


def test_tables_and_facts_are_tame(capsys: pytest.CaptureFixture[str]) -> None:
    show_table([HOSTILE], [[HOSTILE], ["fine"]], title="")
    assert_tame(capsys.readouterr().out, lines=3)
    show_facts(HOSTILE.replace("\n", ""), [(HOSTILE, "x"), ("key", HOSTILE)])
    assert_tame(capsys.readouterr().out)


@pytest.mark.parametrize(
    "verb", [["show"], ["show", "--json"], ["verify"], ["quarantined"], ["quarantined", "--jsonl"]]
)
def test_looking_at_a_run_is_tame(verb: list[str], tmp_path: Path) -> None:
    run(tmp_path, hparams={"fails": True}, writer="jsonl")
    done = CliRunner().invoke(app, [verb[0], str(tmp_path / "x"), *verb[1:]])
    assert done.exit_code == 0, done.output
    assert_tame(click.unstyle(done.output))


@pytest.mark.parametrize(
    "given", [["show", HOSTILE], ["run", HOSTILE], [HOSTILE.replace("\0", "")], ["run", f"x={CLEAR}"]]
)
def test_what_was_typed_is_repeated_tamely(given: list[str]) -> None:
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 2
    assert_tame(click.unstyle(done.output))


def test_a_plugin_s_error_is_shown_tamely(monkeypatch: pytest.MonkeyPatch) -> None:
    from batchmill.plugin_manager import PluginInfo, get_catalog

    hostile = {"evil": PluginInfo(f"evil{CLEAR}", "evil", "evil==1", "failed", HOSTILE)}
    monkeypatch.setattr(get_catalog(), "plugins", {**get_catalog().plugins, **hostile})
    for verb in (["plugins"], ["doctor"], ["run", "processor=nosuch", "dataset=jsonl"]):
        done = CliRunner().invoke(app, verb)
        assert_tame(click.unstyle(done.output))


def test_secrets_and_controls_together() -> None:
    assert safe_text("https://me:pass\x1bword@host/") == "https://me:***@host/"
