"""The local launcher and its workers: the dead are replaced, nobody is left behind, stops are heeded."""

from __future__ import annotations

import functools
import json
import os
import signal
import time
from pathlib import Path

import pytest
from checker import check_complete, check_wreck
from job_requests import job, on, run_here
from oracle import assert_doubler
from process_fixtures import linux_only
from processes import Launched, Launcher, ProcessInfo, committed_chunks, until, until_committed

import batchmill.launch.supervisor
from batchmill import ConfigError, WorkerError
from batchmill.api import run_request
from batchmill.contracts.run import Selection
from batchmill.launch.restarts import Restarts

pytestmark = linux_only

SLOW = {"pause": 0.05}


def loaders_of(launched: Launched) -> list[ProcessInfo]:
    workers = {info.pid for info in launched.workers()}
    return [info for info in launched.family() if info.ppid in workers]


# --- a worker dies ---


def test_only_the_dead_worker_is_replaced(launch: Launcher, output: Path) -> None:
    run = launch.job(job(output, nproc=3, settings=SLOW))
    until_committed(output / "run", 3, run)
    before = {info.pid for info in run.workers()}
    assert len(before) == 3
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    until(lambda: len(run.workers()) == 3 and victim not in {w.pid for w in run.workers()}, "a new worker")
    assert before - {victim} <= {info.pid for info in run.workers()}
    run.finish(0)
    assert "was killed by SIGKILL" in run.stderr
    assert run.stderr.count("restarting it") == 1
    assert_doubler(check_complete(output / "run"))


def test_a_dead_worker_is_seen_at_once_although_its_loader_processes_live_on(launch: Launcher, output: Path) -> None:
    run = launch.job(job(output, nproc=2, settings=SLOW, loader={"num_workers": 1}))
    until_committed(output / "run", 2, run)
    until(lambda: len(loaders_of(run)) == 2, "loader processes")
    victim = run.workers()[0].pid
    orphans = [info.pid for info in loaders_of(run) if info.ppid == victim]
    os.kill(victim, signal.SIGKILL)
    until(lambda: "was killed by SIGKILL" in run.stderr, "the launcher's notice", seconds=1.5)
    until(lambda: not {info.pid for info in run.family()} & set(orphans), "the end of its loader", seconds=1.5)
    run.finish(0)
    run.until_gone(5)
    assert_doubler(check_complete(output / "run"))


def test_a_worker_that_always_dies_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], output: Path, support_path: None
) -> None:
    hasty = functools.partial(Restarts, most=2, first_backoff=0.01)
    monkeypatch.setattr(batchmill.launch.supervisor, "Restarts", hasty)
    request = job(output, nproc=2, processor="Dies", settings={"batch": 20}, on_error="fail")
    with pytest.raises(WorkerError, match=r"exited with code 3; workers died 3 times within 600 s") as caught:
        run_request(request)
    assert caught.value.exit_code == 70
    assert f"batchmill resume {output / 'run'}" in str(caught.value)
    assert capfd.readouterr().err.count("restarting it") == 2
    _, records = check_wreck(output / "run")
    assert 10 not in records
    assert len(records) > 5


def test_a_sample_that_kills_its_worker_once_costs_one_restart(launch: Launcher, output: Path, tmp_path: Path) -> None:
    settings = {"batch": 20, "how": "kill", "once": str(tmp_path / "killed")}
    run = launch.job(job(output, nproc=2, processor="Dies", settings=settings))
    run.finish(0)
    assert run.stderr.count("restarting it") == 1
    assert_doubler(check_complete(output / "run"))


# --- user code fails ---


@pytest.mark.parametrize("nproc", [1, 2])
def test_an_error_in_the_processor_fails_once_and_tells_where(
    launch: Launcher, output: Path, tmp_path: Path, nproc: int
) -> None:
    settings = {"batch": 20, "unless": str(tmp_path / "fixed"), "pause": 0.01}
    request = job(output, nproc=nproc, processor="Fails", settings=settings, on_error="fail")
    run = launch.job(request)
    run.finish(70)
    assert run.stderr.count("ProcessorError") == 1
    assert "process_batch failed on batch 20 (samples 100..104): ZeroDivisionError: the user's own bug" in run.stderr
    assert 'jobs.py", line' in run.stderr and "in trip_over" in run.stderr
    assert "restarting" not in run.stderr
    run.until_gone(2)
    _, records = check_wreck(output / "run")
    assert set(range(9)) <= records.keys() and 10 not in records

    (tmp_path / "fixed").touch()
    assert run_here(request).complete
    assert_doubler(check_complete(output / "run"))


# --- the launcher dies ---


def test_workers_leave_with_their_launcher(launch: Launcher, output: Path) -> None:
    run = launch.job(job(output, nproc=3, settings=SLOW))
    until_committed(output / "run", 2, run)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    run.until_gone(1)


def test_workers_that_are_still_starting_leave_with_their_launcher(launch: Launcher, output: Path) -> None:
    run = launch.job(job(output, nproc=3))
    run.until_workers(3)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    run.until_gone(1)


def test_loader_processes_leave_with_their_launcher(launch: Launcher, output: Path) -> None:
    run = launch.job(job(output, nproc=2, settings=SLOW, loader={"num_workers": 2}))
    until_committed(output / "run", 2, run)
    until(lambda: len(loaders_of(run)) == 4, "loader processes")
    workers = {info.pid for info in run.workers()}
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    until(lambda: not workers & {info.pid for info in run.family()}, "the end of the workers", seconds=1)
    run.until_gone(10)


