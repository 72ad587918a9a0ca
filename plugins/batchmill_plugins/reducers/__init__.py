"""Metrics over named columns, each the same for any number of workers, chunk size and crash history.

Every reducer reads columns of what the processor returned, or else of the batch: tensors on any device,
arrays, or lists. A sample's value may itself be an array; then each of its elements counts. A metric over no
values is null, except for counts. Values that a metric cannot stand for (NaN, and infinity in all but
``histogram`` and the scores of ``roc_auc``) are an error that names the column and the sample's place.

``quantile`` and ``roc_auc`` read the committed rows when the run is complete: only columns that the processor
returns, and not with ``writer=none``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import batchmill


@dataclass
class ColumnSettings:
    """Settings of ``count``, ``sum``, ``mean``, ``min`` and ``max``.

    Attributes:
        column: Name of the column.
    """

    column: str


@dataclass
class AccuracySettings:
    """Settings of ``accuracy``.

    Attributes:
        prediction: Column of predicted labels (numbers or strings).
        target: Column of true labels, of the same shape.
    """

    prediction: str = "prediction"
    target: str = "label"


@dataclass
class ConfusionMatrixSettings:
    """Settings of ``confusion_matrix``.

    Attributes:
        prediction: Column of predicted classes.
        target: Column of true classes, of the same shape.
        labels: Number of classes (0 to n-1); or the list of classes in the order of rows and columns, which
            string columns need; or null for as many classes as the highest number seen asks for.
    """

    prediction: str = "prediction"
    target: str = "label"
    labels: Any = None


@dataclass
class HistogramSettings:
    """Settings of ``histogram``.

    Attributes:
        column: Name of the column.
        bins: Number of bins of equal width.
        low: Lower edge of the first bin.
        high: Upper edge of the last bin, which it includes; every other bin ends before its upper edge.
    """

    column: str
    bins: int
    low: float
    high: float


@dataclass
class QuantileSettings:
    """Settings of ``quantile``.

    Attributes:
        column: Name of a column that the processor returns.
        q: Which quantiles, from 0 to 1.
    """

    column: str
    q: list[float] = field(default_factory=lambda: [0.25, 0.5, 0.75])


@dataclass
class RocAucSettings:
    """Settings of ``roc_auc``.

    Attributes:
        score: Column of scores that the processor returns, higher for samples that are more likely positive.
        label: Column of labels that the processor returns, 0 and 1 or false and true.
    """

    score: str = "score"
    label: str = "label"


@batchmill.hookimpl
def register_components(registry: batchmill.ComponentRegistry) -> None:
    """Register the first-party reducers."""
    for name, factory, summary in (
        ("count", "Count", "Number of samples that have the column."),
        ("sum", "Sum", "Exact sum of all values, rounded once."),
        ("mean", "Mean", "Exact mean of all values, rounded once."),
        ("min", "Min", "Smallest value."),
        ("max", "Max", "Largest value."),
    ):
        registry.add(
            batchmill.Kind.REDUCER,
            name,
            f"batchmill_plugins.reducers._aggregates:{factory}",
            schema=ColumnSettings,
            summary=summary,
        )
    registry.add(
        batchmill.Kind.REDUCER,
        "accuracy",
        "batchmill_plugins.reducers._classification:Accuracy",
        schema=AccuracySettings,
        summary="Share of predictions that equal their targets.",
    )
    registry.add(
        batchmill.Kind.REDUCER,
        "confusion_matrix",
        "batchmill_plugins.reducers._classification:ConfusionMatrix",
        schema=ConfusionMatrixSettings,
        summary="Counts by true class (row) and predicted class (column), as a list of lists.",
    )
    registry.add(
        batchmill.Kind.REDUCER,
        "histogram",
        "batchmill_plugins.reducers._histogram:Histogram",
        schema=HistogramSettings,
        summary="Counts below, in each bin and above, as one list.",
    )
    registry.add(
        batchmill.Kind.REDUCER,
        "quantile",
        "batchmill_plugins.reducers._rows:Quantile",
        schema=QuantileSettings,
        summary="Exact quantiles of a returned column, as a list; 8 bytes of memory a value at the end.",
    )
    registry.add(
        batchmill.Kind.REDUCER,
        "roc_auc",
        "batchmill_plugins.reducers._rows:RocAuc",
        schema=RocAucSettings,
        summary="Exact area under the ROC curve of binary labels, both columns returned; 8 bytes of memory a value.",
    )
