"""Quantiles and ROC AUC over committed rows, against numpy and scikit-learn."""

import math
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from batchmill import ChunkOutput, ConfigError, ReducerError
from batchmill.components import Kind
from batchmill.plugin_manager import get_catalog, make_run_manager
from batchmill_plugins.reducers._rows import Quantile, RocAuc

scores = st.sampled_from([0.0, -0.0, 0.5, 1.0, -1e300]) | st.floats(-1e300, 1e300)


def tables(columns, size=3, start=0):
    """Yield columns in tables of some rows."""
    rows = len(next(iter(columns.values())))
    for at in range(0, rows, size):
        index = np.arange(start + at, start + min(at + size, rows))
        yield pa.table({"_index": index, **{name: values[at : at + size] for name, values in columns.items()}})


def quantiles(values, q=(0.0, 0.25, 0.5, 0.9, 1.0)):
    return Quantile("x", q).reduce_rows(tables({"x": values}))


def area(scores, labels):
    return RocAuc().reduce_rows(tables({"score": scores, "label": labels}))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1e150, 1e150), min_size=1, max_size=30), st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_quantiles_are_numpys(values, q):
    assert quantiles(values, q) == np.quantile(np.array(values), q, method="linear").tolist()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(scores, st.booleans()), max_size=30))
def test_the_area_is_the_share_of_pairs_ranked_right(rows):
    positive = [Fraction(score) for score, label in rows if label]
    negative = [Fraction(score) for score, label in rows if not label]
    found = area([score for score, _ in rows], [label for _, label in rows])
    if not positive or not negative:
        assert found is None
        return
    doubled = sum(2 * (p > n) + (p == n) for p in positive for n in negative)
    assert found == float(Fraction(doubled, 2 * len(positive) * len(negative)))


@pytest.mark.parametrize("decimals", [1, 16])
def test_the_area_is_scikit_learns(decimals):
    generator = np.random.default_rng(5)
    labels = generator.integers(0, 2, 5000)
    values = np.round(generator.normal(size=5000) + labels, decimals)
    assert area(values, labels) == pytest.approx(roc_auc_score(labels, values), rel=1e-12)


def test_the_area_of_more_scores_than_are_looked_up_at_once(monkeypatch):
    generator = np.random.default_rng(6)
    labels, values = generator.integers(0, 2, 1000), generator.integers(0, 50, 1000)
    expected = area(values, labels)
    monkeypatch.setattr("batchmill_plugins.reducers._rows._BLOCK", 7)
    assert area(values, labels) == expected == pytest.approx(roc_auc_score(labels, values), rel=1e-12)


def test_infinite_scores_are_ranked():
    assert area([math.inf, 0.0, -math.inf], [1, 0, 0]) == 1.0
    assert area([math.inf, math.inf], [1, 0]) == 0.5


def test_no_values_and_one_class_are_none():
    assert quantiles([]) is None
    assert area([], []) is None
    assert area([0.1, 0.2], [1, 1]) is None
    assert area([0.1, 0.2], [False, False]) is None


@pytest.mark.parametrize("name", ["parquet", "jsonl", "safetensors"])
@pytest.mark.parametrize(
    "values",
    [
        np.array([0.5, -1.5, 3.25]),
        np.array([1.5, 2.5, 3.5], dtype=np.float32),
        np.array([0.5, 1.5, 2.5], dtype=np.float16),
        np.array([2**53, 3, -7]),
        np.array([True, False, True]),
        np.arange(12.0).reshape(3, 2, 2),
        np.empty((3, 0)),
    ],
    ids=lambda values: f"{values.dtype}{list(values.shape)}",
)
def test_columns_of_every_writer(name, values):
    writer = get_catalog().registry.get(Kind.WRITER, name).load()()
    table = writer.decode(writer.encode(ChunkOutput(np.arange(3), {"x": values})))
    expected = np.quantile(values.astype(np.float64), [0.1, 0.5]).tolist() if values.size else None
    assert Quantile("x", [0.1, 0.5]).reduce_rows(iter([table])) == expected


