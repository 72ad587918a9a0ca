"""What starts workers."""

from __future__ import annotations

from abc import ABC, abstractmethod

from batchmill.contracts.run import RunRequest, RunResult


class Launcher(ABC):
    """Starts the workers of one run, waits for them and returns what is committed."""

    @abstractmethod
    def launch(self, request: RunRequest) -> RunResult:
        """Run ``request`` to its end, or until it is stopped.

        Returns:
            The result; ``complete`` is False for a run that was preempted.

        Raises:
            BatchmillError: The run failed; what was committed stays and the same run id resumes.
        """
