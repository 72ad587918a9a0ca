"""Samples that fail: what is kept of them, how they are found among their neighbours, how many are too many."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from batchmill.engine.commit_log import CommitLog
from batchmill.engine.confidential import redact
from batchmill.engine.user_code import user_trace
from batchmill.errors import ErrorBudgetError

# Characters of a traceback that are kept; its end says most.
_TRACE_CHARACTERS = 8 * 1024
_MESSAGE_CHARACTERS = 1024
# Trials, or half as many as there are rows, after which rows are tried one by one: were most of them bad, bisecting
# would take longer than that.
MOST_BISECTIONS = 40
# Allowed without being asked: so many samples, or this share of them.
_FREE_ERRORS, _FREE_SHARE = 10, 1000


def _stored(text: str) -> str:
    """Return a text without secrets, and in valid Unicode, which names of files in messages need not be."""
    return redact(text).encode(errors="backslashreplace").decode()


@dataclass(frozen=True)
class SampleFailure:
    """Why one sample was set aside.

    Attributes:
        stage: "load" (the dataset or its collate function), "process" (``process_batch``) or "output" (a value of
            its result is not finite).
        error: Name of the exception's class.
        message: Its text.
        traceback: Its traceback, at most 8 KiB, from the end.
    """

    stage: str
    error: str
    message: str
    traceback: str

    @classmethod
    def of(cls, stage: str, error: BaseException) -> SampleFailure:
        """Describe an exception."""
        return cls.told(stage, type(error).__name__, str(error), user_trace(error))

    @classmethod
    def told(cls, stage: str, error: str, message: str, trace: str) -> SampleFailure:
        """Describe an exception that another process told of."""
        return cls(stage, error, _stored(message)[:_MESSAGE_CHARACTERS], _stored(trace)[-_TRACE_CHARACTERS:])

    def to_record(self, index: int) -> dict[str, Any]:
        """Return it as a commit record keeps it, with the sample's index."""
        return {"index": index, **asdict(self)}


class SampleError(Exception):
    """Some rows of a batch failed, and how; never leaves the engine."""

    def __init__(self, failure: SampleFailure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def find_bad_rows(
    candidates: Sequence[int],
    attempt: Callable[[Sequence[int]], None],
    found: Callable[[int, SampleFailure], None],
) -> None:
    """Find the rows that fail, by bisection.

    A group of candidates is tried together with rows that are known to pass, so a row that only fails beside others
    (a picture of another size) is found as well. Large groups come first, so that the many decide and not the odd
    ones: surely if those are at most a quarter.

    Args:
        candidates: Positions of rows that fail together.
        attempt: Tries the rows at the given positions, ascending; raises ``SampleError`` if they fail.
        found: Told of each bad row as it is found; may raise to give up.
    """
    good: list[int] = []
    groups = deque(_halves(candidates))
    trials, most = 0, max(MOST_BISECTIONS, len(candidates) // 2)
    while groups:
        group = groups.popleft()
        if trials == most:
            groups = deque([position] for some in (group, *groups) for position in some)
            group = groups.popleft()
        trials += 1
        failure = None
        try:
            attempt(sorted([*good, *group]))
        except SampleError as error:
            failure = error.failure
        if failure is None:
            good += group
        elif len(group) == 1:
            found(group[0], failure)
        else:
            groups += _halves(group)


def _halves(group: Sequence[int]) -> list[Sequence[int]]:
    """Cut a group in two, the larger half first."""
    half = -(-len(group) // 2)
    return [part for part in (group[:half], group[half:]) if part]


class ErrorBudget:
    """Counts the samples that failed in the whole run, and says when there are too many.

    Args:
        allowed: So many samples may fail; None: 10, or one in a thousand if that is more.
        samples: Samples in the run.
        log: The run's commit log, where other workers' failures are found.
    """

    def __init__(self, allowed: int | None, samples: int, log: CommitLog) -> None:
        self.allowed = max(_FREE_ERRORS, samples // _FREE_SHARE) if allowed is None else allowed
        self._log = log
        self._committed: dict[int, int] = {}
        self._here: dict[int, set[int]] = {}

    def begin(self, chunk: int) -> None:
        """Start to count a chunk; looks at what others have committed since."""
        for other in sorted(self._log.committed() - self._committed.keys() - self._here.keys()):
            self._committed[other] = len(self._log.read(other)["quarantined"])
        self._here[chunk] = set()

    def spend(self, chunk: int, index: int, failure: SampleFailure) -> None:
        """Count one sample of a chunk, once however often it fails.

        Raises:
            ErrorBudgetError: It is one too many.
        """
        self._here[chunk].add(index)
        spent = sum(self._committed.values()) + sum(map(len, self._here.values()))
        if spent > self.allowed:
            raise ErrorBudgetError(
                f"Sample {index} failed at stage {failure.stage}: {failure.error}: {failure.message}\n\n"
                f"{failure.traceback.rstrip()}\n\n"
                f"That makes {spent} failed samples, and max_errors={self.allowed} allows no more. What is committed "
                f"stays: mend the cause and resume, or resume with a larger max_errors."
            )
