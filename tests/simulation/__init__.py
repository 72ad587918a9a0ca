"""A deterministic simulation of whole runs under faults, and proof that it would notice a broken rule.

One seed decides everything: the job, the launches, who has the next turn, and every fault. So a schedule that goes
wrong can be replayed, step by step, as often as it takes to understand it.

What is real: the engine from ``execute()`` on (opening a run, claims, takeover, the worker's loop, quarantine, the
commit thread, the commit log, folding, finishing), the chunk board, restarts and lock of the launcher, and the
first-party storages ``local`` and ``object_store`` down to the system call or request.

What is modelled, because it is the world outside: a file system that keeps apart what is visible and what survives a
power loss (``kernel``), an object store that answers late, twice or not at all (``object_server``), threads, clocks
and chance (``scheduler``, ``patches``), and the loops around processes and sockets of launchers (``launches``). The job
is tiny, and its right result is known (``workload``).

A schedule (``schedule``): one to three launches, alone or as 2 or 3 workers, one after another or at the same time,
while faults strike (``faults``): kills of one process, a launch or all, power loss, pauses, processes stopped for
good, jumping clocks, preemption, failing calls, full disks, unclear answers, samples that fail. Then faults cease,
the wreck is checked, and a last launch must complete the run. Where samples have failed, what is wrong with them may
be mended and they are tried again, under faults (``generations``). Processes that were stopped wake up as zombies,
and the power fails once more. Two parties judge, and neither trusts Batchmill: ``watcher`` looks at every change at
the moment when it is made, ``checker`` reads what lies in storage. They know the documented format and the job,
nothing else.

Invariants, by the number that a violation begins with:

- I1 every sample is in the committed rows or among the quarantined, once; no result before all records are there.
- I2 what a record names is there, whole and durable, from the moment when the record appears.
- I3 metrics, and what the tracker holds, are the fold of the records, bit for bit.
- I4 what was announced stays: a record, a result, ``run.json``.
- I5 ``result.json`` has the same bytes as that of an undisturbed run.
- I6 every launch comes to an end, and to the right one; exit code 0 only for a durable result.

The simulator is only worth as much as what it catches. ``mutants`` breaks each rule of the protocol in turn, by
replacing functions while schedules run; every mutant must be caught, and a harmless change must not be.

From the repository's root:

    python -m tests.simulation campaign --seeds 200000 --processes 2   schedules; counts of faults; violations
    python -m tests.simulation replay 4711                             every step of one schedule
    python -m tests.simulation replay 4711 --mutant record-first       the same with a broken rule
    python -m tests.simulation mutants --seeds 200                     the share of schedules that exposes each mutant
    python -m pytest tests/simulation                                  what is run at each change
    python -m pytest tests/simulation -m campaign                      the long campaign

A campaign adds the seeds that fail to ``regressions.json``, and the tests of each change replay them.

Read ``schedule``, ``faults``, ``kernel`` and ``checker`` first, in this order.
"""
