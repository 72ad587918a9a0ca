import os
import signal
import threading

import pytest

from batchmill.engine.stopping import STOP_SIGNALS, StopFlag, stop_on_signals, stop_reason


class Clock:
    def __init__(self):
        self.now = 50.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_before_a_request_nothing_is_asked(clock):
    flag = StopFlag(10, clock)
    assert (flag.requested, flag.reason, flag.elapsed(), flag.overdue()) == (False, None, 0.0, False)


def test_the_chunk_in_progress_may_use_a_share_of_the_grace(clock):
    flag = StopFlag(10, clock)
    flag.request("time is up")
    assert flag.requested and flag.reason == "time is up" and not flag.overdue()
    clock.now += 5.9
    assert not flag.overdue() and flag.elapsed() == pytest.approx(5.9)
    clock.now += 0.2
    assert flag.overdue()


def test_the_first_reason_and_the_first_deadline_stand(clock):
    flag = StopFlag(10, clock)
    flag.request("first")
    clock.now += 4
    flag.request("second")
    assert flag.reason == "first" and flag.elapsed() == pytest.approx(4)
    clock.now += 2.1
    assert flag.overdue()


def test_now_means_now(clock):
    flag = StopFlag(10, clock)
    flag.request("soon")
    flag.request("at once", now=True)
    assert flag.overdue() and flag.reason == "soon"
    other = StopFlag(10, clock)
    other.request("at once", now=True)
    assert other.overdue() and other.elapsed() == 0.0


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_signals_set_the_flag_and_old_handlers_come_back(number):
    flag, before = StopFlag(), [signal.getsignal(each) for each in STOP_SIGNALS]
    with stop_on_signals(flag):
        os.kill(os.getpid(), number)
        assert flag.requested and flag.reason == stop_reason(number) == f"received {number.name}"
        assert not flag.overdue()
        assert flag.interrupted == (number == signal.SIGINT)
    assert [signal.getsignal(each) for each in STOP_SIGNALS] == before


def test_a_second_ctrl_c_drops_the_chunk_in_progress():
    flag = StopFlag()
    with stop_on_signals(flag):
        os.kill(os.getpid(), signal.SIGINT)
        assert not flag.overdue()
        os.kill(os.getpid(), signal.SIGTERM)
        assert not flag.overdue(), "another signal is no second Ctrl-C"
        os.kill(os.getpid(), signal.SIGINT)
        assert flag.overdue() and flag.reason == "received SIGINT"


def test_a_third_ctrl_c_interrupts_whatever_hangs():
    flag = StopFlag()
    with stop_on_signals(flag), pytest.raises(KeyboardInterrupt):
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("still going on")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_leave_handlers_alone():
    seen = []

    def work():
        before = [signal.getsignal(number) for number in STOP_SIGNALS]
        with stop_on_signals(StopFlag()):
            seen.append(before == [signal.getsignal(number) for number in STOP_SIGNALS])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]


def test_the_handlers_of_an_embedding_program_stay(monkeypatch):
    known, installed = signal.getsignal, []
    monkeypatch.setattr(signal, "getsignal", lambda number: None if number == signal.SIGUSR1 else known(number))
    monkeypatch.setattr(signal, "signal", lambda number, handler: installed.append(number))
    with stop_on_signals(StopFlag()):
        assert sorted(installed) == sorted([signal.SIGTERM, signal.SIGINT])
