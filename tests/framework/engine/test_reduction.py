import functools
import json
import math

import pytest
import torch

from batchmill import ConfigError, CorruptRunError, Law, MetricReducer, Reducer, ReducerError, RowReducer, Writer
from batchmill.engine.reduction import ReducerSet
from batchmill.engine.serialization import canonical_json
from batchmill.engine.value_reducers import FunctionReducer, ValueReducer


class Total(MetricReducer):
    def __init__(self):
        self.reset()

    def reset(self):
        self.values = []

    def update(self, value):
        self.values.append(value)

    def per_slot_reduce(self):
        return sum(self.values)

    def cross_slot_reduce(self, per_slot_metrics):
        return sum(per_slot_metrics)


class Several(Total):
    def cross_slot_reduce(self, per_slot_metrics):
        return {"total": sum(per_slot_metrics), "chunks": len(per_slot_metrics)}


class Broken(Total):
    """Fails at the step it is told to."""

    def __init__(self, step):
        self.step = None
        super().__init__()
        self.step = step

    def _maybe(self, step):
        if self.step == step:
            raise KeyError("colour")

    def reset(self):
        self._maybe("reset")
        super().reset()

    def per_slot_reduce(self):
        self._maybe("per_slot_reduce")
        return super().per_slot_reduce()

    def cross_slot_reduce(self, per_slot_metrics):
        self._maybe("cross_slot_reduce")
        return super().cross_slot_reduce(per_slot_metrics)


def stored(partials):
    """Through the stored form, as a resume sees them."""
    return json.loads(canonical_json(partials))


def run(chunks, *wraps):
    """Feed chunks of (value, ...) to every reducer and fold what they give."""
    reducers = ReducerSet()
    wrapped = [reducers.wrap(reducer, name) for reducer, name in wraps]
    partials = []
    for chunk in chunks:
        for values in chunk:
            for reducer in wrapped:
                reducer.update(*values)
        partials.append(stored(reducers.take_partials()))
    return reducers.fold(partials)


def test_a_dict_without_a_name_becomes_several_metrics():
    assert run([[(1,), (2,)], [(3,)]], (Several(), None)) == {"total": 6, "chunks": 2}


def test_taking_partials_starts_the_next_chunk_empty():
    reducers = ReducerSet()
    total = reducers.wrap(Total(), "t")
    total.update(5)
    assert reducers.take_partials() == {"t": 5}
    assert reducers.take_partials() == {"t": 0}


def test_an_abandoned_chunk_leaves_no_trace():
    reducers = ReducerSet()
    total = reducers.wrap(Total(), "t")
    total.update(5)
    reducers.reset()
    assert reducers.take_partials() == {"t": 0}


def test_wrapping_returns_what_is_to_be_updated_and_resets_it():
    reducers, total = ReducerSet(), Total()
    total.update(99)
    assert reducers.wrap(total, "t") is total
    assert total.values == []
    assert isinstance(reducers.wrap(Reducer.SUM, "s"), ValueReducer)
    assert isinstance(reducers.wrap(sum, "f"), FunctionReducer)
    assert reducers.names == ["t", "s", "f"]


def add(values):
    return sum(values)


class Holder:
    def method(self, values):
        return len(values)


def test_a_reducer_or_function_wrapped_twice_is_refused():
    total, holder = Total(), Holder()
    for again in (total, add, holder.method):
        reducers = ReducerSet()
        reducers.wrap(again, "first")
        same = holder.method if again is not total and again is not add else again  # a new object at each access
        with pytest.raises(ReducerError, match="was wrapped before, as 'first'"):
            reducers.wrap(same, "second")


def test_things_that_only_look_alike_may_both_be_wrapped():
    reducers = ReducerSet()
    for number, each in enumerate(
        [Total(), Total(), Reducer.SUM, Reducer.SUM, Holder().method, Holder().method, functools.partial(add)]
    ):
        reducers.wrap(each, f"r{number}")
    assert len(reducers.names) == 7


def test_a_name_given_twice_is_refused():
    reducers = ReducerSet()
    reducers.wrap(Total(), "same")
    with pytest.raises(ReducerError, match="Two reducers are named 'same'"):
        reducers.wrap(Total(), "same")


@pytest.mark.parametrize(
    ("reducer", "message"),
    [
        (3, "was given a int; expected a MetricReducer"),
        ("avg", "was given a str; expected"),
        (None, "was given a NoneType; expected"),
        (Total, r"was given the class Total; expected an instance. Did you forget the parentheses, Total\(\)"),
    ],
)
def test_what_is_no_reducer_is_refused(reducer, message):
    with pytest.raises(ReducerError, match=message):
        ReducerSet().wrap(reducer, "name")


@pytest.mark.parametrize("name", ["", 5, Reducer])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(ReducerError, match="expected a non-empty string, or None"):
        ReducerSet().wrap(Total(), name)


def test_a_dict_under_a_name_and_a_value_without_one_are_refused():
    with pytest.raises(ReducerError, match=r"'named' returned a dict. Wrap it without a name"):
        run([[(1,)]], (Several(), "named"))
    with pytest.raises(ReducerError, match="Total was wrapped without a name and returned a int; expected a dict"):
        run([[(1,)]], (Total(), None))


def test_two_reducers_may_not_give_the_same_metric():
    with pytest.raises(ReducerError, match="gives metric 'total', which another reducer gave already"):
        run([[(1,)]], (Total(), "total"), (Several(), None))


