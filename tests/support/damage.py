"""Ways to damage files of a run, each made from dice alone."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

# Kinds of files in a run, and where their files lie.
KINDS = {
    "run.json": "run.json",
    "commit record": "commits/*.json",
    "part": "parts/*/*.parquet",
    "partials sidecar": "parts/*/*.partials.json",
    "uploaded file": "files/*/*/**/*.txt",
    "report": "reports/*.json",
    "result.json": "result.json",
    "_SUCCESS": "_SUCCESS",
}


def files_of(run: Path, kind: str) -> list[Path]:
    """Return a run's files of one kind, sorted."""
    return sorted(file for file in run.glob(KINDS[kind]) if file.is_file())


def truncate(file: Path, run: Path, other: Path, dice: random.Random) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: dice.randrange(len(data))])


def flip(file: Path, run: Path, other: Path, dice: random.Random) -> None:
    """Turn one bit over."""
    data = bytearray(file.read_bytes())
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    file.write_bytes(data)


def empty(file: Path, run: Path, other: Path, dice: random.Random) -> None:
    file.write_bytes(b"")


def extend(file: Path, run: Path, other: Path, dice: random.Random) -> None:
    file.write_bytes(file.read_bytes() + bytes([dice.randrange(256)]))


def swap(file: Path, run: Path, other: Path, dice: random.Random) -> None:
    """Let two files of the run change places: of one kind if there are two, else of two kinds."""
    kind = next(kind for kind in KINDS if file in files_of(run, kind))
    others = [each for each in files_of(run, kind) if each != file and each.read_bytes() != file.read_bytes()]
    if not others:
        others = [each for each in [*files_of(run, "commit record"), run / "run.json"] if each != file]
    partner = dice.choice(others)
    one, two = file.read_bytes(), partner.read_bytes()
    file.write_bytes(two)
    partner.write_bytes(one)


def stale(file: Path, run: Path, other: Path, dice: random.Random) -> None:
    """Put a file of another run, of the same kind and place, here."""
    kind = next(kind for kind in KINDS if file in files_of(run, kind))
    shutil.copyfile(files_of(other, kind)[files_of(run, kind).index(file)], file)


DAMAGES: dict[str, Callable[[Path, Path, Path, random.Random], None]] = {
    "truncated": truncate,
    "flipped": flip,
    "empty": empty,
    "extended": extend,
    "swapped": swap,
    "stale": stale,
}


def damages_of(kind: str) -> list[str]:
    """Return the ways to damage files of one kind. A report carries no sign of its run: a stale one is not told."""
    return [name for name in DAMAGES if (kind, name) != ("report", "stale")]
