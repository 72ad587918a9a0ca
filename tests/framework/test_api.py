import json
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.data import SequentialSampler, TensorDataset

from batchmill import (
    AlreadyRunningError,
    ConfigError,
    ConfigMismatchError,
    DistributedContext,
    PluginError,
    Reducer,
    RunRequest,
    Selection,
    TorchBatchProcessor,
    UnknownComponentError,
    hookimpl,
    read_outputs,
    run,
    torch_batch_process,
)
from batchmill.api import plan
from batchmill.contracts.launcher import Launcher


class Doubling(TorchBatchProcessor):
    def __init__(self, context):
        self.context = context
        self.total = context.wrap_reducer(Reducer.SUM, "total")
        Doubling.last = self

    def process_batch(self, batch, batch_idx):
        self.total.update(batch[0].sum())
        return {"y": batch[0] * 2}


DATA = TensorDataset(torch.arange(50.0))


@pytest.fixture
def output(tmp_path):
    return tmp_path / "runs"


class StopAfter:
    """A callback that stops a run after some checkpoints."""

    def __init__(self, checkpoints):
        self.left = checkpoints

    @hookimpl
    def should_stop(self):
        self.left -= 1
        return "enough" if self.left == 0 else None


# --- torch_batch_process: what it accepts ---


def test_the_least_that_can_be_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = torch_batch_process(Doubling, DATA)
    assert result.complete and result.metrics == {"total": 1225.0}
    assert Path(result.path).parent == tmp_path / "runs"
    manifest = json.loads(Path(result.path, "run.json").read_text())
    assert manifest["batch_size"] == 1
    assert read_outputs(result)["y"].to_pylist() == [2.0 * i for i in range(50)]


def test_every_run_without_an_id_is_a_new_one(output):
    first, second = (torch_batch_process(Doubling, DATA, 10, output=output) for _ in range(2))
    assert first.run_id != second.run_id


def test_components_by_name_with_settings_and_as_objects(output):
    result = torch_batch_process(
        Doubling,
        DATA,
        10,
        output=output,
        run_id="x",
        writer=Selection("parquet", {"compression": "zstd"}),
        claims="dynamic",
        reducers={"largest": Selection("max", {"column": "y"})},
        callbacks={"stop": StopAfter(2)},
    )
    assert (result.complete, result.stop_reason) == (False, "enough")
    again = torch_batch_process(
        Doubling,
        DATA,
        10,
        output=output,
        run_id="x",
        writer=Selection("parquet", {"compression": "zstd"}),
        claims="dynamic",
        reducers={"largest": Selection("max", {"column": "y"})},
        callbacks=["logging"],
    )
    assert again.metrics == {"largest": 98.0, "total": 1225.0}


def test_results_may_live_in_memory():
    result = torch_batch_process(Doubling, DATA, 10, output="memory://api-test", run_id="x")
    assert result.path == "memory://api-test/x"
    assert read_outputs("memory://api-test/x").num_rows == 50


def test_hparams_limit_and_device_reach_the_processor(output):
    result = torch_batch_process(
        Doubling, DATA, 10, output=output, hparams={"lr": 0.5}, limit=25, device="cpu", seed=3, threads=2
    )
    assert Doubling.last.context.get_hparams() == {"lr": 0.5}
    assert (result.samples, Doubling.last.context.device.type) == (25, "cpu")


# --- torch_batch_process: what it refuses ---


@pytest.mark.parametrize("interval", [0, -1, 2.5, "3", True, None])
def test_a_checkpoint_interval_that_is_no_positive_integer_is_refused(output, interval):
    with pytest.raises(ValueError, match=f"checkpoint_interval should be a positive integer, but is {interval!r}"):
        torch_batch_process(Doubling, DATA, 10, checkpoint_interval=interval, output=output)


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        ({"shuffle": True}, "shuffle=True"),
        ({"drop_last": True}, "drop_last=True"),
        ({"sampler": SequentialSampler(DATA)}, "sampler"),
        ({"sampler": SequentialSampler([])}, "sampler"),
        ({"batch_sampler": []}, "batch_sampler"),
        ({"batch_size": 5}, "batch_size is given twice"),
    ],
)
def test_loader_arguments_that_would_change_what_is_read_are_refused(output, kwargs, named):
    before = dict(kwargs)
    with pytest.raises(ValueError, match=named):
        torch_batch_process(Doubling, DATA, 10, dataloader_kwargs=kwargs, output=output)
    assert kwargs == before and not output.exists()


