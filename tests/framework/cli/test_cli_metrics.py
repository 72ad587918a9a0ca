"""``batchmill metrics`` on a ledger that real runs wrote."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from metric_runs import HOSTILE, MATRIX, THIRD, TURNED

from batchmill import MetricsRecord, client

Invoke = Callable[..., Result]


def rows_of(done: Result) -> list[dict[str, Any]]:
    assert done.exit_code == 0, done.output
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


class TestRows:
    def test_all(self, invoke: Invoke, reported: Path) -> None:
        rows = rows_of(invoke("metrics", "--json"))
        keys = [(row["run"], row["group"], row["step"]) for row in rows]
        assert keys == sorted(keys)
        assert len(keys) == 6 * 3
        used = {row["run"]: [(v["model"], v["version"]) for v in row["versions"]] for row in rows}
        two = [("digits", 2)]
        assert used == {
            "alone": [],
            "base": [("digits", 1)],
            "cut": two,
            "earlier": two,
            "tonight": two,
            "wider": two,
        }

    def test_values_are_whole(self, invoke: Invoke, reported: Path) -> None:
        (row,) = rows_of(invoke("metrics", "--run", "base", "--group", "inference", "--metric", "loss", "--json"))
        assert row["metrics"] == {"loss": THIRD}
        assert row["time"].endswith("+00:00")
        (row,) = rows_of(invoke("metrics", "--run", "base", "--metric", "matrix", "--metric", "loss", "--json"))
        assert row["metrics"] == {"loss": THIRD, "matrix": MATRIX}

    @pytest.mark.parametrize(
        ("filters", "runs"),
        [
            (["--model", "digits"], {"base", "earlier", "tonight", "cut", "wider"}),
            (["--model", "digits", "--version", "1"], {"base"}),
            (["--model", "digits", "--version", "production"], {"base"}),
            (["--model", "digits", "--version", "latest", "--group", "inference"], {"earlier", "tonight", "cut"}),
            (["--model", "unused"], set()),
            (["--group", "wide"], {"wider"}),
            (["--run", "tonight", "--model", "digits", "--version", "1"], set()),
            (["--metric", "matrix"], {"base", "tonight"}),
        ],
    )
    def test_filters(self, invoke: Invoke, reported: Path, filters: list[str], runs: set[str]) -> None:
        assert {row["run"] for row in rows_of(invoke("metrics", *filters, "--json"))} == runs

    def test_a_checkpoint(self, invoke: Invoke, reported: Path) -> None:
        client.connect(str(reported / "runs"))
        try:
            uuid = client.get_model("digits").get_version(1).checkpoint.uuid
        finally:
            client.disconnect()
        assert {row["run"] for row in rows_of(invoke("metrics", "--checkpoint", uuid, "--json"))} == {"base"}

    def test_a_run_elsewhere(self, invoke: Invoke, reported: Path, folder: Path) -> None:
        rows = rows_of(invoke("metrics", "--run", str(reported / "runs" / "base"), "--json"))
        assert {row["run"] for row in rows} == {"base"}
        assert rows_of(invoke("metrics", "--run", "base", "--output", str(reported / "runs"), "--json")) == rows
        assert rows_of(invoke("metrics", "--run", "base", "--json")) == []
        assert not list(folder.iterdir()), "reading leaves nothing behind"

    def test_a_ledger_elsewhere(self, invoke: Invoke, reported: Path, folder: Path) -> None:
        path = reported / "runs" / "batchmill.sqlite"
        rows = rows_of(invoke("metrics", "--tracker-setting", f"path={path}", "--group", "wide", "--json"))
        assert {row["run"] for row in rows} == {"wider"}

    def test_the_table(self, invoke: Invoke, reported: Path) -> None:
        shown = invoke("metrics", "--group", "inference", "--model", "digits").stdout.splitlines()
        assert shown[0].split() == ["run", "group", "step", "model", "accuracy", "loss", "matrix", "name"]
        by_key = {tuple(line.split()[:3]): line for line in shown[1:-1]}
        best = by_key["base", "inference", "2"]
        assert "digits:1" in best
        assert "0.99 *" in best
        assert "0.333333 *" in best
        assert "list of 10 x 10" in best
        assert "*" not in by_key["tonight", "inference", "2"]
        assert shown[-1] == "* best in its group; lower is better: loss"

    def test_ranks_and_several_versions_are_told_apart(self, invoke: Invoke, folder: Path) -> None:
        tracker = client.connect("runs")
        try:
            for name in ("a", "b"):
                weights = folder / name
                weights.write_text(name)
                version = client.create_model(name).register_version(weights)
                tracker.link_run("both", "runs/both", version.checkpoint.uuid, name, 1)
            for rank in (0, 1):
                tracker.report(MetricsRecord("both", "speed", 5, {"latency_ms": 3.5 - rank}, "2026-01-01", rank))
        finally:
            client.disconnect()
        header, first, second, _ = invoke("metrics").stdout.splitlines()
        assert header.split() == ["run", "group", "step", "rank", "model", "latency_ms"]
        assert first.split() == ["both", "speed", "5", "0", "a:1", "b:1", "3.5"]
        assert second.split() == ["both", "speed", "5", "1", "a:1", "b:1", "2.5", "*"]
        (row, _) = rows_of(invoke("metrics", "--model", "b", "--json"))
        assert row["versions"] == [{"model": "b", "version": 1}]

    def test_directions_are_taken_from_the_command_line(self, invoke: Invoke, reported: Path) -> None:
        filters = ["--group", "inference", "--metric", "loss", "--metric", "accuracy"]
        shown = invoke("metrics", *filters, "--higher", "loss", "--lower", "accuracy").stdout
        assert shown.count("9 *") == 2
        assert "0.05 *" in shown
        assert "lower is better: accuracy\n" in shown

    def test_hostile_names_and_values(self, invoke: Invoke, reported: Path) -> None:
        for form in ([], ["--csv"], ["--json"], ["--jsonl"]):
            done = invoke("metrics", *form)
            assert done.exit_code == 0
            assert not {"\x1b", "\r", "\u202e"} & set(done.stdout)
            assert "evil" in done.stdout
        (row,) = rows_of(invoke("metrics", "--metric", HOSTILE, "--json"))
        assert (row["group"], row["metrics"]) == (TURNED, {HOSTILE: "value\x1b[31m\r\nnext"})

    def test_csv(self, invoke: Invoke, reported: Path) -> None:
        done = invoke("metrics", "--model", "digits", "--group", "inference", "--csv")
        assert done.exit_code == 0
        read = list(csv.DictReader(io.StringIO(done.stdout, newline=""), strict=True))
        (base,) = [row for row in read if (row["run"], row["step"]) == ("base", "2")]
        assert (base["model"], base["version"], base["rank"], base["name"]) == ("digits", "1", "0", "")
        assert float(base["loss"]) == THIRD
        assert json.loads(base["matrix"]) == MATRIX
        assert len(read) == 2 * 4

    def test_json_lines(self, invoke: Invoke, reported: Path) -> None:
        lines = invoke("metrics", "--jsonl").stdout.splitlines()
        assert [json.loads(line) for line in lines] == rows_of(invoke("metrics", "--json"))

    @pytest.mark.parametrize(
        ("form", "document"),
        [("--json", "[]\n"), ("--jsonl", ""), ("--csv", "run,group,step,rank,model,version,time\n")],
    )
    def test_nothing_found(self, invoke: Invoke, reported: Path, form: str, document: str) -> None:
        done = invoke("metrics", "--group", "inferrence", form)
        assert (done.exit_code, done.stdout) == (0, document)
        for part in ("No metrics match in 'runs'", "Groups: ", "inference", "Models: digits, unused.", "alone, base"):
            assert part in done.stderr
        assert "\u202e" not in done.stderr
        assert invoke("metrics", "--group", "inferrence").stdout == done.stderr

    def test_a_metric_that_nobody_reported(self, invoke: Invoke, reported: Path) -> None:
        shown = invoke("metrics", "--group", "wide", "--metric", "acuracy").stdout
        assert "Metrics in what the other options leave: accuracy." in shown

    def test_where_nothing_is(self, invoke: Invoke, folder: Path) -> None:
        done = invoke("metrics")
        assert (done.exit_code, done.stdout) == (
            0,
            "No metrics match in 'runs'. Groups: none. Models: none. Runs: none.\n",
        )
        assert not list(folder.iterdir())

    @pytest.mark.parametrize(
        ("options", "fault"),
        [
            (["--version", "1"], "--version says nothing without --model"),
            (["--model", "digit"], "Did you mean 'digits'?"),
            (["--model", "a/b"], "A model's name has"),
            (["--model", "digits", "--version", "9"], "has no version '9'"),
            (["--checkpoint", "nope"], "There is no checkpoint 'nope'"),
            (["--lower", "a", "--higher", "a"], "not both"),
            (["--lower", "acuracy"], "Did you mean 'accuracy'?"),
            (["--tracker", "sqllite"], "There is no tracker named 'sqllite'"),
            (["--tracker-setting", "path"], "is no KEY=VALUE"),
            (["--tracker-setting", "paht=x"], "Did you mean 'path'?"),
            (["compar", "a", "b"], "There is no command 'compar'. Did you mean 'compare'?"),
            (["--output", "x", "compare", "a", "b"], "--output stands before `compare`, where it has no effect"),
        ],
    )
    def test_wrong_use(self, invoke: Invoke, reported: Path, options: list[str], fault: str) -> None:
        done = invoke("metrics", *options)
        assert (done.exit_code, done.stdout) == (2, "")
        assert fault in done.stderr
