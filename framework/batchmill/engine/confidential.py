"""Secrets: references in configuration, values only where a component is built, and neither in what is shown.

A setting holds ``${secret:NAME}``. That text, never the value, is in ``run.json``, fingerprints, requests to worker
processes and printed configuration. ``reveal`` puts the value in its place when the component is built; ``redact``
takes every revealed value out of messages again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from batchmill.errors import ConfigError

HIDDEN = "***"
# Shorter ones would be found in every second word.
_SHORTEST_HIDDEN = 4

_REFERENCE = re.compile(r"\$\{secret:([A-Za-z_][A-Za-z0-9_]*)\}")
_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+")
_NAME = re.compile(
    r"(?:.*_)?(?:passw(?:or)?d|passphrase|pwd|secret|secret_key|secret_access_key|client_secret|authorization|api_?key"
    r"|(?:access|account|private|signing|encryption)_key"
    r"|(?:access|api|auth|bearer|hf|hub|identity|refresh|sas|security|session)_token)"
)
_PARAMETER = re.compile(r"(?:.*_)?(?:token|sig|signature|credential)")
_VARIABLE = re.compile(r"(?:.*_)?(?:password|passwd|passphrase|secret|token|api_?key|credentials?|(?:.*_)?key)(?:_.*)?")
_USER = re.compile(r"(?P<before>[A-Za-z][A-Za-z0-9+.-]*://(?:[^/\s:@?#'\"]*:)?)(?P<value>[^/\s:@?#'\"]+)(?=@)")
_QUERY = re.compile(r"(?P<before>[?&;](?P<name>[A-Za-z0-9_.-]+)=)(?P<value>[^&;\s'\"]+)")
_PAIR = re.compile(
    r"(?<!\$\{)(?P<before>\b(?P<name>[A-Za-z_][A-Za-z0-9_-]*)['\"]?\s*[:=]\s*)(?P<value>'[^']*'|\"[^\"]*\"|[^\s,;}\])'\"]+)"
)
# As in the mapping of an override: {api_key: x, auth: {password: y}}.
_ENTRY = re.compile(r"[{,]\s*" + _PAIR.pattern)
_LONGEST_USER = 16

# Values that this process has revealed, or was given in plain text and refused.
_known: set[str] = set()


def reference_to(name: str) -> str:
    """Return how configuration refers to a secret."""
    return f"${{secret:{name}}}"


def is_secret_name(name: str) -> bool:
    """Return whether a setting of that name holds a secret: ``api_key``, ``dbPassword``, ``hub-token``."""
    return _NAME.fullmatch(_words(name)) is not None


def is_secret_variable(name: str) -> bool:
    """Return whether an environment variable of that name holds a secret: ``AWS_SECRET_ACCESS_KEY``, ``HF_TOKEN``."""
    return _VARIABLE.fullmatch(_words(name)) is not None


def reveal(value: Any, where: str, environ: Mapping[str, str] = os.environ) -> Any:
    """Return a setting with every ``${secret:NAME}`` in it replaced by the secret.

    Args:
        value: Text, or mappings and lists that hold texts; anything else is returned as it is.
        where: Dotted key of the setting, for messages.
        environ: Has NAME, or NAME_FILE with the path of a file that holds the secret.

    Raises:
        ConfigError: A secret is not there.
    """
    if isinstance(value, str):
        return _REFERENCE.sub(lambda found: _read(found[1], where, environ), value)
    if isinstance(value, Mapping):
        return {key: reveal(item, f"{where}.{key}", environ) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(reveal(item, f"{where}[{i}]", environ) for i, item in enumerate(value))
    return value


def _read(name: str, where: str, environ: Mapping[str, str]) -> str:
    secret, file = environ.get(name), environ.get(f"{name}_FILE")
    if secret is None and file:
        try:
            with open(file, encoding="utf-8") as opened:
                secret = opened.read().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise ConfigError(f"{where} needs the secret {name} from {name}_FILE={file}: {reason}.") from None
    if not secret:
        raise ConfigError(
            f"{where} needs the secret {name}. Set the environment variable {name}, or {name}_FILE to the path of a "
            f"file that holds it, on every worker."
        )
    _known.add(secret)
    return secret


def refuse_plain_secrets(value: Any, where: str) -> None:
    """Refuse secrets that stand in configuration as they are.

    Args:
        value: Settings: mappings and lists with texts.
        where: Their dotted key, for messages.

    Raises:
        ConfigError: A setting named like a secret, or the credentials in a URL, are given in plain text.
    """
    for key, found in plain_secrets(value, where):
        _known.add(found)
        raise plain_secret(key)


def refuse_references(values: Mapping[str, Any], keys: Iterable[str]) -> None:
    """Refuse references to secrets in values that are shown and written as they are.

    Raises:
        ConfigError: There is one.
    """
    for key in keys:
        if _REFERENCE.search(str(values.get(key))):
            raise ConfigError(f"{key}={values[key]} refers to a secret, but {key} is shown and written everywhere.")


def plain_secret(where: str) -> ConfigError:
    """Return the error for a secret in plain text; it does not hold the secret."""
    return ConfigError(
        f"{where} holds a secret in plain text, and settings are written to run folders, logs and lists of processes. "
        f"Write '${{secret:NAME}}' in its place, and put the secret into the environment variable NAME, or into a file "
        f"that NAME_FILE names. (Object stores take theirs from the environment without any setting.)"
    )


def plain_secrets(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Yield the dotted key and text of every secret in settings that is no reference."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            here = f"{where}.{key}" if where else str(key)
            if isinstance(item, str) and is_secret_name(str(key)) and _is_plain(item):
                yield here, item
            else:
                yield from plain_secrets(item, here)
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from plain_secrets(item, f"{where}[{i}]")
    elif isinstance(value, str):
        for secret in _in_urls(value):
            yield where, secret


def refuse_in_override(line: str) -> None:
    """Refuse a plain secret in a command-line override, before anything else may repeat it in a message.

    Raises:
        ConfigError: There is one; the message names its key only.
    """
    key, _, value = line.partition("=")
    key = key.partition("@")[0].lstrip("+~")
    last = key.rpartition(".")[2]
    found = [value.strip().strip("'\"")] if is_secret_name(last) else []
    found += [_unquoted(pair["value"]) for pair in _ENTRY.finditer(value) if is_secret_name(pair["name"])]
    for secret in (*found, *_in_urls(line)):
        if _is_plain(secret):
            _known.add(secret)
            raise plain_secret(key)


def redact(text: str) -> str:
    """Return a text for people without the secrets that are known, or look like ones."""
    for secret in sorted(_known, key=len, reverse=True):
        if len(secret) >= _SHORTEST_HIDDEN:
            for form in {secret, quote(secret, safe=""), repr(secret)[1:-1]}:
                text = text.replace(form, HIDDEN)

    def hide(found: re.Match[str]) -> str:
        return f"{found['before']}{HIDDEN}" if _is_plain(_unquoted(found["value"])) else found[0]

    text = _USER.sub(lambda found: hide(found) if _is_credential(found) else found[0], text)
    text = _QUERY.sub(lambda found: hide(found) if _is_parameter(found["name"]) else found[0], text)
    return _PAIR.sub(lambda found: hide(found) if is_secret_name(found["name"]) else found[0], text)


def _in_urls(text: str) -> Iterator[str]:
    if "://" not in text:
        return
    text = _REFERENCE.sub("", text)
    yield from (found["value"] for found in _USER.finditer(text) if _is_credential(found))
    yield from (found["value"] for found in _QUERY.finditer(text) if _is_parameter(found["name"]))


def _is_credential(found: re.Match[str]) -> bool:
    """Tell a password, or a token in a user's place, from a user's name."""
    return found["before"].endswith(":") or len(found["value"]) > _LONGEST_USER


def _is_parameter(name: str) -> bool:
    return is_secret_name(name) or _PARAMETER.fullmatch(_words(name)) is not None


def _is_plain(text: str) -> bool:
    rest = _REFERENCE.sub("", text).strip()
    return rest not in ("", "null", "None", "???", HIDDEN) and (rest == text.strip() or not _REFERENCE.search(text))


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _words(name: str) -> str:
    return "_".join(filter(None, _WORDS.split(name))).lower()