def test_loader_arguments_that_change_nothing_are_accepted(output):
    kwargs = {"shuffle": False, "drop_last": False, "sampler": None, "batch_sampler": None, "batch_size": 10}
    assert torch_batch_process(Doubling, DATA, dataloader_kwargs=kwargs, output=output).complete
    assert set(kwargs) == {"shuffle", "drop_last", "sampler", "batch_sampler", "batch_size"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataloader_kwargs": {"num_worker": 2}}, "num_worker"),
        ({"batch_size": 0}, "batch_size should be a positive integer"),
        ({"batch_size": 0, "max_batches": 2}, "batch_size should be a positive integer"),
        ({"batch_size": "8", "max_batches": 2}, "batch_size should be a positive integer"),
        ({"limit": 0, "max_batches": 2}, "limit should be a positive integer"),
        ({"limit": -5}, "limit should be a positive integer"),
        ({"run_id": "a/b"}, "cannot name a run"),
        ({"device": "gpu"}, "device 'gpu' is not a torch device"),
        ({"writer": "parket"}, "no writer named 'parket'. Did you mean 'parquet'"),
        ({"claims": "statik"}, "no claims named 'statik'. Did you mean 'static'"),
        ({"callbacks": ["progres"]}, "no callback named 'progres'. Did you mean 'progress'"),
        ({"callbacks": "progress"}, "callbacks is the string 'progress'; expected a list"),
        ({"hparams": {"net": object()}}, r"hparams\.net is .* not JSON"),
        ({"output": "ftp://host/runs"}, "no storage named 'ftp'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_arguments_that_cannot_be_run_are_refused_by_name(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        torch_batch_process(Doubling, DATA, **{"batch_size": 10, **arguments})


class NoProcessor:
    def __init__(self, context):
        pass


@pytest.mark.parametrize("processor", [NoProcessor, lambda context: None, "torch_module", None])
def test_what_is_no_processor_class_is_refused_at_once(output, processor):
    with pytest.raises(ConfigError, match=r"expected a subclass of batchmill\.TorchBatchProcessor"):
        torch_batch_process(processor, DATA, 10, output=output)
    assert not output.exists()


def test_a_processor_with_missing_methods_is_refused(output):
    class Half(TorchBatchProcessor):
        def __init__(self, context):
            pass

    with pytest.raises(ConfigError, match=r"Half .*abstract.*process_batch"):
        torch_batch_process(Half, DATA, 10, output=output)


def test_a_size_that_is_not_positive_is_ignored_with_a_warning_at_the_callers_line(output):
    for given in (0, -3, 6):
        with pytest.warns(UserWarning, match="Ignoring this argument and iterate over entire dataset once") as told:
            result = torch_batch_process(Doubling, DATA, 10, max_batches=given, output=output)
        assert result.samples == 50
        assert told[0].filename == __file__


def test_max_batches_counts_the_batches_of_each_worker(output):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch_batch_process(Doubling, DATA, 10, max_batches=2, output=output).samples == 20
        assert torch_batch_process(Doubling, DATA, 10, max_batches=5, output=output).samples == 50


# --- resuming ---


def test_the_same_run_id_resumes_with_every_argument_the_same(output):
    first = torch_batch_process(Doubling, DATA, 5, output=output, run_id="x", callbacks={"stop": StopAfter(3)})
    assert (first.complete, first.samples, first.exit_code) == (False, 30, 75)
    second = torch_batch_process(Doubling, DATA, 5, output=output, run_id="x")
    assert (second.complete, second.samples, second.metrics, second.exit_code) == (True, 50, {"total": 1225.0}, 0)


def test_max_batches_may_be_given_again_on_any_number_of_workers(output, monkeypatch):
    arguments = {"output": output, "run_id": "x", "max_batches": 8}
    first = torch_batch_process(Doubling, DATA, 5, **arguments, callbacks={"stop": StopAfter(2)})
    assert first.coverage == pytest.approx(10 / 40)
    monkeypatch.setattr("batchmill.engine.run.TAKEOVER_PATIENCE", 0.0)  # rank 1 never comes
    with pytest.warns(UserWarning, match="max_batches=8"):  # more than a share of two workers
        second = torch_batch_process(Doubling, DATA, 5, **arguments, distributed_context=DistributedContext(0, 2))
    assert (second.complete, second.samples) == (True, 40)


def test_a_resume_with_other_data_is_refused_with_a_list(output):
    torch_batch_process(Doubling, DATA, 5, output=output, run_id="x", callbacks={"stop": StopAfter(1)})
    other = TensorDataset(torch.arange(49.0))
    with pytest.raises(ConfigMismatchError, match=r"dataset\.length: 50 in the run, 49 now"):
        torch_batch_process(Doubling, other, 5, output=output, run_id="x")


def test_a_second_launcher_on_the_same_run_is_told(output):
    class Calling(Doubling):
        def process_batch(self, batch, batch_idx):
            if batch_idx == 0:
                with pytest.raises(AlreadyRunningError, match="Another launcher is working on run"):
                    torch_batch_process(Calling, DATA, 5, output=output, run_id="x")
            return super().process_batch(batch, batch_idx)

    assert torch_batch_process(Calling, DATA, 5, output=output, run_id="x").complete


# --- composed runs ---


@pytest.fixture
def numbers(tmp_path):
    path = tmp_path / "numbers.jsonl"
    path.write_text("".join(json.dumps({"x": i}) + "\n" for i in range(20)))
    return path


def overrides(output, numbers, *more):
    return [
        "dataset=jsonl",
        f"dataset.path={numbers}",
        f"output={output}",
        "run_id=x",
        "batch_size=4",
        "checkpoint_interval=1",
        "callbacks=[]",
        *more,
    ]


class Squaring(TorchBatchProcessor):
    def __init__(self, context):
        self.count = context.wrap_reducer(Reducer.SUM, "rows")

    def process_batch(self, batch, batch_idx):
        self.count.update(len(batch["x"]))
        return {"square": [x * x for x in map(int, batch["x"])]}


def test_a_composed_run_takes_objects_in_place_of_names(output, numbers):
    result = run(overrides(output, numbers, "launcher=in_process"), processor=Squaring)
    assert result.metrics == {"rows": 20.0}
    assert read_outputs(result)["square"].to_pylist() == [i * i for i in range(20)]


def test_a_request_is_run_as_it_is(output):
    request = RunRequest(
        processor=Selection("nobody"),
        dataset=Selection("nothing"),
        launcher=Selection("in_process"),
        output=str(output),
        batch_size=10,
    )
    result = run(request, processor=Doubling, dataset=DATA)
    assert result.complete and result.metrics == {"total": 1225.0}
    with pytest.raises(UnknownComponentError, match="no processor named 'nobody'"):
        run(request, dataset=DATA)


def test_what_is_no_launcher_is_refused(output):
    request = RunRequest(Selection("", instance=Doubling), Selection("", instance=DATA), output=str(output))
    with pytest.raises(PluginError, match=r"is a list; expected batchmill\.Launcher"):
        run(replace(request, launcher=Selection("", instance=[1])))


def test_a_launcher_may_be_an_object(output):
    class Recording(Launcher):
        def launch(self, request):
            self.request = request
            return "launched"

    launcher = Recording()
    request = RunRequest(
        Selection("", instance=Doubling), Selection("", instance=DATA), launcher=Selection("", instance=launcher)
    )
    from batchmill.api import run_request

    assert run_request(request) == "launched" and launcher.request is request


def test_a_plan_says_what_a_run_would_do_and_creates_nothing(output):
    request = RunRequest(
        Selection("", instance=Doubling),
        Selection("", instance=DATA),
        launcher=Selection("local", {"nproc": 3}),
        output=str(output),
        batch_size=10,
    )
    found = plan(request)
    assert (found["samples"], found["batches"], found["workers"]) == (50, 5, 3)
    assert found["path"].startswith(str(output)) and not output.exists()


def test_importing_the_api_needs_no_torch():
    code = "import sys, batchmill.api; raise SystemExit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert done.returncode == 0
