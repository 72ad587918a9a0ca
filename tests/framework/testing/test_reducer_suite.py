"""The reducer suite passes reducers that keep their word, and catches each way of not keeping it."""

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from batchmill import ExactSum, Law, MetricReducer, Reducer, ReducerError, RowReducer
from batchmill.engine.reduction import FunctionReducer, ValueReducer
from batchmill.testing.reducer_suite import ReducerSuite

# In nearly every draw, the order in which these are added shows.
TELLING = st.lists(st.sampled_from([1e16, 1.0, -1e16]), min_size=3, max_size=5)
values = st.sampled_from([0.0, -0.0, 1, 1.0, 1e16, -1e16, 2**62 + 1]) | st.floats(-1e150, 1e150)
weights = st.just(1) | st.floats(1e-3, 1e3)


class OneByOne(ReducerSuite):
    def batches(self):
        return st.lists(st.tuples(values, weights), max_size=4)

    def feed(self, reducer, batch):
        for value, weight in batch:
            reducer.update(value, weight)


class TestAverage(OneByOne):
    def make_reducer(self):
        return ValueReducer(Reducer.AVG)


class TestSum(OneByOne):
    def make_reducer(self):
        return ValueReducer(Reducer.SUM)


class TestMaximum(OneByOne):
    def make_reducer(self):
        return ValueReducer(Reducer.MAX)


class TestMinimum(OneByOne):
    def make_reducer(self):
        return ValueReducer(Reducer.MIN)


class TestFunction(ReducerSuite):
    """Law ordered: its result is all it was given, in order."""

    def make_reducer(self):
        return FunctionReducer(lambda values: [values[:1], len(values), sum(values)])

    def batches(self):
        return st.floats(-1e150, 1e150)


class PlainSum(MetricReducer):
    """A float sum that keeps its promise of law ordered, and no more."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.total = 0.0

    def update(self, values):
        for value in values:
            self.total += value

    def per_slot_reduce(self):
        return self.total

    def cross_slot_reduce(self, per_slot_metrics):
        total = 0.0
        for partial in per_slot_metrics:
            total += partial
        return total


class TestPlainSum(ReducerSuite):
    def make_reducer(self):
        return PlainSum()

    def batches(self):
        return TELLING


class First(RowReducer):
    """The first row's value."""

    def reduce_rows(self, tables):
        return next((table.column("x")[0].as_py() for table in tables), None)


class TestFirst(ReducerSuite):
    def make_reducer(self):
        return First("x")

    def batches(self):
        return st.fixed_dictionaries({"x": TELLING})


# -- reducers that break their word


class FalselyExact(PlainSum):
    law = Law.EXACT


class FalselyExactOrder(PlainSum):
    """The grouping of samples does not show, the order of partials does."""

    law = Law.EXACT

    def reset(self):
        self.total = []

    def update(self, values):
        self.total += values

    def cross_slot_reduce(self, per_slot_metrics):
        return [value for partial in per_slot_metrics for value in partial]


class Forgetful(PlainSum):
    """Its reset leaves something."""

    def reset(self):
        self.total = getattr(self, "total", 0.0) / 2


class CountsItsChunks(PlainSum):
    """What it hands over depends on what else its worker processed."""

    chunks = 0

    def per_slot_reduce(self):
        self.chunks += 1
        return self.total * self.chunks


class Draws(PlainSum):
    """Gives another partial each time."""

    drawn = 0

    def per_slot_reduce(self):
        Draws.drawn += 1
        return Draws.drawn


class LivesInMemory(PlainSum):
    def reset(self):
        self.total = []

    def update(self, values):
        self.total += values

    def per_slot_reduce(self):
        return {1: dict.fromkeys(map(str, self.total))}  # keys come back sorted

    def cross_slot_reduce(self, per_slot_metrics):
        return [list(partial[1]) for partial in per_slot_metrics]


class CannotBeStored(PlainSum):
    def per_slot_reduce(self):
        return {self.total}


class Infinite(PlainSum):
    def cross_slot_reduce(self, per_slot_metrics):
        return float("inf")


class NoChunks(PlainSum):
    def cross_slot_reduce(self, per_slot_metrics):
        return max(per_slot_metrics)


class RemembersFolding(PlainSum):
    folded = 0

    def cross_slot_reduce(self, per_slot_metrics):
        self.folded += 1
        return self.folded


class FalselyRows(PlainSum):
    law = Law.ROWS


class CountsTables(First):
    def reduce_rows(self, tables):
        return sum(1 for _ in tables)


class KeepsPartials(First):
    def per_slot_reduce(self):
        return 1


def suite_of(reducer):
    class Suite(ReducerSuite):
        def make_reducer(self):
            return reducer("x") if issubclass(reducer, RowReducer) else reducer()

        def batches(self):
            return st.fixed_dictionaries({"x": TELLING}) if issubclass(reducer, RowReducer) else TELLING

    return Suite()


def check(reducer, test):
    """Run one test of the suite, always with the same draws, and without the search for the smallest failure."""
    suite = suite_of(reducer)
    method = getattr(suite, f"test_{test}")
    if not hasattr(method, "hypothesis"):
        method()
        return
    quick = settings(phases=[Phase.generate], derandomize=True, database=None, deadline=None, max_examples=40)
    quick(given(data=st.data())(method.hypothesis.inner_test))(suite)


@pytest.mark.parametrize(
    ("reducer", "test", "error"),
    [
        (FalselyExact, "the_declared_law_holds", AssertionError),
        (FalselyExactOrder, "the_declared_law_holds", AssertionError),
        (Forgetful, "reset_forgets_everything", AssertionError),
        (CountsItsChunks, "who_processed_what_does_not_show", AssertionError),
        (Draws, "the_same_batches_give_the_same_partial", AssertionError),
        (LivesInMemory, "partials_survive_storage", AssertionError),
        (CannotBeStored, "partials_survive_storage", TypeError),
        (Infinite, "the_result_is_json_and_finite", ReducerError),
        (NoChunks, "the_result_is_json_and_finite", ValueError),
        (RemembersFolding, "the_result_is_json_and_finite", AssertionError),
        (FalselyRows, "the_law_is_one_of_three", AssertionError),
        (CountsTables, "the_declared_law_holds", AssertionError),
        (KeepsPartials, "the_declared_law_holds", AssertionError),
    ],
)
def test_a_broken_word_is_caught(reducer, test, error):
    with pytest.raises(error):
        check(reducer, test)


def test_a_false_claim_is_told_by_its_law():
    with pytest.raises(AssertionError, match="law exact: the grouping into chunks shows"):
        check(FalselyExact, "the_declared_law_holds")
    with pytest.raises(AssertionError, match="law exact: the order of partials shows"):
        check(FalselyExactOrder, "the_declared_law_holds")


class HonestSum(PlainSum):
    """The same sum kept exactly: its claim holds."""

    law = Law.EXACT

    def reset(self):
        self.total = ExactSum()

    def update(self, values):
        self.total.add(values)

    def per_slot_reduce(self):
        return self.total.state()

    def cross_slot_reduce(self, per_slot_metrics):
        total = ExactSum()
        for partial in per_slot_metrics:
            total.merge(ExactSum.from_state(partial))
        return total.value()


def test_the_same_claim_holds_for_an_exact_sum():
    check(HonestSum, "the_declared_law_holds")
