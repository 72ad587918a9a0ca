"""Secrets are given by reference and are in nothing that is written or shown: every byte of it is searched."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import Launched, Launcher

import batchmill
from batchmill import settings
from batchmill.components import Kind
from batchmill.contracts.run import Selection
from batchmill.engine import confidential
from batchmill.engine.assembly import Assembler
from batchmill.engine.confidential import is_secret_name, is_secret_variable, plain_secrets, redact, reveal
from batchmill.errors import ConfigError
from batchmill.plugin_manager import get_catalog

CANARY = "cAnArY/7=+3f'9d"  # with characters that quoting, escaping and shells change
FORMS = {CANARY, quote(CANARY, safe=""), quote(CANARY), repr(CANARY)[1:-1], json.dumps(CANARY)[1:-1]}
BASE = ["processor=torch_module", "processor.builder=mlp", "dataset=jsonl", "dataset.path=data.jsonl"]

PROCESSOR = """
import batchmill


class Caller(batchmill.TorchBatchProcessor):
    \"\"\"Uses a secret, and tells it in every error that it makes.\"\"\"

    def __init__(self, context, api_key, fails="", nested=None):
        self.key = api_key
        if len(api_key) != 15 or context.get_hparams()["endpoint"] != f"https://user:{api_key}@host/":
            raise AssertionError("the secret did not arrive")
        if fails == "init":
            raise RuntimeError(f"401 for key {api_key}")
        self.fails = fails

    def process_batch(self, batch, batch_idx):
        if self.fails == "process" or (self.fails == "sample" and 3.0 in batch["x"]):
            raise RuntimeError(f"401 for key {self.key}")
        return {"x": batch["x"]}
