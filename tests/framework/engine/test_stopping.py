import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from batchmill.engine.stopping import (
    DEFAULT_GRACE,
    STOP_SIGNALS,
    StopFlag,
    grace_of,
    stop_on_signals,
    stop_reason,
)
from batchmill.errors import ConfigError


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
    flag, before = StopFlag(), signal.getsignal(signal.SIGINT)
    with stop_on_signals(flag), pytest.raises(KeyboardInterrupt):
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("still going on")
    assert signal.getsignal(signal.SIGINT) is before


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


def test_the_grace_comes_from_the_environment():
    assert grace_of({}) == grace_of({"BATCHMILL_GRACE": ""}) == DEFAULT_GRACE == 25
    assert grace_of({"BATCHMILL_GRACE": "80.5"}) == 80.5
    for given in ("soon", "0", "-1", "nan", "inf"):
        with pytest.raises(ConfigError, match=f"BATCHMILL_GRACE is '{given}'; expected the seconds"):
            grace_of({"BATCHMILL_GRACE": given})


def test_the_earliest_deadline_stands_whatever_the_order(clock):
    flag = StopFlag(10, clock)
    flag.request("at once", now=True)
    flag.request("soon")
    assert flag.overdue()


def run_script(source, **environment):
    """Run a script in a process of its own; return its exit code and what it wrote."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )
    return done.returncode, done.stdout, done.stderr


STUCK = """
    import os, signal, sys, threading, time
    from batchmill.engine.stopping import StopFlag, stop_on_signals

    flag, heard = StopFlag(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0), []

    def send():
        # With the signal blocked in the main thread the kernel gives it to this one, and the main thread's call goes
        # on, as a long one in C does that no signal interrupts.
        time.sleep(0.2)
        sent = time.monotonic()
        os.kill(os.getpid(), SIGNAL)
        while not flag.requested and time.monotonic() < sent + 3:
            time.sleep(0.001)
        heard.append(time.monotonic() - sent)

    thread = threading.Thread(target=send)
    thread.start()
    signal.pthread_sigmask(signal.SIG_BLOCK, [SIGNAL])
    with stop_on_signals(flag):
        time.sleep(STUCK_FOR)
        thread.join()
    print(flag.reason, flag.interrupted, heard[0] < 0.15, heard[0])
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_is_heard_while_the_main_thread_is_inside_a_call(number):
    source = STUCK.replace("SIGNAL", f"signal.{number.name}").replace("STUCK_FOR", "0.8")
    code, told, errors = run_script(source)
    assert code == 0, errors
    reason, interrupted, soon = told.rsplit(maxsplit=3)[0], *told.split()[-3:-1]
    assert reason == f"received {number.name}" and soon == "True", told
    assert interrupted == str(number == signal.SIGINT)


def test_the_process_leaves_when_the_grace_is_over():
    began = time.monotonic()
    source = STUCK.replace("SIGNAL", "signal.SIGTERM").replace("STUCK_FOR", "30")
    code, told, errors = run_script(source)
    assert (code, told) == (75, "") and time.monotonic() - began < 10
    assert errors.startswith("batchmill: received SIGTERM, and the work in progress has not come to its end within 1 s")


def test_nobody_who_pressed_ctrl_c_is_thrown_out():
    source = STUCK.replace("SIGNAL", "signal.SIGINT").replace("STUCK_FOR", "1.6")
    code, told, _ = run_script(source)
    assert code == 0 and told.startswith("received SIGINT True")


def test_other_users_of_the_wake_up_pipe_still_get_their_signals():
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing)
    try:
        with stop_on_signals(StopFlag()):
            os.kill(os.getpid(), signal.SIGUSR1)
        assert os.read(reading, 8) == bytes([signal.SIGUSR1])
        assert signal.set_wakeup_fd(writing) == writing, "it was given back"
    finally:
        signal.set_wakeup_fd(before)
        os.close(reading)
        os.close(writing)


def test_nothing_is_left_behind():
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with stop_on_signals(StopFlag()):
            assert threading.active_count() == threads + 1
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == (threads, descriptors)


FORKS = """
    import multiprocessing, os, signal, time
    from batchmill.engine.stopping import StopFlag, stop_on_signals

    flag = StopFlag()
    with stop_on_signals(flag):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,))
        child.start()
        time.sleep(0.3)
        child.terminate()
        child.join(10)
        time.sleep(0.2)
        print(child.exitcode, flag.requested)
"""


def test_a_signal_to_a_forked_process_is_its_own():
    assert run_script(FORKS)[:2] == (0, "-15 False\n")


def test_a_loader_process_leaves_signals_to_its_worker_from_its_first_moment_on():
    as_loader = """
    def work():
        time.sleep(1)
    work.__module__ = "torch.utils.data._utils.worker"
    """
    source = FORKS.replace("target=time.sleep, args=(30,)", "target=work")
    source = source.replace("    flag = StopFlag()\n", f"{as_loader}\n    flag = StopFlag()\n")
    assert run_script(source)[:2] == (0, "0 False\n")
