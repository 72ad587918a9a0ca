from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

import batchmill
from batchmill import settings
from batchmill.contracts.run import Selection
from batchmill_plugins.callbacks._deadline import DeadlineCallback


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_minutes_count_from_the_start(clock: Clock) -> None:
    callback = DeadlineCallback(minutes=1.5, clock=clock)
    assert callback.should_stop(None) is None
    clock.now += 89.9
    assert callback.should_stop(None) is None
    clock.now += 0.1
    assert callback.should_stop(None) == "deadline: 1.5 minutes are over"


@pytest.mark.parametrize("at", [1_000_300, 1_000_300.0, "1000300", datetime.fromtimestamp(1_000_300, UTC).isoformat()])
def test_a_moment_with_its_margin(clock: Clock, at: Any) -> None:
    callback = DeadlineCallback(at=at, margin=100, clock=clock)
    clock.now += 199
    assert callback.should_stop(None) is None
    clock.now += 1
    assert callback.should_stop(None) == f"deadline: it is 100 s before {at}"


def test_a_moment_without_a_zone_is_this_machine_s(clock: Clock) -> None:
    at = datetime.fromtimestamp(1_000_060).isoformat()
    callback = DeadlineCallback(at=at, clock=clock)
    assert callback.should_stop(None) is not None
    clock.now -= 0.5
    assert callback.should_stop(None) is None


def test_a_file(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    callback = DeadlineCallback(file="notice", clock=clock)
    monkeypatch.chdir("/")
    assert callback.should_stop(None) is None
    (tmp_path / "notice").touch()
    assert callback.should_stop(None) == f"deadline: {tmp_path / 'notice'} is there"


def test_whatever_comes_first(tmp_path: Path, clock: Clock) -> None:
    callback = DeadlineCallback(minutes=10, at=clock.now + 120, margin=0, file=str(tmp_path / "x"), clock=clock)
    assert callback.should_stop(None) is None
    clock.now += 120
    assert "before" in str(callback.should_stop(None))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "has nothing to wait for: set callbacks.deadline.minutes, .at or .file"),
        ({"at": ""}, "has nothing to wait for"),
        ({"minutes": -1}, "minutes is -1; expected a number that is not negative"),
        ({"minutes": float("nan")}, "minutes is nan"),
        ({"at": 5, "margin": -2}, "margin is -2"),
        ({"at": "tomorrow"}, "at is 'tomorrow'; expected seconds since 1970, or a moment as in 2026-01-31T18:30"),
    ],
)
def test_mistakes(given: dict[str, Any], said: str) -> None:
    with pytest.raises(batchmill.ConfigError, match=re.escape(said)):
        DeadlineCallback(**given)


class Doubles(batchmill.TorchBatchProcessor):
    """Creates the file in the batch that it is told."""

    def __init__(self, context: batchmill.TorchBatchProcessorContext) -> None:
        self.file, self.batch = context.get_hparams()["file"], context.get_hparams()["batch"]

    def process_batch(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == self.batch:
            Path(self.file).touch()
        return {"x": 2 * batch[0]}


def test_a_run_stops_at_the_end_of_its_chunk_and_goes_on(tmp_path: Path) -> None:
    notice = tmp_path / "notice"

    def run(**selected: Any) -> batchmill.RunResult:
        return batchmill.torch_batch_process(
            Doubles,
            TensorDataset(torch.arange(40.0)),
            batch_size=2,
            checkpoint_interval=2,
            output=tmp_path / "runs",
            run_id="x",
            hparams={"file": str(notice), "batch": 5},
            callbacks={"deadline": Selection("deadline", selected)},
        )

    first = run(file=str(notice))
    assert (first.complete, first.exit_code, first.stop_reason) == (False, 75, f"deadline: {notice} is there")
    assert first.coverage == 12 / 40 and first.metrics == {}, "the chunk of batch 5 is the last"
    notice.unlink()
    second = run(minutes=60)
    assert second.complete
    assert batchmill.read_outputs(second)["x"].to_pylist() == [2.0 * i for i in range(40)]


def test_it_is_selected_by_name() -> None:
    given = ["processor=torch_module", "processor.builder=mlp", "dataset=jsonl", "dataset.path=x"]
    given += ["callbacks=[progress,deadline]", "callbacks.deadline.minutes=90", "callbacks.deadline.at=1800000000"]
    chosen = settings.compose(given).callbacks["deadline"]
    assert chosen.settings == {"minutes": 90.0, "at": 1800000000, "margin": 60.0, "file": ""}
    dated = settings.compose([*given, "callbacks.deadline.at='2026-01-31T18:30'"]).callbacks["deadline"]
    assert dated.settings["at"] == "2026-01-31T18:30"
