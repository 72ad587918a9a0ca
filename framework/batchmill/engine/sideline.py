"""What a processor hands over besides rows: files, reports and links; kept with the chunk it belongs to."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from batchmill.contracts.storage import Storage
from batchmill.contracts.tracker import MetricsRecord, Tracker
from batchmill.engine.commit_log import FILES
from batchmill.engine.retries import with_retries
from batchmill.engine.retry_view import retried_chunks
from batchmill.engine.run_directory import LINKS, REPORTS
from batchmill.engine.serialization import canonical_json, seal, sha256_hex, unseal
from batchmill.errors import CorruptRunError, ModelError, OutputError
from batchmill.tracked_values import check_report

Announce = Callable[[str, int, Mapping[str, Any]], None]


class Sideline:
    """Collects files, reports and links of one worker; the engine opens and closes chunks.

    Args:
        storage: The run's storage.
        tracker: Where reports and links also go.
        run_id: The run.
        rank: This worker.
        announce: Called with each report that is stored (group, steps_completed, metrics).

    Attributes:
        used: Whether any chunk has handed over files or reports, also one that was dropped.
    """

    def __init__(self, storage: Storage, tracker: Tracker, run_id: str, rank: int, announce: Announce) -> None:
        self._storage, self._tracker = storage, tracker
        self._run_id, self._rank, self._announce = run_id, rank, announce
        self.used = self._in_chunk = False
        self._files: dict[str, bytes] = {}
        self._reports: list[dict[str, Any]] = []
        self._seen: dict[tuple[str, int], set[str]] = {}
        self._seen_in_chunk: list[tuple[tuple[str, int], set[str]]] = []

    def open_chunk(self) -> None:
        """Keep what comes from now on for the chunk."""
        self._in_chunk, self._seen_in_chunk = True, []

    def close_chunk(self) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
        """Return the chunk's files and reports, and store what comes afterwards at once."""
        files, reports = self._files, self._reports
        self._in_chunk, self._files, self._reports = False, {}, []
        return files, reports

    def drop_chunk(self) -> None:
        """Forget what an abandoned chunk handed over."""
        self.close_chunk()
        for key, names in self._seen_in_chunk:
            self._seen[key] -= names

    def add_files(self, files: Mapping[str, bytes]) -> None:
        """Take the files of one ``upload_path()`` block, by relative path."""
        if not self._in_chunk:
            for name, data in files.items():
                path = f"{FILES}/rank-{self._rank:05d}/{name}"
                with_retries(lambda path=path, data=data: self._storage.put(path, data))  # type: ignore[misc]
            return
        for name in files:
            if name in self._files:
                raise OutputError(
                    f"upload_path() was given a file {name!r} twice within one chunk; the first would be lost. "
                    f"Put the batch number into the name."
                )
        self.used = True
        self._files.update(files)

    def report(self, group: str, steps_completed: int, metrics: Mapping[str, Any]) -> None:
        """Take one report, see ``TorchBatchProcessorContext.report_metrics``."""
        plain = check_report(group, steps_completed, metrics)
        seen = self._seen.setdefault((group, steps_completed), set())
        again = sorted(seen & plain.keys())
        if again:
            raise ModelError(
                f"Metrics {', '.join(again)} were reported before for group {group!r} at step {steps_completed}. "
                f"Report under another step or group."
            )
        seen.update(plain)
        report = {
            "group": group,
            "steps_completed": steps_completed,
            "metrics": plain,
            "rank": self._rank,
            "time": datetime.now(UTC).isoformat(timespec="microseconds"),
        }
        if self._in_chunk:
            self.used = True
            self._seen_in_chunk.append(((group, steps_completed), set(plain)))
            self._reports.append(report)
            return
        self.deliver([self._store_once(report_path(report), report)])

    def _store_once(self, path: str, report: dict[str, Any]) -> dict[str, Any]:
        """Store a report and return it; one that an earlier launch of the run stored stands."""
        if with_retries(lambda: self._storage.put_if_absent(path, seal(report))):
            return report
        stored = read_report(with_retries(lambda: self._storage.get(path)), path)
        if stored["metrics"] != report["metrics"]:
            warnings.warn(
                f"Metrics of group {report['group']!r} at step {report['steps_completed']} were reported by an earlier "
                f"launch of run {self._run_id} as {stored['metrics']}; that stands, not {report['metrics']}.",
                stacklevel=4,
            )
        return stored

    def link(self, checkpoint_uuid: str, model_name: str | None, version: int | None) -> None:
        """Record which checkpoint the run uses."""
        link = {"checkpoint": checkpoint_uuid, "model": model_name, "version": version}
        data = canonical_json(link)
        path = f"{LINKS}/{sha256_hex(data)[:16]}.json"
        with_retries(lambda: self._storage.put(path, data))
        self._tracker.link_run(self._run_id, self._storage.url, checkpoint_uuid, model_name, version)

    def deliver(self, reports: Sequence[Mapping[str, Any]]) -> None:
        """Pass this worker's committed reports on to the tracker and to whoever listens."""
        self.restore(reports)
        self.announce(reports)

    def announce(self, reports: Sequence[Mapping[str, Any]]) -> None:
        """Tell whoever listens of reports that the tracker has."""
        for report in reports:
            self._announce(report["group"], report["steps_completed"], report["metrics"])

    def restore(self, reports: Sequence[Mapping[str, Any]]) -> None:
        """Pass anyone's committed reports on to the tracker; repeating it changes nothing."""
        restore_reports(self._tracker, self._run_id, reports, retried=retried_chunks(self._storage) > 0)


def report_path(report: Mapping[str, Any]) -> str:
    """Return where a report from outside of chunks is stored: the same for the same metrics at the same step."""
    group, steps, rank = report["group"], report["steps_completed"], report["rank"]
    key = sha256_hex(canonical_json([group, steps, sorted(report["metrics"]), rank]))[:16]
    # The key tells reports apart; the rest is for people, in characters and a length that every store takes.
    shown = re.sub(r"[^A-Za-z0-9_-]+", "-", group)[:40]
    return f"{REPORTS}/{shown}.{steps}.{key}.json"


def read_report(data: bytes, path: str) -> dict[str, Any]:
    """Return a stored report.

    Raises:
        CorruptRunError: It is damaged, or belongs elsewhere.
    """
    report = unseal(data, path)
    if not {"group", "steps_completed", "rank", "metrics"} <= report.keys() or report_path(report) != path:
        raise CorruptRunError(f"{path} is damaged: it is another document.")
    return {key: value for key, value in report.items() if key != "sha256"}


def restore_reports(
    tracker: Tracker, run_id: str, reports: Sequence[Mapping[str, Any]], *, retried: bool = False
) -> None:
    """Pass a run's committed reports on to a tracker; repeating it changes nothing.

    Args:
        tracker: The tracker.
        run_id: The run.
        reports: Its reports.
        retried: Whether they may be those of a retry. What it reports anew at the same step can differ, now that what
            made samples fail is mended; the tracker then keeps what was told first.
    """
    for report in reports:
        record = MetricsRecord(
            run_id=run_id,
            group=report["group"],
            steps_completed=report["steps_completed"],
            metrics=report["metrics"],
            end_time=report["time"],
            rank=report["rank"],
        )
        try:
            tracker.report(record)
        except ModelError as error:
            if not retried:
                raise
            warnings.warn(f"{error} That stands, not what the retry reported.", stacklevel=2)
