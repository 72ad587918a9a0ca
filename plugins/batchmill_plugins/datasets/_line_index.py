"""Where the lines of text files begin, and reading them by number."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from batchmill import DatasetError

_BLOCK_BYTES = 4 * 1024 * 1024
_NEWLINE, _RETURN = b"\n\r"


class LineIndex:
    """The offsets of all lines that are not blank, 8 bytes each.

    Args:
        files: The files, whose lines are numbered through.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = list(files)
        self._offsets = array("q")
        self._firsts = [0]  # number of each file's first line, and of all lines at the end
        for path in self._files:
            self._scan(path)
            self._firsts.append(len(self._offsets))

    def __len__(self) -> int:
        return len(self._offsets)

    def read(self, start: int, stop: int) -> list[bytes]:
        """Return lines ``[start, stop)`` without their ends.

        Raises:
            DatasetError: A file was changed since it was indexed.
        """
        lines: list[bytes] = []
        number = bisect_right(self._firsts, start) - 1
        while start < stop:
            upto = min(stop, self._firsts[number + 1])
            if start < upto:
                lines += self._read_from(number, start, upto)
                start = upto
            number += 1
        return lines

    def locate(self, line: int) -> tuple[Path, int]:
        """Return the file of a line and its number there, as editors count: from 1, blank lines too."""
        number = bisect_right(self._firsts, line) - 1
        left, before = self._offsets[line], 0
        with self._files[number].open("rb") as file:
            while left:
                block = file.read(min(left, _BLOCK_BYTES))
                if not block:
                    break
                before += block.count(b"\n")
                left -= len(block)
        return self._files[number], before + 1

    def _scan(self, path: Path) -> None:
        offset = 0
        with path.open("rb") as file:
            # Whole lines, so that each block begins with one.
            while block := file.read(_BLOCK_BYTES) + file.readline():
                data = np.frombuffer(block, dtype=np.uint8)
                ends = np.flatnonzero(data == _NEWLINE)
                if data[-1] != _NEWLINE:
                    ends = np.append(ends, data.size)
                starts = np.concatenate([[0], ends[:-1] + 1])
                length = ends - starts
                blank = (length == 0) | ((length == 1) & (data[starts] == _RETURN))
                self._offsets.frombytes((starts[~blank] + offset).astype(np.int64).tobytes())
                offset += data.size

    def _read_from(self, number: int, start: int, stop: int) -> list[bytes]:
        begin = self._offsets[start]
        size = self._offsets[stop] - begin if stop < self._firsts[number + 1] else -1
        path = self._files[number]
        try:
            with path.open("rb") as file:
                file.seek(begin)
                data = file.read(size)
        except OSError as error:
            raise DatasetError(f"{path} cannot be read: {error}") from error
        lines = [line for line in data.split(b"\n") if line and line != b"\r"]
        if len(lines) != stop - start:
            raise DatasetError(
                f"{path} was changed while it was being read: {len(lines)} lines where there were {stop - start}."
            )
        return lines
