"""Bisection finds exactly the bad rows, in few trials; the budget counts each bad sample once."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill import ErrorBudgetError
from batchmill.engine.quarantine import MOST_BISECTIONS, ErrorBudget, SampleError, SampleFailure, find_bad_rows

FAILURE = SampleFailure("process", "ValueError", "bad", "")


class Attempts:
    """Fails whenever ``fails`` says so of the rows that are tried together."""

    def __init__(self, fails):
        self.fails, self.tried = fails, []

    def __call__(self, positions):
        assert list(positions) == sorted(set(positions)) and positions
        self.tried.append(list(positions))
        if self.fails(set(positions)):
            raise SampleError(SampleFailure("process", "ValueError", f"among {positions}", ""))


def find(candidates, fails):
    attempts, found = Attempts(fails), {}
    find_bad_rows(candidates, attempts, found.__setitem__)
    return found, len(attempts.tried)


def worst(n):
    return max(MOST_BISECTIONS, n // 2) + n


@given(st.sets(st.integers(0, 300), min_size=1, max_size=200), st.data())
def test_exactly_the_planted_rows_are_found(candidates, data):
    planted = data.draw(st.sets(st.sampled_from(sorted(candidates))))
    found, trials = find(sorted(candidates), lambda rows: bool(rows & planted))
    assert found.keys() == planted
    assert trials <= worst(len(candidates))


@given(st.integers(1, 5000), st.data())
def test_one_bad_row_takes_two_trials_for_each_halving(n, data):
    bad = data.draw(st.integers(0, n - 1))
    found, trials = find(range(n), lambda rows: bad in rows)
    assert found.keys() == {bad}
    assert trials <= 2 * math.ceil(math.log2(n)) + 2


@pytest.mark.parametrize("n", [1, 2, 3, 64, 1000])
def test_rows_that_are_all_bad_are_tried_little_more_than_once_each(n):
    found, trials = find(range(n), lambda rows: True)
    assert found.keys() == set(range(n))
    assert trials <= worst(n)


@pytest.mark.parametrize(("n", "bad", "most"), [(64, 1, 12), (64, 2, 24), (64, 8, 80), (4096, 8, 200)])
def test_few_bad_rows_take_few_trials(n, bad, most):
    planted = {position * n // bad + 3 for position in range(bad)}
    found, trials = find(range(n), lambda rows: bool(rows & planted))
    assert found.keys() == planted
    assert trials <= most


def test_what_only_fails_beside_others_is_left_out_where_the_many_decide():
    """Every set of odd ones, up to a quarter, among up to ten rows; by exhaustion."""
    tried = 0
    for n in range(2, 11):
        for mask in range(1, 2**n):
            odd = {position for position in range(n) if mask >> position & 1}
            if 4 * len(odd) > n and not (len(odd) == 1 and n >= 3):
                continue
            found, _ = find(range(n), lambda rows, odd=odd: 0 < len(rows & odd) < len(rows))
            assert found.keys() == odd, (n, odd)
            tried += 1
    assert tried > 150


@given(st.lists(st.integers(0, 3), min_size=4, max_size=64))
def test_what_is_left_passes_together_whatever_the_rows_are_like(shapes):
    """Rows of one shape pass together: what is kept is of one shape, and nothing that would fit it is thrown out."""
    found, _ = find(range(len(shapes)), lambda rows: len({shapes[row] for row in rows}) > 1)
    kept = {shapes[row] for row in range(len(shapes)) if row not in found}
    assert len(kept) == 1
    assert {shapes[row] for row in found}.isdisjoint(kept)


def test_each_row_has_the_failure_of_its_own_trial():
    found, _ = find(range(8), lambda rows: bool(rows & {2, 5}))
    assert found[2].message.startswith("among [") and "2" in found[2].message and "5" not in found[2].message


def test_a_row_that_gives_up_the_search_ends_it():
    seen = []

    def found(position, failure):
        seen.append(position)
        raise ErrorBudgetError("enough")

    with pytest.raises(ErrorBudgetError) as caught:
        find_bad_rows(range(16), Attempts(lambda rows: True), found)
    assert len(seen) == 1
    assert caught.value.__context__ is None, "not told as a consequence of the sample's error"


def test_long_messages_and_traces_are_cut():
    failure = SampleFailure.told("load", "OSError", "m" * 5000, "t" * 20_000 + "the end")
    assert len(failure.message) == 1024
    assert len(failure.traceback) == 8192 and failure.traceback.endswith("the end")
    assert failure.to_record(7) == {
        "index": 7,
        "stage": "load",
        "error": "OSError",
        "message": failure.message,
        "traceback": failure.traceback,
    }


# --- the budget ---


class Log:
    def __init__(self, **quarantined):
        self.records = {int(chunk[1:]): n for chunk, n in quarantined.items()}
        self.reads = []

    def committed(self):
        return set(self.records)

    def read(self, chunk):
        self.reads.append(chunk)
        return {"quarantined": [{"index": 0}] * self.records[chunk]}


@pytest.mark.parametrize(("samples", "allowed"), [(0, 10), (10_000, 10), (10_999, 10), (11_000, 11), (10**6, 1000)])
def test_ten_samples_or_one_in_a_thousand_may_fail(samples, allowed):
    assert ErrorBudget(None, samples, Log()).allowed == allowed
    assert ErrorBudget(0, samples, Log()).allowed == 0


def test_the_budget_is_the_whole_runs():
    log = Log(c0=2, c3=1)
    budget = ErrorBudget(6, 100, log)
    budget.begin(1)
    budget.spend(1, 10, FAILURE)
    log.records[5] = 1
    budget.begin(2)
    budget.spend(2, 20, FAILURE)
    with pytest.raises(ErrorBudgetError, match=r"^Sample 21 failed(.|\n)*makes 7 failed.*max_errors=6"):
        budget.spend(2, 21, FAILURE)
    assert sorted(log.reads) == [0, 3, 5], "each record is read once"


def test_a_sample_is_counted_once_however_often_it_fails():
    budget = ErrorBudget(1, 100, Log())
    for _ in range(3):
        budget.begin(1)
        budget.spend(1, 10, FAILURE)
        budget.spend(1, 10, FAILURE)
    with pytest.raises(ErrorBudgetError):
        budget.spend(1, 11, FAILURE)


def test_a_chunk_of_ours_that_is_committed_is_counted_once():
    log = Log()
    budget = ErrorBudget(2, 100, log)
    budget.begin(1)
    budget.spend(1, 10, FAILURE)
    log.records[1] = 1
    budget.begin(2)
    budget.spend(2, 20, FAILURE)
    with pytest.raises(ErrorBudgetError, match="makes 3 failed samples"):
        budget.spend(2, 21, FAILURE)
