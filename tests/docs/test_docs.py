"""The documentation says what is: its code runs, its tables match the code, its links lead somewhere."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import click
import pytest
from doc_pages import DOCS, PAGES, ROOT, anchor, blocks, commands, headings, links, name_of

from batchmill import errors, hookspecs
from batchmill.cli import app

RUNNABLE = "runnable"


def pages_with(language: str) -> list[Path]:
    return [page for page in PAGES if any(b.language == language and b.mark == RUNNABLE for b in blocks(page))]


@pytest.mark.parametrize("page", pages_with("python"), ids=name_of)
def test_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("documentation_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # where dataclasses look for their annotations
    for block in blocks(page):
        if block.language == "python" and block.mark == RUNNABLE:
            padded = "\n" * (block.line - 1) + block.text  # so that a traceback names the page's own line
            exec(compile(padded, str(page), "exec", dont_inherit=True), vars(module))  # noqa: S102 - our own pages


@pytest.mark.parametrize("page", pages_with("sh"), ids=name_of)
def test_shell_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    script = "\n".join(block.text for block in blocks(page) if block.language == "sh" and block.mark == RUNNABLE)
    run_shell(script, tmp_path)


def run_shell(script: str, folder: Path) -> str:
    """Run a script as a reader would, with this environment's commands; return what it prints."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_every_page_with_code_was_found() -> None:
    assert {name_of(page) for page in pages_with("python")} >= {"docs/hooks.md", "docs/reducers.md", "docs/plugins.md"}
    assert {name_of(page) for page in pages_with("sh")} >= {"docs/cli.md", "docs/configuration.md"}
    marks = {block.mark for page in PAGES for block in blocks(page)}
    assert marks <= {"", RUNNABLE}, "a misspelt mark would leave a block out"


def test_every_hook_is_documented_with_its_signature() -> None:
    specified = [
        f"{name}({', '.join(list(inspect.signature(hook).parameters)[1:])})"
        for specs in (hookspecs.CatalogSpecs, hookspecs.RunSpecs)
        for name, hook in vars(specs).items()
        if hasattr(hook, "batchmill_spec")
    ]
    assert len(specified) >= 11
    documented = [heading for heading in headings(DOCS / "hooks.md") if "(" in heading]
    assert documented == specified


def test_every_hook_has_an_example_under_its_heading() -> None:
    sections = re.split(r"^## ", (DOCS / "hooks.md").read_text(), flags=re.MULTILINE)[1:]
    for section in sections:
        name = section.partition("(")[0]
        assert f"def {name}(self" in section, f"{name} is documented without an example"


def test_components_page_is_what_the_plugins_register() -> None:
    made = subprocess.run(
        [sys.executable, "-c", "import make_components; print(make_components.page(), end='')"],
        cwd=DOCS,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (DOCS / "components.md").read_text() == made.stdout, "run python docs/make_components.py"


def test_exit_codes_page_matches_the_errors() -> None:
    rows = re.findall(r"^\| (\d+) \|.*\| (.*?) \|$", (DOCS / "exit-codes.md").read_text(), flags=re.MULTILINE)
    documented = {name: int(code) for code, names in rows for name in re.findall(r"`(\w+)`", names)}
    defined = {
        name: error.exit_code
        for name, error in vars(errors).items()
        if isinstance(error, type) and issubclass(error, errors.BatchmillError)
    }
    assert documented == defined
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert {int(code) for code, _ in rows} >= codes


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        target, _, fragment = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{name_of(page)} links to {link}, which is not there"
        if fragment and path.suffix == ".md":
            assert fragment in map(anchor, headings(path)), (
                f"{name_of(page)} links to {link}, which has no such heading"
            )


def test_documented_commands_and_options_exist() -> None:
    known = dict(app.commands)
    seen = set()
    for page in PAGES:
        for line in commands(page):
            words = shlex.split(line, comments=True) if line.startswith("batchmill ") else []
            verb = words[1] if len(words) > 1 else None
            if verb is None or verb.startswith("-"):
                continue
            assert verb in known, f"{name_of(page)}: there is no verb {verb!r} in: {line}"
            command = known[verb]
            if isinstance(command, click.Group) and len(words) > 2 and words[2] in command.commands:
                command = command.commands[words[2]]
            options = {o for p in command.params if isinstance(p, click.Option) for o in (*p.opts, "--help", "-h")}
            given = {word.partition("=")[0] for word in words[2:] if word.startswith("-")}
            assert given <= options, f"{name_of(page)}: {verb} has no option {given - options}: {line}"
            seen.add(verb)
    assert seen >= {"run", "resume", "verify", "plugins", "ls", "show", "doctor"}


def test_all_verbs_are_documented() -> None:
    page = (DOCS / "cli.md").read_text()
    missing = [verb for verb in app.commands if f"`batchmill {verb}" not in page]
    assert not missing


def test_index_links_every_page() -> None:
    linked = {link.partition("#")[0] for link in links(DOCS / "index.md")}
    missing = {page.name for page in DOCS.glob("*.md")} - linked - {"index.md"}
    assert not missing
    assert (ROOT / "docs" / "images" / "digits.svg").read_text().startswith("<svg")
