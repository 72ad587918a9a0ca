"""Text from data and user code, made fit for terminals and logs."""

from __future__ import annotations

import logging
import traceback
import unicodedata

from batchmill.engine.confidential import redact

# Control and format characters, line and paragraph separators, and halves of surrogate pairs: what moves the cursor,
# colours, overwrites or reorders what stands elsewhere on the screen.
_UNSEEN = ("Cc", "Cf", "Zl", "Zp", "Cs")


def printable(text: str, keep: str = "\n\t") -> str:
    r"""Return a text with everything escaped that a terminal would obey or a log would take for a new line.

    Args:
        text: Of whatever origin.
        keep: Control characters that stay; the empty string makes one line of the text.

    >>> printable("sample 3\x1b[2K\rall is well")
    'sample 3\\x1b[2K\\x0dall is well'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in keep or unicodedata.category(c) not in _UNSEEN else _escaped(c) for c in text)


def safe_text(text: str, keep: str = "\n\t") -> str:
    """Return a text for a terminal or a log: without secrets, and printable."""
    return printable(redact(text), keep)


def guard_log() -> None:
    """Make every message to the logger ``batchmill`` safe, whoever formats and stores it."""
    logging.getLogger("batchmill").addFilter(_make_safe)


def _make_safe(record: logging.LogRecord) -> bool:
    record.msg, record.args = safe_text(record.getMessage(), keep=""), ()
    if record.exc_info and record.exc_info[1] is not None:
        record.exc_text = safe_text("".join(traceback.format_exception(record.exc_info[1])).rstrip())
    return True


def _escaped(character: str) -> str:
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