@pytest.mark.parametrize("name", ["parquet", "jsonl"])
def test_lists_of_different_sizes(name):
    writer = get_catalog().registry.get(Kind.WRITER, name).load()()
    table = writer.decode(writer.encode(ChunkOutput(np.arange(3), {"x": [[1.0, 2.0], [], [4.0]]})))
    assert Quantile("x", [0.5]).reduce_rows(iter([table])) == [2.0]
    assert Quantile("x", [0.5]).reduce_rows(iter([table.slice(2)])) == [4.0]


def test_a_place_is_told_of_the_rows_that_were_given():
    table = pa.table({"_index": [4, 5, 6], "x": [[1.0, 2.0], [3.0], [math.nan]]})
    with pytest.raises(ReducerError, match="holds nan at row 1 of samples 5 to 6"):
        Quantile("x").reduce_rows(iter([table.slice(1)]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, None, 2.0], "'x': it holds None; expected numbers at row 1 of samples 0 to 2"),
        ([[1.0], None], "holds None; expected numbers at row 1 of samples 0 to 1"),
        ([[1.0, 2.0], [3.0, None]], "holds None; expected numbers at row 1 of samples 0 to 1"),
        ([None], "holds None; expected numbers at row 0"),
        (["a", "b"], "holds string; expected numbers in samples 0 to 1"),
        ([0.5, math.nan], "holds nan at row 1 of samples 0 to 1"),
        ([[0.5], [1.0, -math.inf]], "holds -inf at row 1"),
    ],
    ids=str,
)
def test_committed_values_that_are_no_numbers_are_refused_with_their_place(values, message):
    with pytest.raises(ReducerError, match=f"Quantile cannot use column .*{message}"):
        quantiles(values)


def test_labels_and_scores_that_do_not_fit_are_refused():
    with pytest.raises(ReducerError, match=r"RocAuc cannot use column 'label': it holds 2; expected 0 or 1 at row 1"):
        area([0.1, 0.2], [0, 2])
    with pytest.raises(ReducerError, match=r"'label': it holds nan; expected 0 or 1"):
        area([0.1, 0.2], [0, math.nan])
    with pytest.raises(ReducerError, match=r"'score': it holds nan at row 0"):
        area([math.nan, 0.2], [0, 1])
    with pytest.raises(ReducerError, match=r"'score', 'label' side by side, but they hold 4 and 2 values in samples"):
        area([[0.1, 0.9], [0.2, 0.8]], [0, 1])


@pytest.mark.parametrize("q", [[], 0.5, "0.5", [0.5, 1.1], [-0.1], [math.nan], [True], ["a"], None])
def test_bad_quantiles_are_refused(q):
    with pytest.raises(ConfigError, match=r"q of quantile of 'x' is .*; expected a list of numbers from 0 to 1"):
        Quantile("x", q)


def hooks_of(reducer):
    return make_run_manager([("reducers.mine", reducer)]).hook


@pytest.mark.parametrize(
    ("outputs", "batch", "message"),
    [
        ({"score": torch.ones(2)}, {"label": torch.ones(2)}, "RocAuc reads column 'label' .* The batch has it, but"),
        ({"score": torch.ones(2), "labels": [0, 1]}, {}, "Did you mean 'labels'.* Returned: score, labels"),
        ({"score": torch.tensor([0.5, math.nan]), "label": [0, 1]}, {}, "'score': it holds nan at row 1 of batch 7"),
        ({"score": [0.5, 1.0], "label": [0, 3]}, {}, "'label': it holds 3; expected 0 or 1 at row 1 of batch 7"),
        ({"score": torch.ones(2, 2), "label": [0, 1]}, {}, "hold 4 and 2 values in batch 7"),
    ],
)
def test_what_is_wrong_is_told_at_the_first_batch(outputs, batch, message):
    with pytest.raises(ReducerError, match=message):
        hooks_of(RocAuc()).on_batch_end(outputs=outputs, batch=batch, batch_idx=7)


def test_good_batches_and_batches_without_rows_pass():
    hook = hooks_of(RocAuc())
    hook.on_batch_end(outputs={"score": torch.ones(2), "label": [0, 1], "more": "x"}, batch=None, batch_idx=0)
    hook.on_batch_end(outputs=None, batch=None, batch_idx=1)
