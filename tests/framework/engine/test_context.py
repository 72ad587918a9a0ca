import warnings
from collections import OrderedDict, defaultdict, namedtuple
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from batchmill import ConfigError, DistributedContext, Kind, MetricReducer, ModelError, OutputError, ReducerError
from batchmill.contracts.profiler import DISABLED_PROFILER
from batchmill.engine.context import TorchBatchProcessorContext, choose_device, default_device
from batchmill.engine.reduction import ReducerSet


class Sideline:
    """Keeps what it is handed."""

    def __init__(self):
        self.files, self.reports, self.links = [], [], []

    def add_files(self, files):
        self.files.append(dict(files))

    def report(self, *report):
        self.reports.append(report)

    def link(self, *link):
        self.links.append(link)


@pytest.fixture
def sideline():
    return Sideline()


@pytest.fixture
def context(sideline, tmp_path):
    return make_context(sideline, tmp_path)


def make_context(sideline, tmp_path, device="cpu", **values):
    return TorchBatchProcessorContext(
        run_id="digits",
        device=torch.device(device),
        distributed=DistributedContext(1, 3),
        hparams={"lr": 0.1},
        reducers=ReducerSet(),
        sideline=sideline,
        profiler=DISABLED_PROFILER,
        tensorboard_path=tmp_path / "tensorboard" / "rank-00001",
        resolve=lambda kind, name: (kind, name),
        **values,
    )


@pytest.fixture
def elsewhere(sideline, tmp_path):
    """A context whose device is not where data is made, on any machine."""
    return make_context(sideline, tmp_path, "meta")


Pair = namedtuple("Pair", ["x", "y"])


class Typed(NamedTuple):
    first: torch.Tensor
    second: dict


