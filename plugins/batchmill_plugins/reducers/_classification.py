"""Accuracy and confusion matrix: two columns of labels, compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from batchmill import ConfigError, Law, ReducerError
from batchmill_plugins.reducers._columns import BadColumnError, FlatColumn, PlacedReducer, read_labels

# Without `labels` the matrix grows with the highest class seen; a stray id must not ask for gigabytes.
_MOST_CLASSES_SEEN = 4096


class _LabelReducer(PlacedReducer):
    """Reads a column of predictions and one of targets, which must match in shape and kind.

    Args:
        prediction: Column of predicted labels.
        target: Column of true labels.
    """

    law: ClassVar[Law] = Law.EXACT

    def __init__(self, prediction: str = "prediction", target: str = "label") -> None:
        super().__init__(prediction, target)
        self.reset()

    def _read(self, prediction: Any, target: Any) -> tuple[FlatColumn, FlatColumn]:
        columns: list[FlatColumn] = []
        for name, values in zip(self.columns, (prediction, target), strict=True):
            try:
                columns.append(read_labels(values))
            except BadColumnError as error:
                raise self.refusal(name, error) from None
        predicted, true = columns
        names = f"{self.columns[0]!r} and {self.columns[1]!r}"
        if predicted.shape != true.shape:
            raise ReducerError(
                f"{type(self).__name__} compares columns {names}, but their shapes are "
                f"{list(predicted.shape)} and {list(true.shape)}. Give a column of predicted labels (for "
                f"scores, their argmax)."
            )
        if (predicted.values.dtype.kind == "U") != (true.values.dtype.kind == "U") and predicted.values.size:
            raise ReducerError(
                f"{type(self).__name__} compares columns {names}, but one holds strings and the other "
                f"numbers ({predicted.values.dtype} and {true.values.dtype}); they would never be equal."
            )
        return predicted, true


class Accuracy(_LabelReducer):
    """The share of predictions that equal their targets, element by element."""

    def reset(self) -> None:
        """Forget all samples."""
        self._equal, self._total = 0, 0

    def update(self, prediction: Any, target: Any) -> None:
        """Take one batch of labels, numbers or strings, both columns of shape ``(rows, ...)``."""
        predicted, true = self._read(prediction, target)
        self._equal += int(np.count_nonzero(predicted.values == true.values))
        self._total += predicted.values.size

    def per_slot_reduce(self) -> list[int]:
        """Return how many were equal, and how many there were."""
        return [self._equal, self._total]

    def cross_slot_reduce(self, per_slot_metrics: Sequence[Sequence[int]]) -> float | None:
        """Return the share over all chunks, 0.0 to 1.0; None for no samples."""
        equal, total = (sum(partial[i] for partial in per_slot_metrics) for i in (0, 1))
        return equal / total if total else None


class ConfusionMatrix(_LabelReducer):
    """How often each true class was taken for each class.

    Args:
        prediction: Column of predicted classes.
        target: Column of true classes.
        labels: Number of classes; list of all classes (strings or integers); or None: 0 to the highest seen.
            Integers in the columns are positions if ``labels`` is a list of strings.

    Raises:
        ConfigError: ``labels`` is none of these.
    """

    def __init__(self, prediction: str = "prediction", target: str = "label", labels: Any = None) -> None:
        self._size, self._names = _check_labels(labels)
        super().__init__(prediction, target)

    def reset(self) -> None:
        """Forget all samples."""
        self._cells: Counter[tuple[int, int]] = Counter()

    def update(self, prediction: Any, target: Any) -> None:
        """Take one batch of classes, both columns of shape ``(rows, ...)``.

        Raises:
            ReducerError: A value is not among the labels; the message names the column and the place.
        """
        codes = []
        for name, column in zip(self.columns, self._read(prediction, target), strict=True):
            try:
                codes.append(self._encode(column))
            except BadColumnError as error:
                raise self.refusal(name, error) from None
        pairs, counts = np.unique(np.stack(codes[::-1], axis=1), axis=0, return_counts=True)
        for (true, predicted), count in zip(pairs.tolist(), counts.tolist(), strict=True):
            self._cells[true, predicted] += count

    def per_slot_reduce(self) -> list[list[int]]:
        """Return ``[true class, predicted class, count]`` for every pair seen, sorted."""
        return [[*pair, count] for pair, count in sorted(self._cells.items())]

    def cross_slot_reduce(self, per_slot_metrics: Sequence[Sequence[Sequence[int]]]) -> list[list[int]]:
        """Return the matrix over all chunks: ``matrix[true][predicted]``, in the order of ``labels``."""
        cells = [cell for partial in per_slot_metrics for cell in partial]
        highest = max((max(true, predicted) for true, predicted, _ in cells), default=-1)
        size = highest + 1 if self._size is None else self._size
        matrix = [[0] * size for _ in range(size)]
        for true, predicted, count in cells:
            matrix[true][predicted] += count
        return matrix

    def _encode(self, column: FlatColumn) -> npt.NDArray[np.int64]:
        values = column.values
        if values.dtype.kind == "f" and values.size:
            raise BadColumnError(f"holds {values.dtype}; expected integers or strings", column.row_of(0))
        is_text = values.dtype.kind == "U"
        if is_text and not (self._names and isinstance(self._names[0], str)):
            raise BadColumnError(
                "holds strings, for which labels must list the classes (labels=[cat,dog])", column.row_of(0)
            )
        if self._names and (is_text or not isinstance(self._names[0], str)):
            places = {name: place for place, name in enumerate(self._names)}
            unique, inverse = np.unique(values, return_inverse=True)
            found = np.array([places.get(value, -1) for value in unique.tolist()], dtype=np.int64)
            codes = found[inverse.reshape(-1)]
            expected = ", ".join(map(str, self._names))
        else:
            codes = values.astype(np.int64)  # a uint64 beyond int64 becomes negative, and is so refused
            limit = _MOST_CLASSES_SEEN if self._size is None else self._size
            expected = f"classes 0 to {limit - 1}"
            if self._size is None:
                expected += " (for more, give their number as labels)"
            codes = np.where(codes < limit, codes, -1)
        wrong = np.flatnonzero(codes < 0)
        if wrong.size:
            position = int(wrong[0])
            raise BadColumnError(f"holds {values[position]}; expected {expected}", column.row_of(position))
        return codes


def _check_labels(labels: Any) -> tuple[int | None, list[str] | list[int]]:
    if labels is None:
        return None, []
    if isinstance(labels, int) and not isinstance(labels, bool) and labels > 0:
        return labels, []
    if isinstance(labels, (list, tuple)) and labels and len(set(labels)) == len(labels):
        for kind in (str, int):
            if all(type(label) is kind for label in labels):
                return len(labels), list(labels)
    raise ConfigError(
        f"labels of confusion_matrix is {labels!r}; expected a number of classes above 0, a list of "
        f"different strings or of different integers, or null."
    )
