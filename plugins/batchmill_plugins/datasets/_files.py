"""What the datasets in files share: finding the files, and samples by index out of ranges of samples."""

from __future__ import annotations

import glob
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch.utils.data

from batchmill import DatasetError
from batchmill_plugins.datasets._identity import content_identity


class FileDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """A dataset whose samples are read from files by range.

    Instances can be sent to other processes; what they keep open is opened anew there. Each is for one thread.

    Args:
        files: The files, in the order of their samples.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @abstractmethod
    def read_batch(self, start: int, stop: int) -> dict[str, Any]:
        """Return samples ``[start, stop)`` by column.

        Returns:
            Column name to a tensor of shape ``(stop - start, ...)`` with memory of its own, which the
            processor may change, or to a list of ``stop - start`` values.
        """

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return one sample: column name to a tensor of shape ``(...)`` or a value."""
        return {name: values[0] for name, values in self.read_batch(index, index + 1).items()}

    def identity(self) -> dict[str, Any]:
        """Return what tells these files' contents from others', independent of their names and times."""
        return content_identity(self.files)

    def check_range(self, start: int, stop: int) -> None:
        """Raise IndexError unless ``[start, stop)`` holds samples of the dataset, and at least one."""
        if not 0 <= start < stop <= len(self):
            raise IndexError(f"samples [{start}, {stop}) of a dataset with {len(self)} samples")


def find_files(path: str, suffixes: Sequence[str]) -> list[Path]:
    """Return the files that a path stands for, absolute, in the order of their samples.

    Args:
        path: A file; a folder, which stands for the files directly in it whose names end in one of the
            suffixes and do not start with ``.`` or ``_``; or a glob pattern, in which ``**`` stands for any depth.
        suffixes: Endings such as ``.parquet``.

    Returns:
        The files, sorted by name.

    Raises:
        DatasetError: There are none; the message says what was looked for.
    """
    given = Path(path).expanduser()
    endings = " or ".join(suffixes)
    if given.is_file():
        return [given.absolute()]
    if given.is_dir():
        found = [f for f in given.iterdir() if f.suffix in suffixes and f.name[0] not in "._" and f.is_file()]
        looked_for = f"the folder {given.absolute()} has no file ending in {endings} (folders below are not read)"
    elif glob.has_magic(path):
        found = [f for f in map(Path, glob.glob(str(given), recursive=True)) if f.is_file()]
        looked_for = f"no file matches the pattern {given.absolute()}"
    else:
        found = []
        looked_for = f"there is no file or folder {given.absolute()}"
    if not found:
        raise DatasetError(
            f"No data at {path!r}: {looked_for}. Expected a file, a folder with files ending in {endings}, "
            f"or a glob pattern."
        )
    return sorted(file.absolute() for file in found)


def choose_columns(chosen: Sequence[str], available: Iterable[str], source: Path) -> list[str]:
    """Return the columns to read: those chosen, or all available.

    Raises:
        DatasetError: A chosen column is not there.
    """
    names = list(available)
    missing = [name for name in chosen if name not in names]
    if missing:
        raise DatasetError(
            f"{source} has no column {', '.join(map(repr, missing))}. Available: {', '.join(map(repr, names))}."
        )
    return list(chosen) or names