def test_tensors_are_moved_wherever_they_are(elsewhere):
    data = {
        "x": torch.ones(2),
        "nested": [torch.ones(1), (torch.ones(3), {"deep": torch.ones(4)})],
        "pair": Pair(torch.ones(1), Typed(torch.ones(2), {"z": torch.ones(3)})),
        "plain": ["text", b"bytes", 1, 2.5, True, None],
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        moved = elsewhere.to_device(data)
    found = [moved["x"], moved["nested"][0], moved["nested"][1][0], moved["nested"][1][1]["deep"], moved["pair"].x]
    found += [moved["pair"].y.first, moved["pair"].y.second["z"]]
    assert {tensor.device.type for tensor in found} == {"meta"}
    assert type(moved["pair"]) is Pair and type(moved["pair"].y) is Typed and type(moved["nested"][1]) is tuple
    assert moved["plain"] == ["text", b"bytes", 1, 2.5, True, None]
    assert data["x"].device.type == "cpu", "the caller's data stays as it is"


def test_values_are_kept(context):
    data = {"x": torch.arange(3), "y": [torch.tensor(1.5)]}
    moved = context.to_device(data)
    assert torch.equal(moved["x"], torch.arange(3)) and moved["y"][0].item() == 1.5


@pytest.mark.parametrize(
    "mapping",
    [OrderedDict(a=torch.ones(1)), defaultdict(list, a=torch.ones(1)), MappingProxyType({"a": torch.ones(1)})],
    ids=lambda value: type(value).__name__,
)
def test_mappings_of_any_kind_are_moved(elsewhere, mapping):
    moved = elsewhere.to_device(mapping)
    assert moved["a"].device.type == "meta"
    assert isinstance(moved, (type(mapping), dict))


class Movable:
    """Knows how to move itself, as a batch of a tokenizer does."""

    device = "cpu"

    def to(self, device):
        moved = type(self)()
        moved.device = device
        return moved


class MovableTuple(tuple):
    def to(self, device):
        return MovableTuple([*self, str(device)])


class MovableDict(dict):
    def to(self, device):
        return MovableDict(self, moved_to=str(device))


def test_what_can_move_itself_does(elsewhere):
    assert elsewhere.to_device(Movable()).device == torch.device("meta")
    assert elsewhere.to_device(MovableTuple([1])) == (1, "meta")
    assert elsewhere.to_device({"inner": MovableDict(a=1)})["inner"]["moved_to"] == "meta"


def test_a_packed_sequence_keeps_its_lengths_on_the_cpu(elsewhere):
    packed = pack_sequence([torch.ones(3), torch.ones(2)])
    moved = elsewhere.to_device(packed)
    assert isinstance(moved, PackedSequence)
    assert moved.data.device.type == "meta" and moved.batch_sizes.device.type == "cpu"


class Strange:
    pass


class Stranger:
    pass


def test_what_cannot_be_moved_is_told_once_per_type(context):
    strange = Strange()
    with pytest.warns(UserWarning, match="Strange, which cannot be moved; it stays as is") as told:
        moved = context.to_device([strange, {"again": Strange()}, Strange()])
    assert moved[0] is strange and len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        context.to_device(Strange())
    with pytest.warns(UserWarning, match="Stranger"):
        context.to_device(Stranger())


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.moves = []

    def to(self, *args, **kwargs):
        self.moves.append(args)
        return super().to(*args, **kwargs)


def test_a_model_for_inference_is_in_evaluation_mode_on_the_device(context):
    model = Dropping().train()
    assert context.prepare_model_for_inference(model) is model
    assert not model.training and not model.layer.training
    assert model.moves == [(context.device,)]


def test_a_model_is_moved_to_another_device(elsewhere):
    assert elsewhere.prepare_model_for_inference(nn.Linear(2, 2)).weight.device.type == "meta"


def test_what_is_in_the_upload_directory_is_kept(context, sideline):
    with context.upload_path() as path:
        assert isinstance(path, Path) and list(path.iterdir()) == []
        (path / "a.txt").write_text("A")
        (path / "deep" / "er").mkdir(parents=True)
        (path / "deep" / "er" / "b").write_bytes(b"\0")
    assert sideline.files == [{"a.txt": b"A", "deep/er/b": b"\0"}]
    assert not path.exists()


def test_a_failing_body_leaves_nothing(context, sideline):
    with pytest.raises(ValueError, match="no"), context.upload_path() as path:
        (path / "a.txt").write_text("A")
        raise ValueError("no")
    assert sideline.files == [] and not path.exists()


def test_a_link_in_the_upload_directory_is_not_passed_over(context, sideline, tmp_path):
    (tmp_path / "weights").write_text("far away")
    for target in (tmp_path / "weights", tmp_path, tmp_path / "nowhere"):
        with pytest.raises(OutputError, match=r"upload_path\(\) holds 'sub/link', which is a symbolic link"):
            with context.upload_path() as path:
                (path / "sub").mkdir()
                (path / "sub" / "link").symlink_to(target)
    assert sideline.files == []


def test_each_block_has_a_directory_of_its_own(context):
    with context.upload_path() as first, context.upload_path() as second:
        assert first != second


class Count(MetricReducer):
    def reset(self):
        pass

    def per_slot_reduce(self):
        return 0

    def cross_slot_reduce(self, per_slot_metrics):
        return 0


def test_a_reducer_is_wrapped_once(context):
    reducer = context.wrap_reducer(Count(), name="count")
    assert isinstance(reducer, Count)
    with pytest.raises(ReducerError, match="was wrapped before"):
        context.wrap_reducer(reducer, name="other")


def test_reports_and_links_go_to_the_side(context, sideline):
    context.report_metrics(group="g", steps_completed=3, metrics={"m": 1})
    assert sideline.reports == [("g", 3, {"m": 1})]

    class Checkpoint:
        uuid = "u-1"

    class Version:
        checkpoint, model_name, version = Checkpoint, "digits", 4

    context.report_task_using_checkpoint(Checkpoint)
    context.report_task_using_model_version(Version)
    assert sideline.links == [("u-1", None, None), ("u-1", "digits", 4)]


def test_where_the_worker_stands(context, tmp_path):
    assert (context.get_distributed_rank(), context.get_distributed_size()) == (1, 3)
    assert (context.run_id, context.device.type, context.checkpoint) == ("digits", "cpu", None)
    assert context.resolve(Kind.BUILDER, "net") == (Kind.BUILDER, "net")


def test_hparams_are_a_copy(context):
    context.get_hparams()["lr"] = 9
    assert context.get_hparams() == {"lr": 0.1}


def test_the_tensorboard_directory_is_made_when_it_is_asked_for(context, tmp_path):
    assert not (tmp_path / "tensorboard").exists()
    assert context.get_tensorboard_path() == tmp_path / "tensorboard" / "rank-00001"
    assert context.get_tensorboard_path().is_dir()


@pytest.fixture
def machine(monkeypatch):
    """Pretend that this machine has some CUDA devices, or MPS."""

    def pretend(cuda=0, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


@pytest.mark.parametrize(
    ("cuda", "mps", "local_rank", "expected"),
    [
        (0, False, 0, "cpu"),
        (0, False, 3, "cpu"),
        (0, True, 1, "mps"),
        (2, False, 0, "cuda:0"),
        (2, True, 1, "cuda:1"),
        (2, False, 2, "cuda:0"),
    ],
)
def test_the_default_device(machine, cuda, mps, local_rank, expected):
    machine(cuda, mps)
    assert default_device(local_rank) == torch.device(expected)
    assert choose_device("auto", local_rank) == torch.device(expected)


@pytest.mark.parametrize(
    ("name", "local_rank", "expected"),
    [("cpu", 1, "cpu"), ("cuda", 1, "cuda:1"), ("cuda", 2, "cuda:0"), ("cuda:0", 1, "cuda:0"), ("cuda:1", 0, "cuda:1")],
)
def test_a_device_is_chosen_by_name(machine, name, local_rank, expected):
    machine(cuda=2)
    assert choose_device(name, local_rank) == torch.device(expected)


@pytest.mark.parametrize(
    ("name", "cuda", "message"),
    [
        ("gpu", 2, "device 'gpu' is not a torch device; expected auto, cpu, cuda"),
        ("cuda", 0, "device 'cuda' is not there; this machine has 0 CUDA devices"),
        ("cuda:2", 2, "device 'cuda:2' is not there; this machine has 2 CUDA devices"),
        ("mps", 0, "device 'mps' is not there"),
        ("", 0, "is not a torch device"),
    ],
)
def test_a_device_that_is_not_there_is_refused(machine, name, cuda, message):
    machine(cuda)
    with pytest.raises(ConfigError, match=message):
        choose_device(name, 0)


def test_errors_of_reports_pass_through(tmp_path):
    class Refusing(Sideline):
        def report(self, *report):
            raise ModelError("reported before")

    with pytest.raises(ModelError, match="reported before"):
        make_context(Refusing(), tmp_path).report_metrics("g", 0, {"m": 1})
