"""Writes ``components.md`` from what the first-party plugins register: ``python docs/make_components.py``.

A test compares the file with what this makes, so it cannot fall behind.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from pathlib import Path

from batchmill.cli.plugins import settings_of
from batchmill.components import Component, Kind
from batchmill.plugin_manager import get_catalog

PAGE = Path(__file__).with_name("components.md")

KINDS = {
    Kind.PROCESSOR: "What happens to each batch. `processor=NAME processor.KEY=VALUE`",
    Kind.DATASET: "What is read. `dataset=NAME dataset.KEY=VALUE`",
    Kind.REDUCER: "Metrics over all samples ([reducers](reducers.md)). `'reducers=[NAME,...]' reducers.NAME.KEY=VALUE`",
    Kind.WRITER: "How returned rows are stored. `writer=NAME`",
    Kind.STORAGE: "Where the run lives; the scheme of `output` must be one it serves. `storage=NAME output=URL`",
    Kind.TRACKER: "Where models, versions and metrics are kept. `tracker=NAME`",
    Kind.CLAIMS: "How chunks are shared among workers. `claims=NAME`",
    Kind.LAUNCHER: "How workers are started, see [launchers](launchers.md). `launcher=NAME`",
    Kind.CALLBACK: "Who is told while the run goes on. `'callbacks=[NAME,...]' callbacks.NAME.KEY=VALUE`",
    Kind.BUILDER: "Makes a module for `processor=torch_module`. `processor.builder=NAME`",
    Kind.FUNCTION: "Is called by `processor=function`. `processor.target=NAME`",
}


def page() -> str:
    """Return the whole page."""
    parts = [
        "# Components",
        "",
        "Everything that comes with Batchmill, by kind. `batchmill plugins` prints the same for what is installed",
        "where you are, other people's plugins included. A **!** marks a setting that must be given.",
        "",
        "*Made by `python docs/make_components.py`; change the plugins, not this page.*",
    ]
    for kind, text in KINDS.items():
        components = [each for each in get_catalog().registry if each.kind is kind and _is_ours(each)]
        if components:
            parts += ["", f"## {kind.value}", "", text]
            parts += [line for component in components for line in _section(component)]
    return "\n".join(parts) + "\n"


def _is_ours(component: Component) -> bool:
    return component.version.startswith("batchmill==")


def _section(component: Component) -> list[str]:
    aliases = f" (also {', '.join(f'`{alias}`' for alias in component.aliases)})" if component.aliases else ""
    lines = ["", f"### {component.kind.noun} `{component.name}`", "", f"{component.summary}{aliases}"]
    settings = settings_of(component)
    if settings:
        meanings = _meanings(component)
        lines += ["", "| setting | type | default | |", "|---|---|---|---|"]
    for setting in settings:
        default = "**!**" if setting["required"] else f"`{json.dumps(setting['default'])}`"
        meaning = meanings.get(setting["name"], "")
        lines.append(f"| `{setting['name']}` | {setting['type']} | {default} | {meaning} |")
    return lines


def _meanings(component: Component) -> dict[str, str]:
    """Return what the schema's docstring says of each setting."""
    text = inspect.getdoc(component.schema) or ""
    names = [field.name for field in dataclasses.fields(component.schema)] if component.schema else []
    described = text.partition("Attributes:\n")[2]
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {6,}.*)*)", described, flags=re.MULTILINE)
    return {
        name: " ".join(meaning.split()).replace("``", "`").replace("|", "\\|")
        for name, meaning in found
        if name in names
    }


if __name__ == "__main__":
    PAGE.write_text(page())
