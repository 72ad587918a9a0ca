import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill import ClaimScope, DynamicClaims, StaticClaims
from batchmill.engine import claims as module
from batchmill.engine.claims import Takeover


class Run:
    """Chunks of a run, some of them committed."""

    def __init__(self, chunks, committed=()):
        self.chunks, self.committed, self.looks = chunks, set(committed), 0

    def missing(self):
        self.looks += 1
        return [chunk for chunk in range(self.chunks) if chunk not in self.committed]

    def scope(self, rank=0, world_size=1, queue=None, counter=None):
        return ClaimScope(self.chunks, rank, world_size, self.missing, queue, counter)


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def drain(claims):
    return list(iter(lambda: claims.next_chunk(False), None))


runs = st.integers(0, 60).flatmap(
    lambda chunks: st.tuples(st.just(chunks), st.sets(st.integers(0, max(chunks - 1, 0)), max_size=chunks))
)


@given(runs, st.integers(1, 9))
def test_static_shares_cover_what_is_missing_once(drawn, world_size):
    run = Run(*drawn)
    shares = [drain(StaticClaims(run.scope(rank, world_size))) for rank in range(world_size)]
    for rank, share in enumerate(shares):
        assert all(chunk % world_size == rank for chunk in share) and share == sorted(share)
    assert sorted(itertools.chain(*shares)) == run.missing()


@given(runs, st.integers(2, 9), st.randoms(use_true_random=False))
def test_a_shared_counter_hands_out_what_is_missing_once(drawn, world_size, random):
    run, counter = Run(*drawn), itertools.count()
    workers = [DynamicClaims(run.scope(rank, world_size, counter=counter.__next__)) for rank in range(world_size)]
    claimed = []
    while workers:
        worker = random.choice(workers)
        chunk = worker.next_chunk(False)
        if chunk is None:
            workers.remove(worker)
        else:
            claimed.append(chunk)
    assert sorted(claimed) == run.missing()


@given(runs, st.integers(1, 9))
def test_without_queue_or_counter_dynamic_claims_are_static_shares(drawn, world_size):
    run = Run(*drawn)
    for rank in range(world_size):
        scope = run.scope(rank, world_size)
        assert drain(DynamicClaims(scope)) == drain(StaticClaims(scope))


@given(runs)
def test_a_single_worker_needs_no_counter(drawn):
    def refuse():
        raise AssertionError("nobody to share with")

    run = Run(*drawn)
    assert drain(DynamicClaims(run.scope(counter=refuse))) == run.missing()


def test_a_launchers_queue_comes_first():
    asked = []

    class Queue:
        def take(self, wait):
            asked.append(wait)
            return 7 if wait else None

    claims = DynamicClaims(Run(9).scope(0, 2, queue=Queue(), counter=lambda: 0))
    assert claims.next_chunk(False) is None and claims.next_chunk(True) == 7
    assert asked == [False, True]


def test_chunks_that_others_committed_meanwhile_are_passed_over(monkeypatch):
    clock, run = Clock(), Run(6)
    monkeypatch.setattr(module._still_missing, "__defaults__", (clock,))
    claims = StaticClaims(run.scope())
    assert claims.next_chunk(False) == 0
    run.committed |= {1, 2, 3}
    assert claims.next_chunk(False) == 1, "no look at every chunk: a listing costs time"
    clock.now += module._LOOK_INTERVAL
    assert claims.next_chunk(False) == 4
    assert run.looks == 2


def test_a_slow_listing_is_asked_for_less_often(monkeypatch):
    clock, run = Clock(), Run(200)
    listing = run.missing

    def slow():
        clock.now += 1.0
        return listing()

    monkeypatch.setattr(run, "missing", slow)
    monkeypatch.setattr(module._still_missing, "__defaults__", (clock,))
    claims = StaticClaims(run.scope())
    for _ in range(150):
        claims.next_chunk(False)
        clock.now += 1.0
    assert run.looks == 2


@pytest.fixture
def clock():
    return Clock()


def test_takeover_says_when_everything_is_committed(clock):
    run = Run(3, committed={0, 1, 2})
    assert Takeover(run.scope(), 60, clock).look() == (True, None)


def test_nothing_is_taken_over_while_the_first_missing_chunk_changes(clock):
    run = Run(10)
    takeover = Takeover(run.scope(1, 2), 60, clock)
    for done in range(9):
        clock.now += 59
        assert takeover.look() == (False, None)
        run.committed.add(done)


def test_a_lost_workers_chunks_are_taken_over_after_one_wait(clock):
    run = Run(10, committed={1, 3, 5, 7, 9})  # rank 0 is gone
    takeover = Takeover(run.scope(1, 2), 60, clock)
    assert takeover.look() == (False, None)
    clock.now += 59.9
    assert takeover.look() == (False, None)
    clock.now += 0.2
    taken = []
    while not run.committed >= set(range(10)):
        complete, chunk = takeover.look()
        assert not complete and chunk is not None, "without waiting again"
        taken.append(chunk)
        run.committed.add(chunk)
    assert sorted(taken) == [0, 2, 4, 6, 8]
    assert taken[-1] == 0, "the one that its owner may be working on comes last"
    assert takeover.look() == (True, None)


def test_waiting_begins_anew_once_the_owner_shows_that_it_lives(clock):
    run = Run(10, committed={1, 3, 5, 7, 9})
    takeover = Takeover(run.scope(1, 2), 60, clock)
    takeover.look()
    clock.now += 61
    assert takeover.look()[1] is not None
    run.committed.add(0)  # the slow owner commits after all
    assert takeover.look() == (False, None)
    clock.now += 61
    assert takeover.look()[1] is not None


@given(st.integers(2, 6), st.integers(1, 40))
def test_workers_that_take_over_share_the_work(world_size, chunks):
    clock, run = Clock(), Run(chunks)
    survivors = [Takeover(run.scope(rank, world_size), 60, clock) for rank in range(world_size)]
    for takeover in survivors:
        takeover.look()
    clock.now += 61
    while run.missing():
        chosen = [takeover.look()[1] for takeover in survivors]
        assert all(chunk in run.missing() for chunk in chosen), "only what is missing, and always something"
        run.committed.update(chosen)
    assert all(takeover.look() == (True, None) for takeover in survivors)