@pytest.mark.parametrize("step", ["reset", "per_slot_reduce", "cross_slot_reduce"])
def test_an_error_in_a_reducer_names_it(step):
    with pytest.raises(ReducerError, match=r"Reducer 'mine' \(Broken\) failed: KeyError: 'colour'") as caught:
        run([[(1,)]], (Broken(step), "mine"))
    assert isinstance(caught.value.__cause__, KeyError)


class Gives(Total):
    def __init__(self, partial):
        self.partial = partial

    def reset(self):
        pass

    def per_slot_reduce(self):
        return self.partial


def endless():
    value: list = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("partial", "reason"),
    [
        (object(), "builtins.object cannot be stored"),
        (math.nan, "NaN"),
        (torch.eye(2).to_sparse(), "sparse"),
        (endless(), "nested"),
        ("\ud800", "Unicode"),
    ],
    ids=["object", "nan", "sparse", "endless", "surrogate"],
)
def test_a_partial_that_cannot_be_stored_names_its_reducer(partial, reason):
    with pytest.raises(ReducerError, match=f"partial of reducer 'mine' cannot be stored: .*{reason}"):
        run([[]], (Gives(partial), "mine"))


def test_a_chunk_committed_without_a_reducer_is_named():
    reducers = ReducerSet()
    reducers.wrap(Total(), "new")
    with pytest.raises(ReducerError, match=r"Chunk 1 was committed without reducer 'new' \(it has old\)"):
        reducers.fold([{"new": 1}, {"old": 1}])


class Rows(RowReducer):
    """Whatever its rows are told to give."""

    def __init__(self, give=lambda tables: sum(1 for _ in tables)):
        super().__init__("x")
        self.give = give

    def reduce_rows(self, tables):
        return self.give(tables)


class KeepsRows(Writer):
    extension = "bin"

    def encode(self, output):
        raise AssertionError("nothing is written here")

    def decode(self, data):
        raise AssertionError("nothing is read here")


class KeepsNothing(KeepsRows):
    extension = ""


class ThreeTables:
    """Stands for the rows of a run; tells whether the last pass over them was ended."""

    closed = 0

    def tables(self, writer, reducer):
        assert isinstance(writer, KeepsRows)
        try:
            yield from [reducer.columns] * 3
        finally:
            self.closed += 1


def fold_rows(*wraps, writer=KeepsRows):
    reducers, rows = ReducerSet(writer()), ThreeTables()
    for reducer, name in wraps:
        reducers.wrap(reducer, name)
    partials = stored(reducers.take_partials())
    return reducers.fold_rows(rows, reducers.fold([partials, partials])), rows


def test_reducers_of_rows_have_no_partial_and_read_the_rows_in_the_end():
    kept = []
    first = Rows(lambda tables: kept.append(tables) or next(tables))
    found, rows = fold_rows((Rows(), "tables"), (Total(), "total"), (first, "columns"))
    assert found == {"tables": 3, "total": 0, "columns": ["x"]}
    assert rows.closed == 2, "also the pass that was not gone through"
    with pytest.raises(ReducerError, match="Rows is computed from committed rows by reduce_rows, not from partials"):
        first.cross_slot_reduce([None])


def test_metrics_of_rows_are_checked_and_named_like_all_others():
    assert fold_rows((Rows(lambda tables: {"a": 1, "b": 2}), None))[0] == {"a": 1, "b": 2}
    with pytest.raises(ReducerError, match="'same', which another reducer gave already"):
        fold_rows((Total(), "same"), (Rows(lambda tables: {"same": 1}), None))
    with pytest.raises(ReducerError, match="Metric 'nan' is nan"):
        fold_rows((Rows(lambda tables: math.nan), "nan"))
    with pytest.raises(ReducerError, match=r"'mine' \(Rows\) failed: ZeroDivisionError"):
        fold_rows((Rows(lambda tables: 1 / 0), "mine"))


def test_a_damaged_part_is_not_the_reducers_fault():
    def read(tables):
        raise CorruptRunError("parts/x is damaged")

    with pytest.raises(CorruptRunError, match="parts/x is damaged"):
        fold_rows((Rows(read), "mine"))


def test_a_writer_that_keeps_nothing_refuses_reducers_of_rows_only():
    reducers = ReducerSet(KeepsNothing())
    reducers.wrap(Total(), "total")
    with pytest.raises(ConfigError, match=r"'mine' \(Rows\) is computed from the .*KeepsNothing\) keeps none"):
        reducers.wrap(Rows(), "mine")
    assert reducers.names == ["total"]


@pytest.mark.parametrize(
    ("kind", "law", "expected"),
    [
        (Total, Law.ROWS, r"expected exact or ordered \(rows is for subclasses of batchmill.RowReducer"),
        (Total, "sloppy", "expected exact or ordered"),
        (Total, None, "expected exact or ordered"),
        (Rows, Law.EXACT, "expected rows"),
    ],
)
def test_a_law_that_cannot_be_is_refused(kind, law, expected):
    lawless = type("Lawless", (kind,), {"law": law})
    with pytest.raises(ReducerError, match=rf"'mine' \(Lawless\) declares law .*; {expected}"):
        ReducerSet().wrap(lawless(), "mine")


def test_a_law_may_be_given_as_text():
    reducers = ReducerSet()
    reducers.wrap(type("Textual", (Total,), {"law": "exact"})(), "mine")
    assert reducers.names == ["mine"]
