"""Reads the documentation: pages, code blocks, headings and links."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *DOCS.glob("*.md"),
        *(ROOT / "examples").rglob("README.md"),
        *(ROOT / "benchmarks").glob("*.md"),
    ]
)

_FENCE = re.compile(r"^( *)```(\S*) ?(.*?)\n(.*?)^\1```$", flags=re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!`)\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (.+?) *$", flags=re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    language: str
    mark: str
    text: str
    line: int


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(found[2], found[3], textwrap.dedent(found[4]), text[: found.start(4)].count("\n") + 1)
        for found in _FENCE.finditer(text)
    ]


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return _FENCE.sub("", page.read_text())


def links(page: Path) -> list[str]:
    return [link for link in _LINK.findall(prose(page)) if "://" not in link and not link.startswith("mailto:")]


def headings(page: Path) -> list[str]:
    return _HEADING.findall(prose(page))


def anchor(heading: str) -> str:
    """Return what GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def commands(page: Path) -> list[str]:
    """Return the lines of a page's shell blocks, continuations joined."""
    lines = []
    for block in blocks(page):
        if block.language in ("sh", "bash"):
            lines += block.text.replace("\\\n", " ").splitlines()
    return lines
