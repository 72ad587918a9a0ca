"""What configuration may never do: name code to run, or call resolvers that could."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from batchmill.errors import ConfigError

# ${oc.env:NAME} reads the environment, ${secret:NAME} stays as it is until a component is built. Any other resolver is
# whatever code this process registered for it.
ALLOWED_RESOLVERS = frozenset({"oc.env", "secret"})

_OPENING = re.compile(r"(\\*)\$\{")


def refuse_code(tree: Any, where: str = "") -> None:
    """Walk an unresolved configuration and refuse what would run code.

    Args:
        tree: Plain mappings, lists and scalars, with interpolations still as text.
        where: Dotted key of ``tree``, for messages.

    Raises:
        ConfigError: There is a ``_target_`` key, or an interpolation with a resolver that is not allowed.
    """
    if isinstance(tree, dict):
        for key, value in tree.items():
            here = f"{where}.{key}" if where else str(key)
            if str(key).strip() == "_target_":
                raise refused_target(here)
            refuse_code(value, here)
    elif isinstance(tree, list):
        for position, value in enumerate(tree):
            refuse_code(value, f"{where}[{position}]")
    elif isinstance(tree, str):
        refuse_resolvers(tree, where)


def refused_target(where: str) -> ConfigError:
    """Return the error for a ``_target_`` at a key."""
    return ConfigError(
        f"{where} is refused: configuration selects components by registered name and never names code to "
        f"run. Register the class in a plugin and select its name, or use KIND.name=module:Class with "
        f"allow_import=true."
    )


def refuse_resolvers(text: str, where: str) -> None:
    """Refuse every resolver but those allowed in one value.

    Raises:
        ConfigError: ``text`` calls another resolver.
    """
    for name in resolver_names(text):
        if name not in ALLOWED_RESOLVERS:
            raise ConfigError(
                f"{where} uses the resolver {name!r} in {text!r}, which is refused: a value may refer to "
                f"another key, as in ${{batch_size}}, to the environment, as in ${{oc.env:HOME}}, or to a secret, as "
                f"in ${{secret:NAME}}."
            )


def resolver_names(text: str) -> Iterator[str]:
    """Yield the resolver name of every ``${name:...}`` in a text, nested ones included.

    A name may itself hold an interpolation (``${${x}:1}``); it is then yielded as written, which no allowed
    name equals.
    """
    for opening in _OPENING.finditer(text):
        if len(opening.group(1)) % 2:  # an odd number of backslashes makes it plain text
            continue
        depth, position = 0, opening.end()
        while position < len(text):
            if text.startswith("${", position):
                depth, position = depth + 1, position + 2
                continue
            if text[position] == "}":
                depth -= 1
                if depth < 0:
                    break
            elif text[position] == ":" and depth == 0:
                yield text[opening.end() : position].strip()
                break
            position += 1


def escape(tree: Any) -> Any:
    """Return ``tree`` with ``${`` escaped in every text, so that OmegaConf keeps it as it is."""
    if isinstance(tree, dict):
        return {key: escape(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [escape(value) for value in tree]
    if isinstance(tree, str):
        return _OPENING.sub(lambda match: match.group(1) * 2 + "\\${", tree)
    return tree