# --- somebody asks to stop ---


@pytest.mark.parametrize(("number", "nproc"), [(signal.SIGTERM, 3), (signal.SIGUSR1, 1), (signal.SIGINT, 2)])
def test_a_signal_drains_the_run(launch: Launcher, output: Path, number: signal.Signals, nproc: int) -> None:
    request = job(output, nproc=nproc, settings=SLOW, loader={"num_workers": 1} if nproc == 1 else {})
    run = launch.job(request)
    until_committed(output / "run", 3, run)
    run.signal(number)
    run.finish(75, seconds=40)
    run.until_gone(1)
    told = json.loads(run.stdout)
    assert told["complete"] is False
    assert told["reason"] == f"received {number.name}"
    assert "Traceback" not in run.stderr
    _, records = check_wreck(output / "run")
    assert 3 <= len(records) < 21
    assert told["samples"] == sum(record["stop"] - record["start"] for record in records.values())
    assert run_here(request).complete
    assert_doubler(check_complete(output / "run"))


def test_a_signal_during_start_up_is_not_lost(launch: Launcher, output: Path) -> None:
    run = launch.job(job(output, nproc=2, settings={"pause": 0.2}))
    workers = [info.pid for info in run.until_workers(2)]
    for pid in workers:  # so that they find the request and the stop together
        os.kill(pid, signal.SIGSTOP)
    run.signal(signal.SIGTERM)
    time.sleep(0.5)
    for pid in workers:
        os.kill(pid, signal.SIGCONT)
    run.finish(75, seconds=40)
    assert committed_chunks(output / "run") == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_to_the_whole_group_during_start_up(launch: Launcher, output: Path, number: signal.Signals) -> None:
    run = launch.job(job(output, nproc=2))
    run.until_workers(2)
    for info in run.family():
        os.kill(info.pid, number)
    run.finish(75, seconds=40)
    run.until_gone(1)
    assert json.loads(run.stdout) == {"complete": False, "samples": 0, "reason": f"received {number.name}"}
    assert "restarting" not in run.stderr
    assert run_here(job(output)).complete


def test_a_second_interrupt_drops_the_chunk_in_progress(launch: Launcher, output: Path) -> None:
    run = launch.job(job(output, nproc=2, settings={"pause": 0.4}, checkpoint_interval=5, batch_size=2))
    until_committed(output / "run", 2, run)
    before = committed_chunks(output / "run")
    began = time.monotonic()
    run.signal(signal.SIGINT)
    time.sleep(0.1)
    run.signal(signal.SIGINT)
    run.finish(75, seconds=40)
    assert time.monotonic() - began < 1.5, "it waited for the end of a chunk of two seconds"
    assert committed_chunks(output / "run") <= before + 1


def test_signals_to_the_whole_group_drain_too(launch: Launcher, output: Path) -> None:
    """SLURM and terminals signal every process of a job, loader processes included."""
    request = job(output, nproc=2, settings=SLOW, loader={"num_workers": 1})
    run = launch.job(request)
    until_committed(output / "run", 3, run)
    for info in run.family():
        os.kill(info.pid, signal.SIGTERM)
    run.finish(75, seconds=40)
    run.until_gone(5)
    assert "Traceback" not in run.stderr and "restarting" not in run.stderr
    assert run_here(request).complete
    assert_doubler(check_complete(output / "run"))


# --- what cannot be ---


def test_memory_that_workers_do_not_share_is_refused(support_path: None) -> None:
    request = job("memory://refused", nproc=2, storage=Selection("memory"))
    with pytest.raises(ConfigError, match=r"memory://refused/run is inside one process, so 2 workers"):
        run_request(request)


# --- ports ---


def test_no_process_of_a_local_run_listens_on_a_port(launch: Launcher, output: Path) -> None:
    run = launch.job(job(output, nproc=3, settings=SLOW, loader={"num_workers": 1}))
    until_committed(output / "run", 3, run)
    until(lambda: len(loaders_of(run)) == 3, "loader processes")
    family = run.family()
    assert len(family) == 7
    sockets = {inode for info in family for inode in socket_inodes(info.pid)}
    assert sockets, "the workers are connected to their launcher by sockets"
    assert not sockets & listening_inodes()
    run.finish(0)


def socket_inodes(pid: int) -> set[str]:
    found = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            found.add(target[len("socket:[") : -1])
    return found


def listening_inodes() -> set[str]:
    """Return the inodes of all TCP sockets of this machine that listen (state 0A)."""
    found = set()
    for table in ("tcp", "tcp6"):
        path = Path(f"/proc/net/{table}")
        for line in path.read_text().splitlines()[1:] if path.exists() else []:
            fields = line.split()
            if fields[3] == "0A":
                found.add(fields[9])
    return found


# --- threads ---


def test_the_environment_has_no_say_in_the_number_of_threads(launch: Launcher, output: Path) -> None:
    for nproc in (1, 2):
        request = on(job(output, f"w{nproc}", processor="ThreadCount"), nproc)
        launch.job(request, OMP_NUM_THREADS="4", MKL_NUM_THREADS="4").finish(0)
        run = check_complete(output / f"w{nproc}")
        assert set(run.column("threads")) == {1}
        assert_doubler(run)
