"""Makes the picture in the README from a real run: ``python docs/images/make.py``.

Runs the example in a pseudo-terminal and draws what is on the screen at its end.
"""

from __future__ import annotations

import os
import pty
import re
import struct
import sys
import tempfile
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

from rich.console import Console
from rich.text import Text

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
COLUMNS, ROWS = 118, 60

# What moves the cursor or erases, as rich's live displays use it; colours (which end in "m") stay in the text.
_CONTROL = re.compile(r"\x1b\[(\??\d*)([A-HJKhl])|([\r\n])")


def main() -> None:
    """Draw ``digits.svg``."""
    command = [sys.executable, str(ROOT / "examples" / "digits" / "run.py")]
    with tempfile.TemporaryDirectory() as folder:
        code, output = in_terminal(command, Path(folder))
        if code != 0:
            sys.exit(f"the example ended with {code}:\n{output}")
        # Where the run is made now is nobody's business; readers run it in their own folder.
        screen = [line.replace(f"{Path(folder).resolve()}/", "") for line in final_screen(output)]
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"), force_terminal=True)
    console.print(Text("$ python examples/digits/run.py", style="bold"))
    for line in screen:
        console.print(Text.from_ansi(line), soft_wrap=True)
    # Some renderers drop the spaces at the beginning of a line unless told.
    drawing = console.export_svg(title="batchmill").replace("<svg ", '<svg xml:space="preserve" ', 1)
    (HERE / "digits.svg").write_text(drawing)


def in_terminal(command: list[str], folder: Path) -> tuple[int, str]:
    """Run a command in a pseudo-terminal in a folder; return its exit code and everything it wrote."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
        os.execv(command[0], command)
    ioctl(terminal, TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    written = bytearray()
    while data := _read(terminal):
        written += data
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), written.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # how Linux tells that the other side is gone
        return b""


def final_screen(output: str) -> list[str]:
    """Return the lines on the screen after all cursor movements, colours still in them."""
    lines, row, place = [""], 0, 0

    def to_row(number: int) -> None:
        nonlocal row
        row = max(0, number)
        lines.extend([""] * (row + 1 - len(lines)))

    moves: dict[str, Callable[[int], None]] = {"A": lambda n: to_row(row - n), "B": lambda n: to_row(row + n)}
    for found in _CONTROL.finditer(output):
        lines[row] += output[place : found.start()]
        place = found.end()
        number, letter, plain = found.groups()
        if plain == "\n":
            to_row(row + 1)
        elif letter == "K":
            lines[row] = ""
        elif letter in moves:
            moves[letter](int(number or 1))
    lines[row] += output[place:]
    return lines


if __name__ == "__main__":
    main()
