"""A mutant: one rule of the protocol, broken while a schedule runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

Replacement = tuple[Any, str, Any]


@dataclass(frozen=True)
class Mutant:
    """One broken rule.

    Attributes:
        name: Short name for the command line.
        rule: The rule that it breaks, in words.
        replacements: Owner, attribute and what stands in its place.
        harmless: Whether it breaks no rule, and must not be caught.
        renames: Whether files have other names by it, so that results may differ from the reference in names.
        seen_at: A seed from which on few schedules are needed to expose it; found by trial.
    """

    name: str
    rule: str
    replacements: tuple[Replacement, ...]
    harmless: bool = False
    renames: bool = False
    seen_at: int = 0

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Break the rule inside the block."""
        with ExitStack() as stack:
            for owner, name, value in self.replacements:
                stack.enter_context(patch.object(owner, name, value))
            yield