"""


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """What one test reveals is no secret to the next."""
    before = set(confidential._known)
    yield
    confidential._known.clear()
    confidential._known.update(before)


@pytest.fixture
def folder(launch: Launcher) -> Path:
    launch.directory.mkdir(exist_ok=True)
    (launch.directory / "caller.py").write_text(PROCESSOR)
    (launch.directory / "data.jsonl").write_text("".join(json.dumps({"x": float(i)}) + "\n" for i in range(8)))
    return launch.directory


def call(launch: Launcher, *overrides: str, code: int, **environment: str) -> Launched:
    given = [*BASE[2:], "+processor.name=caller:Caller", "allow_import=true", "run_id=x", "batch_size=2"]
    given += ["+processor.api_key=${secret:MY_KEY}", "+hparams.endpoint='https://user:${secret:MY_KEY}@host/'"]
    given += ["callbacks=[logging,progress]", "callbacks.logging.level=DEBUG", "seed=3"]
    launched = launch("-m", "batchmill", "run", *given, *overrides, **environment)
    launched.finish(code)
    return launched


def assert_nowhere(*places: Path) -> None:
    """Assert that no file below has the canary, in any form, in its bytes or its name."""
    searched = 0
    for place in places:
        for file in [place, *place.rglob("*")]:
            assert not any(form in file.name for form in FORMS), file
            if file.is_file():
                searched += 1
                data = file.read_bytes()
                assert not any(form.encode() in data for form in FORMS), f"{file}: {data[:2000]!r}"
    assert searched > 0


@pytest.mark.parametrize(("fails", "nproc"), [("process", 2), ("sample", 1)])
def test_a_secret_by_reference_is_nowhere(
    launch: Launcher, folder: Path, tmp_path: Path, fails: str, nproc: int
) -> None:
    environment = {"MY_KEY": CANARY, "BATCHMILL_FULL_ERROR": "1"}
    if fails == "sample":
        (tmp_path / "mounted").write_text(CANARY + "\n")
        environment = {"MY_KEY_FILE": str(tmp_path / "mounted")}
    code = {"process": 70, "sample": 0}[fails]
    more = [f"launcher.nproc={nproc}", f"+processor.fails={fails}"]
    done = call(launch, *more, f"on_error={'fail' if fails == 'process' else 'quarantine'}", code=code, **environment)
    assert_nowhere(folder)
    if fails == "process":
        assert "401 for key ***" in done.stderr
        return
    run = folder / "runs" / "x"
    manifest = json.loads((run / "run.json").read_text())
    assert manifest["config"]["request"]["processor"]["settings"]["api_key"] == "${secret:MY_KEY}"
    # A secret that changes is no other setting.
    assert manifest["fingerprint"]["covers"]["processor.api_key"] == "${secret:MY_KEY}"
    quarantined = [json.loads(file.read_text())["quarantined"] for file in (run / "commits").glob("*.json")]
    assert [item[0]["message"] for item in quarantined if item] == ["401 for key ***"]


def test_what_config_prints_has_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", CANARY)
    given = [*BASE, "processor.builder_args.api_key=${secret:MY_KEY}", "tracker.path='${secret:MY_KEY}/x'"]
    config = settings.compose_config(given)
    assert config["tracker"]["path"] == "${secret:MY_KEY}/x"
    printed = settings.to_yaml(config) + json.dumps(settings.as_config(settings.compose(given)))
    assert printed.count("${secret:MY_KEY}") == 4 and CANARY not in printed
    with pytest.raises(ConfigError, match=r"output=\$\{secret:MY_KEY\} refers to a secret, but output is shown"):
        settings.compose([*BASE, "output=${secret:MY_KEY}"])


PLAIN = [
    [f'processor.builder_args.api_key="{CANARY}"'],
    [f'+hparams.db_password="{CANARY}"'],
    [f'+hparams={{auth: {{accessToken: "{CANARY}"}}}}'],
    [f'storage.options.secret_access_key="{CANARY}"'],
    [f'+storage.options={{secret_access_key: "{CANARY}"}}'],
    [f'batch_size={{password: "{CANARY}"}}'],
    [f"tracker.path=postgresql://me:{quote(CANARY, safe='')}@host/db"],
    [f"output=s3://key:{quote(CANARY, safe='')}@bucket/runs", "storage=object_store"],
    [f"output=s3://{quote(CANARY + CANARY, safe='')}@bucket/runs", "storage=object_store"],
    [f"output=s3://bucket/runs?X-Amz-Signature={quote(CANARY, safe='')}", "storage=object_store"],
    [f"dataset.path=https://host/data.jsonl?sig={quote(CANARY, safe='')}&x=1"],
    [f"model.name=https://me:{quote(CANARY, safe='')}@host/x"],
    ["processor.builder_args.api_key=${oc.env:MY_KEY}"],
    ["+hparams.x=${oc.env:MY_KEY}"],
    ["+hparams.x=${oc.env:AWS_SECRET_ACCESS_KEY,none}"],
    [f'+hparams.secret="{CANARY}", unreadable'],
    [f"password={CANARY}", "=="],
]


@pytest.mark.parametrize(
    ("given", "sweep"), [*((given, False) for given in PLAIN), *((given, True) for given in PLAIN[::4])]
)
def test_a_plain_secret_is_refused_and_not_repeated(
    given: list[str], sweep: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MY_KEY", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, CANARY)
    with pytest.raises(ConfigError, match=r"plain text|looks like a secret") as caught:
        (settings.expand if sweep else settings.compose)([*BASE, *given])
    chain: BaseException | None = caught.value
    while chain is not None:
        assert not any(form in str(chain) for form in FORMS)
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)


class Shy:
    """Tells its secret in the error that it ends with."""

    def __init__(self, token: str) -> None:
        raise ValueError(f"401 for {token}")


def test_a_component_that_cannot_be_built_does_not_tell_its_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", CANARY)
    monkeypatch.setattr("jobs.Shy", Shy, raising=False)
    assembler = Assembler(get_catalog().registry, allow_import=True)
    with pytest.raises(ConfigError, match=r"callback 'jobs:Shy' cannot be built: ValueError: 401 for \*\*\*") as caught:
        assembler.build(Kind.CALLBACK, Selection("jobs:Shy", {"token": "${secret:MY_KEY}"}))
    assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_a_plain_secret_on_the_command_line_is_written_nowhere(launch: Launcher, folder: Path) -> None:
    done = call(launch, *PLAIN[1], code=2, MY_KEY=CANARY, BATCHMILL_FULL_ERROR="1")
    assert "hparams.db_password holds a secret in plain text" in done.stderr
    assert_nowhere(folder)
    assert not (folder / "runs").exists()


def test_a_plain_secret_in_a_preset_is_refused(tmp_path: Path) -> None:
    (tmp_path / "processor").mkdir()
    (tmp_path / "processor" / "mine.yaml").write_text(
        f"defaults: [torch_module]\nbuilder: mlp\nbuilder_args:\n  api_key: {json.dumps(CANARY)}\n"
    )
    with pytest.raises(ConfigError, match=r"processor\.builder_args\.api_key holds a secret in plain text"):
        settings.compose(["processor=mine", *BASE[2:]], config_dir=tmp_path)


class Keeps(batchmill.TorchBatchProcessor):
    def __init__(self, context: batchmill.TorchBatchProcessorContext) -> None:
        self.key = context.get_hparams()["api_key"]

    def process_batch(self, batch: object, batch_idx: int) -> None:
        assert self.key == CANARY


def test_python_gives_references_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from torch.utils.data import TensorDataset

    monkeypatch.setenv("MY_KEY", CANARY)
    data = TensorDataset(torch.arange(4.0))

    def run(key: str) -> batchmill.RunResult:
        place = {"output": tmp_path / "runs", "run_id": "x"}
        return batchmill.torch_batch_process(Keeps, data, hparams={"api_key": key}, **place)

    with pytest.raises(ConfigError, match=r"hparams.api_key holds a secret in plain text"):
        run(CANARY)
    assert not (tmp_path / "runs").exists()
    assert run("${secret:MY_KEY}").complete
    assert_nowhere(tmp_path)


def test_a_secret_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tracker.uri needs the secret ABSENT. Set the environment variable A"):
        reveal({"uri": "x://${secret:ABSENT}"}, "tracker", {})
    with pytest.raises(ConfigError, match=r"needs the secret ABSENT from ABSENT_FILE=/no/such/file: No such file"):
        reveal("${secret:ABSENT}", "tracker.uri", {"ABSENT_FILE": "/no/such/file"})
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="it is not text"):
        reveal("${secret:ABSENT}", "tracker.uri", {"ABSENT_FILE": str(binary)})


def test_references_are_replaced_wherever_they_stand() -> None:
    environ = {"A": "alpha", "B": "beta"}
    value = {"x": ["${secret:A}", ("pre-${secret:B}-${secret:A}", 3)], "y": None, "z": "${other}"}
    assert reveal(value, "k", environ) == {"x": ["alpha", ("pre-beta-alpha", 3)], "y": None, "z": "${other}"}


def test_only_the_component_that_asks_receives_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", CANARY)
    request = settings.compose([*BASE, "processor.builder_args.x=${secret:MY_KEY}"])
    assert CANARY not in repr(request) and CANARY not in json.dumps(request.to_json())
    assembler = Assembler(get_catalog().registry)
    built: list[Any] = []
    monkeypatch.setattr(assembler, "_call", lambda kind, name, factory, runtime, settings: built.append(settings))
    for kind, selection in ((Kind.WRITER, request.writer), (Kind.PROCESSOR, request.processor)):
        assert not confidential._known & {CANARY}
        assembler.build(kind, selection)
    assert built[0] != built[1] and built[1]["builder_args"] == {"x": CANARY}


@pytest.mark.parametrize("name", ["api_key", "apiKey", "dbPassword", "DB_PASSWORD", "hub-token", "SAS_TOKEN"])
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["key", "keys", "max_tokens", "tokenizer", "token", "column", "password_column", "secrets_file", "monkey"]
)
def test_names_of_what_is_none(name: str) -> None:
    assert not is_secret_name(name)


def test_variables_of_secrets() -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "MY_KEY", "DB_PASSWORD", "OPENAI_API_KEY", "TOKEN"):
        assert is_secret_variable(name)
    for name in ("HOME", "KEYBOARD", "SLURM_JOB_ID", "DATA", "MONKEY", "TOKENIZERS_PARALLELISM"):
        assert not is_secret_variable(name)


def test_messages_lose_what_looks_like_a_secret() -> None:
    text = "GET https://me:hunter22@host/x?token=abcd&y=2 failed; api_key='k3y' password: s3cret, keep=token"
    told = "GET https://me:***@host/x?token=***&y=2 failed; api_key=*** password: ***, keep=token"
    assert redact(text) == told
    assert redact("postgresql://me@host/db s3://bucket/x ${secret:MY_KEY} http://h:80/x a@b.c") == (
        "postgresql://me@host/db s3://bucket/x ${secret:MY_KEY} http://h:80/x a@b.c"
    )


@given(st.text(alphabet="ab'\"/\\\n =+é", min_size=4, max_size=12), st.text(max_size=20), st.text(max_size=20))
def test_whatever_was_revealed_is_hidden(secret: str, before: str, after: str) -> None:
    try:
        reveal("${secret:S}", "k", {"S": secret})
        for text in (f"{before}{secret}{after}", f"{before}{secret!r}{after}"):
            assert secret not in redact(text).replace(confidential.HIDDEN, "\0")
    finally:
        confidential._known.discard(secret)


@given(st.recursive(st.text(max_size=9), lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=9), inner)))
def test_plain_values_are_left_alone(tree: object) -> None:
    for key, value in plain_secrets(tree, ""):
        assert value and (is_secret_name(key.rpartition(".")[2]) or "://" in str(tree))
